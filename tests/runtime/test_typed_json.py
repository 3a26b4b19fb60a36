"""JSON objects that anybody may have written are read as dataclasses."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from world_models.runtime import typed_json


@dataclasses.dataclass(frozen=True)
class Part:
    share: float
    edges: Sequence[float]


@dataclasses.dataclass(frozen=True)
class Whole:
    name: str | None
    sse: float | None
    count: int | None
    part: Part | None
    by_name: Mapping[str, float | None] | None
    parts: Mapping[str, Part] | None


VALUE = {
    "name": "a",
    "sse": 1.5,
    "count": 3,
    "part": {"share": 0.5, "edges": [0.0, 1.0]},
    "by_name": {"x": 1.0, "y": None},
    "parts": {"p": {"share": 0.25, "edges": []}},
}


def test_values_are_written_as_they_were_read():
    whole = typed_json.read(Whole, VALUE)
    assert whole == Whole("a", 1.5, 3, Part(0.5, [0.0, 1.0]), {"x": 1.0, "y": None}, {"p": Part(0.25, [])})
    assert json.dumps(typed_json.plain(whole)) == json.dumps(VALUE)


def test_missing_values_are_none_and_unknown_keys_are_left_out():
    assert typed_json.read(Whole, {"other": 3}) == Whole(None, None, None, None, None, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("name", 3), ("sse", "3"), ("sse", True), ("sse", float("nan")), ("sse", 10**400), ("count", 3.5)],
        *[("part", 3), ("part", {"share": 0.5}), ("part", {"share": 0.5, "edges": [0.0, "x"]}), ("by_name", [1.0])],
        *[("part", {"share": 0.5, "edges": 3}), ("parts", "x"), ("count", None), ("count", [])],
    ],
)
def test_a_value_of_another_type_is_none(name: str, value: Any):
    whole = typed_json.read(Whole, VALUE | {name: value})
    assert typed_json.plain(whole) == VALUE | {name: None}


def test_an_entry_of_another_type_is_left_out_of_named_values():
    whole = typed_json.read(Whole, {"parts": {"p": 3, "q": VALUE["part"]}, "by_name": {"x": "wrong"}})
    assert whole is not None and list(whole.parts or {}) == ["q"] and whole.by_name == {"x": None}


def test_integers_are_read_as_floats_and_whole_floats_as_integers():
    whole = typed_json.read(Whole, {"sse": 3, "count": 4.0})
    assert whole is not None and (type(whole.sse), type(whole.count)) == (float, int)


@pytest.mark.parametrize("value", [None, 3, "x", []])
def test_a_value_that_is_no_object_is_none(value: Any):
    assert typed_json.read(Whole, value) is None
