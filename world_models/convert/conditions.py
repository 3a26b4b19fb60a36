"""Conditions on episodes of rollouts, such as `seed=3,7`, `policy=brownian`, `return<0` or `length<50`."""

import dataclasses
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

CONDITION = re.compile(r"\s*(\w+)\s*(<=|>=|!=|<|>|=)\s*(.+?)\s*")
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
NAMES = {"seed": int, "policy": str, "return": float, "length": int}
"""What a condition may ask for, and its type. `length` is a number of steps."""


@dataclasses.dataclass(frozen=True)
class EpisodeFacts:
    """What a condition may ask of an episode.

    Attributes:
        seed: seed of the episode.
        policy: name of the policy that drove.
        earned: sum of the rewards, which a condition calls `return`.
        length: number of steps.
    """

    seed: int
    policy: str
    earned: float
    length: int

    def get(self, name: str) -> Any:
        """The value that a condition calls by this name."""
        return getattr(self, "earned" if name == "return" else name)


@dataclasses.dataclass(frozen=True)
class Condition:
    """One condition.

    Attributes:
        name: which value of an episode it asks for.
        sign: how the value is compared.
        values: what it is compared with; several values only for = and !=.
    """

    name: str
    sign: str
    values: tuple[Any, ...]

    def holds(self, episode: EpisodeFacts) -> bool:
        """Whether an episode meets it."""
        found = episode.get(self.name)
        if self.sign in COMPARE:
            return COMPARE[self.sign](found, self.values[0])
        return (found in self.values) == (self.sign == "=")


def parse(texts: Sequence[str], flag: str) -> tuple[Condition, ...]:
    """Read conditions.

    Args:
        texts: the conditions as a user writes them.
        flag: name of their flag, for messages.

    Raises:
        ValueError: one is no condition. The message says how to write it.

    Example:
        >>> parse(["seed=3,7"], "keep")
        (Condition(name='seed', sign='=', values=(3, 7)),)
    """
    return tuple(_parse(text, flag) for text in texts)


def _parse(text: str, flag: str) -> Condition:
    match = CONDITION.fullmatch(text)
    if match is None or match[1] not in NAMES:
        raise ValueError(
            f"{flag} is {text!r}; give a condition such as seed=3,7, policy=brownian, return<0 or length<50"
        )
    name, sign, rest = match.groups()
    parts = tuple(part.strip() for part in rest.split(","))
    if sign in COMPARE and (name == "policy" or len(parts) > 1):
        raise ValueError(f"{flag} is {text!r}; {sign} compares a seed, return or length with one number")
    try:
        return Condition(name, sign, tuple(map(NAMES[name], parts)))
    except ValueError:
        kind = "numbers" if NAMES[name] is float else "whole numbers"
        raise ValueError(f"{flag} is {text!r}; compare the {name} with {kind}") from None
