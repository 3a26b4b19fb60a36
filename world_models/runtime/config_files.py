"""The YAML files of settings that a person names: a path, or one of those that come with the package."""

import difflib
from pathlib import Path

from world_models.runtime import untrusted

PLACES = tuple(Path(__file__).parents[up] / "configs" for up in (1, 2))
"""Where ours lie: in an installed package, in a checkout."""


def find(name: str) -> Path:
    """The file that `--config` names: what lies at that path, else the one of ours of that name.

    Raises:
        ValueError: there is neither, or it is no file of settings; it is not opened.
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
    """The YAML files that come with the package, by the names that `--config` takes: `mnist/vae` and so on."""
    folder = next(filter(Path.is_dir, PLACES), None)
    files = sorted(folder.rglob("*.yaml")) if folder else []
    names = {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}  # type: ignore[arg-type]
    return {name: path for name, path in names.items() if not name.startswith("sweeps/")}  # which W&B reads
