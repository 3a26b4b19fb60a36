"""Errors for people: bad settings, and work that ends early."""

from typing import Any


class Stopped(RuntimeError):  # noqa: N818 - it is no error
    """Work ended early, such as on a full disk. The message says what a person can do; finished work is kept.

    Example:
        >>> from world_models import encode
        >>> try:
        ...     encode.main(["--data", "rollouts/carracing", "--vae", "runs/vae", "--out", "latents/carracing"])
        ... except Stopped as stopped:
        ...     print(f"not finished: {stopped}")
        /...latents/carracing: 6 episodes, 246 latents of 32 dimensions, ...
    """


def require(condition: bool, message: str) -> None:
    """Raise `ValueError(message)` unless the condition holds: the one-line bounds check of config dataclasses."""
    if not condition:
        raise ValueError(message)


def require_bounds(config: Any, part: str = "", **bounds: tuple[int, int]) -> None:
    """Check that fields of a config are numbers from the least to the most.

    Args:
        config: the dataclass.
        part: what stands before the fields' names on the command line, such as `vae.`.
        bounds: the least and the most of each field. The most is far beyond use; it keeps later sums within a machine.
    """
    for name, (least, most) in bounds.items():
        value = getattr(config, name)
        require(value >= least, f"{part}{name} is {value}; give {least} or more")
        require(value <= most, f"{part}{name} is {value}; give {most:,} at most")
