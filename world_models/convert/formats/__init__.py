"""The formats: a module for each, which is imported when it is used.

npz              read: a file per episode, as ctallec's or hardmaru's code writes it
images           read: a folder of pictures per episode
video            read: a file per episode
minari           read: a local Minari data set with image observations
lerobot          read: one camera of a local LeRobot data set
parquet_reading  read: rollouts that were written as Parquet
npz_writing      written: rollouts for ctallec's code
series           written: latents for hardmaru's code
parquet          written: rollouts or latents for Hugging Face datasets, pandas, polars, DuckDB
minari_writing   written: rollouts or latents as a Minari data set
lerobot_writing  written: rollouts as a LeRobot data set

To add a format that is read, write a module with two names, and add it to `READ`:

- `SUFFIXES`: how the paths of its files end, in lower case: suffixes, or names such as `/meta/info.json`;
- `find(root, files, config)`: gets the files with these endings, in natural order, and returns a `Source`
  (`world_models.convert.foreign`). It raises `ValueError` if they cannot be read with these settings.

To add a format that is written, write a module with a function `plan(data, out, config)`, which returns an `Export`
(`world_models.convert.exporting`), and add it to `WRITTEN`.
"""

import importlib
from pathlib import Path
from typing import Any

from world_models.convert import found_files
from world_models.convert.config import ConvertConfig
from world_models.convert.foreign import Source

READ = {
    "npz": "npz",
    "images": "images",
    "video": "video",
    "minari": "minari",
    "lerobot": "lerobot",
    "parquet": "parquet_reading",
}
"""The formats that become rollouts, and the module that reads each."""
WHOLE_FOLDERS = ("lerobot",)
"""Those of them whose folders hold files that would also be of another format, such as videos."""
WRITTEN = {
    "series": "series",
    "npz": "npz_writing",
    "parquet": "parquet",
    "minari": "minari_writing",
    "lerobot": "lerobot_writing",
}
"""The formats that rollouts or latents become, and the module that writes each."""


def module(name: str) -> Any:
    """Import one of these modules."""
    return importlib.import_module(f"{__name__}.{name}")


def find(config: ConvertConfig) -> tuple[str, Source]:
    """Find out what other people's data is at `config.data`.

    Returns:
        The name of the format, and what was found.

    Raises:
        ValueError: it is not of the format, of none that is known, or of several.
    """
    first, *others = config.sources
    if others:
        raise ValueError("data names several sources that are not all rollouts; convert each, then merge the rollouts")
    if config.format not in ("auto", *READ):
        raise ValueError(f"format {config.format} is made of rollouts or latents, and {first} holds none")
    path = Path(first)
    root, files = found_files.listed(path)
    by_format = {name: [file for file in files if _is_of(name, file)] for name in READ}
    present = [name for name in READ if by_format[name]]
    present = [name for name in present if name in WHOLE_FOLDERS] or present
    wanted = config.format if config.format != "auto" else present[0] if len(present) == 1 else None
    if wanted is None:
        raise ValueError(f"{path}: {_what_is_there(by_format)}")
    if not by_format[wanted]:
        raise ValueError(f"{path}: no file of format {wanted} ({', '.join(module(READ[wanted]).SUFFIXES)}) in it")
    return wanted, module(READ[wanted]).find(root, found_files.natural_order(by_format[wanted]), config)


def _is_of(name: str, file: str) -> bool:
    """Whether a file is of a format, by the end of its path."""
    return f"/{file}".lower().endswith(module(READ[name]).SUFFIXES)


def _what_is_there(by_format: dict[str, list[str]]) -> str:
    counts = [f"{len(files):,} of format {name}" for name, files in by_format.items() if files]
    if counts:
        return f"files of several formats ({', '.join(counts)}); choose one by --format"
    known = ", ".join(suffix for name in by_format for suffix in module(READ[name]).SUFFIXES)
    return f"neither rollouts nor latents, and no file that can be read ({known}); name a folder of such data"
