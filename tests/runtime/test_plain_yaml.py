"""YAML of settings may have each name only once, and null as W&B's agents write it."""

import math
from typing import Any

import pytest

from world_models.runtime import plain_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("2e5", 2e5),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("7", 7),
        ("None", None),
        ("null", None),
        ("", None),
        ("True", True),
        ("2026-11-25", "2026-11-25"),
        ("['a', 'b']", ["a", "b"]),
        ("{'z_dim': 8, 'variance': None}", {"z_dim": 8, "variance": None}),
        ("Nonesuch", "Nonesuch"),
    ],
)
def test_values_are_read_as_in_settings_files(text: str, value: Any):
    assert plain_yaml.load(text) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lr: 1\nseed: 2\nlr: 3\n", "lr occurs twice, again in line 3; keep one of them"),
        ("vae:\n  beta: 1\n  beta: 2\n", "beta occurs twice, again in line 3"),
        ("a: &a [x]\nb: *a\n", r"the alias \*a; write the value itself"),
        ("a: [1\n", r"not YAML \(line 2: "),
        ("a: \x00", "not YAML"),
        ("a: !!python/object/apply:os.system [ls]", "the tag "),
        ("[" * 5000, "nest"),
        ("9" * 5000, "not YAML|digits"),
    ],
)
def test_text_that_is_no_plain_yaml_is_refused_in_one_line(text: str, said: str):
    with pytest.raises(ValueError, match=said) as refusal:
        plain_yaml.load(text)
    assert len(str(refusal.value).splitlines()) == 1


def test_yaml_with_aliases_that_multiply_is_refused_at_the_first_alias():
    lines = ["a0: &a0 [lol, lol]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 30))]
    with pytest.raises(ValueError, match="the alias"):
        plain_yaml.load("\n".join(lines))
