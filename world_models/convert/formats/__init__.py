"""The formats: a module for each, which is imported when it is used.

npz     read: a file per episode, as ctallec's or hardmaru's code writes it
images  read: a folder of pictures per episode
video   read: a file per episode

A module that is read has `SUFFIXES` and `find(path, config)`, which returns a `Source` (`world_models.convert.foreign`).
To add a format, write such a module and name it in `READ`.
"""

import importlib
from typing import Any

READ = ("npz", "images", "video")
"""The formats that become rollouts."""


def module(name: str) -> Any:
    """Import the module of a format."""
    return importlib.import_module(f"{__name__}.{name}")
