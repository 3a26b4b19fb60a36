"""Errors for users: bad settings, and work that ends early."""

from typing import Any


class Stopped(RuntimeError):  # noqa: N818 - it is not an error in the program
    """Work ended early, for example because the disk is full. The message says what to do. Finished work is kept.

    Example:
        >>> from world_models import encode
        >>> try:
        ...     encode.main(["--data", "rollouts/carracing", "--vae", "runs/vae", "--out", "latents/carracing"])
        ... except Stopped as stopped:
        ...     print(f"not finished: {stopped}")
        /...latents/carracing: 6 episodes, 246 latents of 32 dimensions, ...
    """


def require(condition: bool, message: str) -> None:
    """Raise `ValueError(message)` unless the condition holds. Config dataclasses use it to check their values."""
    if not condition:
        raise ValueError(message)


def require_bounds(config: Any, part: str = "", **bounds: tuple[int, int]) -> None:
    """Check that fields of a config are within bounds.

    Args:
        config: the dataclass.
        part: prefix of the fields' names on the command line, such as `vae.`.
        bounds: smallest and largest value of each field. The largest is far above any useful value; it prevents
            overflow later.

    Raises:
        ValueError: a field is out of bounds.
    """
    for name, (least, most) in bounds.items():
        value = getattr(config, name)
        require(value >= least, f"{part}{name} is {value}; give {least} or more")
        require(value <= most, f"{part}{name} is {value}; give {most:,} at most")
