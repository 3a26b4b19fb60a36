"""Going on with a training: the learner's state on disk, and whether a run is the one that is asked for.

States are plain tensors and numbers loaded with `weights_only=True`: no file that a user names can run code.
"""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from world_models import files
from world_models.checkpoints import load_description
from world_models.config import flatten
from world_models.likelihoods import PAPER_VARIANCE

OF_OLDER_RUNS = {"vae.variance": PAPER_VARIANCE, "standardise": False, "init": "torch"}
"""What runs did that do not say it in their config; of other fields, what is usual today."""


def save_state(run: Path, state: Mapping[str, Any]) -> None:
    """Write state.pt: tensors and plain values, from which training goes on."""
    buffer = io.BytesIO()  # since on a full disk torch.save does not say why it fails
    torch.save(dict(state), buffer)
    files.write_bytes(run / "state.pt", buffer.getbuffer())


def load_state(run: Path) -> dict[str, Any]:
    """Read state.pt; it may hold nothing but tensors and plain values.

    Raises:
        ValueError: damaged, or holding code.
    """
    path = run / "state.pt"
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its unpickler met
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        line = f"{path}: no training state ({reason}); choose another --out, or delete it to start anew"
        raise ValueError(line) from None


def check_new(out: Path, resume: bool) -> None:
    """Refuse to start a run where there is one.

    Raises:
        ValueError: there is one, and going on with it was not asked for.
    """
    if (out / "config.yaml").exists() and not resume:
        raise ValueError(f"{out} holds a run already; give --resume true to go on with it, or choose another --out")


def load_run(out: Path, config: str, defaults: str, free: Sequence[str], data_digest: str) -> dict[str, Any] | None:
    """The saved state that a run goes on from, None for a new run.

    Args:
        out: the run's folder.
        config: the resolved config, as YAML.
        defaults: of the config's fields, as YAML, for those that the run's own config does not have yet.
        free: fields that may differ from those of the run.
        data_digest: of the rollouts to train on.

    Raises:
        ValueError: the folder holds a run that this is no resumption of.
    """
    if not (out / "config.yaml").exists():
        return None
    own, now, usual = (
        _fixed(out, text, free)
        for text in ((out / "config.yaml").read_text(encoding="utf-8", errors="replace"), config, defaults)
    )
    before = usual | OF_OLDER_RUNS | own
    changed = [name for name, value in now.items() if before.get(name) != value]
    if changed:
        found = "; ".join(f"{name} {before.get(name)}, not {now[name]}" for name in changed)
        unsaid = "".join(f" --{name} {json.dumps(before.get(name))}" for name in changed if name not in own)
        raise ValueError(
            f"{out} is a run with {found}: give --config {out}/config.yaml{unsaid} --resume true, or another --out"
        )
    if not (out / "state.pt").exists():
        return None
    if load_description(out, "data_digest")["data_digest"] != data_digest:
        raise ValueError(
            f"{out} was trained on other data than lies there now (was it extended?); choose another --out"
        )
    return load_state(out)


def _fixed(out: Path, text: str, free: Sequence[str]) -> dict[str, Any]:
    """The fields of a config that must not change in a run, those of its parts as `part.field`."""
    try:
        settings = yaml.safe_load(text)
    except yaml.YAMLError:
        settings = None
    if not isinstance(settings, dict):
        raise ValueError(f"{out / 'config.yaml'}: no config of a run; delete the folder or choose another --out")
    return {name: value for name, value in flatten(settings).items() if name.split(".")[0] not in free}
