"""The page: it is self-contained, names cannot become markup, and no script but ours may run."""

import base64
import hashlib
import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from world_models.explore import page
from world_models.explore.blobs import packed

TITLE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def text() -> str:
    contents = {
        "version": 1, "title": TITLE, "created": "now", "commit": "abc", "package_version": "0", "data": TITLE,
        "image": {"height": 64, "width": 64, "channels": 3}, "digits": None, "models": [], "episodes": [],
        "map": {"mean": [], "components": [], "explained": []}, "directions": [],
    }  # fmt: skip
    return page.render(contents, {"numbers": packed(np.arange(4, dtype=np.float32))})


def _policy(text: str) -> str:
    found = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert found
    return unescape(found.group(1))


def _sha256(part: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'"


def test_only_our_scripts_and_our_style_are_allowed(text: str):
    scripts = re.findall(r'<script id="script-[a-z]+">(.*?)</script>', text, re.S)
    styles = re.findall(r"<style>(.*?)</style>", text, re.S)
    allowed = {part.split()[0]: part.split()[1:] for part in _policy(text).split("; ")}
    assert len(scripts) == len(page.SCRIPTS) and len(styles) == 1
    assert allowed["script-src"] == [_sha256(script) for script in scripts]
    assert allowed["style-src"] == [_sha256(styles[0])]
    assert allowed["default-src"] == ["'none'"]


def test_no_source_of_the_policy_is_on_the_network(text: str):
    assert not re.search(r"https?:|\*|unsafe|'self'", _policy(text))


def _tags(text: str) -> list[str]:
    """The tags of the page, without what is in its scripts."""
    return re.findall(r"<[a-z][^>]*>", re.sub(r"(<(script|style)[^>]*>).*?</\2>", r"\1", text, flags=re.S))


def test_the_page_names_no_other_file(text: str):
    assert not [
        tag for tag in _tags(text) if re.search(r'^<(?:iframe|object|embed)|\s(?:src|srcset|href)="(?!data:|#)', tag)
    ]
    assert not re.search(r"@import|url\(", text)


def test_names_never_become_markup(text: str):
    assert "<img" not in text
    assert text.count("</script>") == len(page.SCRIPTS) + 2  # the scripts, the contents, and one array


def test_the_contents_are_read_back(text: str):
    found = re.search(r'<script type="application/json" id="explorer-contents">(.*?)</script>', text, re.S)
    assert found
    contents = json.loads(found.group(1))
    assert contents["title"] == TITLE
    assert contents["blobs"] == {"numbers": {"type": "float32", "shape": [4]}}


def test_the_page_has_no_style_or_handler_in_a_tag(text: str):
    assert not [tag for tag in _tags(text) if re.search(r"\s(?:style|on[a-z]+)\s*=", tag)]


def test_numbers_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        page.render({"title": "x", "value": float("nan")}, {})


def test_a_script_that_is_not_the_pages_does_not_run(chromium: Any, digits_page: Path):
    page = chromium.new_page()
    page.goto(digits_page.as_uri())
    add = "(part) => document.body.append(document.createRange().createContextualFragment(part))"
    for part in ("<script>window.other = 1</script>", "<img src='https://example.org/x' onerror='window.other = 1'>"):
        page.evaluate(add, part)
    page.evaluate("new Promise((resolve) => setTimeout(resolve, 50))")
    assert page.evaluate("window.other") is None
    page.close()
