"""HTML pages from templates: numbers are formatted, text is escaped, and a missing name is an error."""

import base64
import io

import jinja2
import numpy as np
import pytest
from PIL import Image

from world_models.drawing import pages


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [(1234.5, 2, "1,234.50"), (-7090.25, 1, "-7,090.2"), (0.0004, 3, "0.000"), (1234, 2, "1,234"), (812.4, 0, "812")],
)
def test_numbers_have_commas_and_only_floats_have_decimals(value: float, digits: int, shown: str):
    assert pages.number(value, digits) == shown


@pytest.mark.parametrize(("share", "digits", "shown"), [(0.625, 0, "62%"), (0.4444, 1, "44.4%"), (1.0, 0, "100%")])
def test_shares_are_shown_in_percent(share: float, digits: int, shown: str):
    assert pages.percent(share, digits) == shown


def test_a_picture_is_embedded_in_its_url():
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    head, body = pages.picture_url(picture).split(",")
    assert head == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(body)))), picture)


def test_a_clip_is_embedded_in_its_url():
    head, body = pages.picture_url(b"GIF89a not really").split(",")
    assert (head, base64.b64decode(body)) == ("data:image/gif;base64", b"GIF89a not really")


def test_a_name_that_a_template_uses_must_be_given():
    with pytest.raises(jinja2.UndefinedError, match="name"):
        pages.render("report.html")
