"""Finds YAML files of settings, by a path or by the name of a file that comes with the package."""

import difflib
from pathlib import Path

from world_models.runtime import untrusted

PLACES = tuple(Path(__file__).parents[up] / "configs" for up in (1, 2))
"""Folders of the package's own files: in an installed package, and in a checkout."""


def find(name: str) -> Path:
    """Find the file for `--config`: the file at this path, else the package's own file with this name.

    Raises:
        ValueError: there is no such file, or it is a folder or too large. The file is not opened.
    """
    path = Path(name)
    if not (name and path.exists()):
        return _one_of_ours(name)
    if path.is_dir():
        raise ValueError(f"--config {name}: a folder; name a YAML file")
    untrusted.is_file(path, untrusted.MAX_YAML_BYTES)
    return path


def _one_of_ours(name: str) -> Path:
    ours, wanted = shipped(), name.removesuffix(".yaml").removeprefix("configs/")
    if wanted in ours:
        return ours[wanted]
    near = difflib.get_close_matches(wanted, ours, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise ValueError(
        f"--config {name or 'empty'}: no such file{hint}; name a YAML file, or one of ours: {', '.join(ours)}"
    )


def shipped() -> dict[str, Path]:
    """The YAML files that come with the package, by their names for `--config`, such as `mnist/vae`."""
    folder = next(filter(Path.is_dir, PLACES), None)
    files = sorted(folder.rglob("*.yaml")) if folder else []
    names = {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}  # type: ignore[arg-type]
    return {name: path for name, path in names.items() if not name.startswith("sweeps/")}  # sweeps are for W&B
