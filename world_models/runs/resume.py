"""Resuming a training: the learner's state on disk, and the check that a run's config agrees with the new one.

States are plain tensors and numbers. They are loaded with `weights_only=True`, so the file cannot run code.
"""

import dataclasses
import io
import json
import math
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from world_models.runs import description, layout, records
from world_models.runs.description import TrainedOn
from world_models.runs.layout import CONFIG_FILE, flatten
from world_models.runtime import files, untrusted
from world_models.runtime.typed_json import Json
from world_models.vae.config import VAEConfig
from world_models.vae.likelihoods import PAPER_VARIANCE
from world_models.vae.model import VAE

MAX_STEPS = 10**12
NUM_SUMS = 4  # sums of the three losses of a `Learner`, and their number of frames
OLDER_RUN_DEFAULTS = {"vae.variance": PAPER_VARIANCE, "standardise": False, "init": "torch", "noise": "mersenne"}
"""Values in force before these settings existed; used for older configs that lack them."""


@dataclasses.dataclass(frozen=True)
class TrainingState:
    """The learner's state for resuming. state.pt holds it under these names.

    Attributes:
        step: number of steps so far.
        best_loss_nats: lowest validation loss so far.
        wandb_id: id of the W&B run of this training; None without W&B.
        sums: sums of the losses since they were logged last, and their number of frames.
        vae: the weights.
        variance: variance of the likelihood.
        optimizer: the state of PyTorch's optimizer.
    """

    step: int
    best_loss_nats: float
    wandb_id: str | None
    sums: Tensor
    vae: Mapping[str, Tensor]
    variance: Tensor
    optimizer: Mapping[str, Any]


STATE_NAMES = [field.name for field in dataclasses.fields(TrainingState)]


def save_state(run: Path, state: TrainingState) -> None:
    """Write state.pt, from which training can be resumed."""
    buffer = io.BytesIO()  # torch.save gives no clear error if the disk is full
    torch.save({name: getattr(state, name) for name in STATE_NAMES}, buffer)
    files.write_bytes(run / layout.STATE_FILE, buffer.getbuffer())


def load_state(run: Path) -> Any:
    """Read state.pt, which may hold only tensors and plain values. `check_state` checks them.

    Raises:
        ValueError: the file is damaged or holds code.
    """
    path = run / layout.STATE_FILE
    untrusted.is_file(path)
    try:
        _check_archive(path)
        sizes = [tensor.numel() * tensor.element_size() for tensor in _tensors(_loaded(path, "meta"))]
        if sum(sizes) > path.stat().st_size:
            raise ValueError(f"its tensors take {sum(sizes):,} bytes, more than the file has")
        return _loaded(path, "cpu")
    except Exception as error:  # torch passes on any error of its unpickler
        raise _no_state(path, str(error).splitlines()[0] if str(error) else type(error).__name__) from None


def _no_state(path: Path, reason: str) -> ValueError:
    return ValueError(f"{path}: not a training state ({reason}); choose another --out, or delete it to start anew")


def _check_archive(path: Path) -> None:
    """Refuse an archive that is compressed or has overlapping parts: a small one could unpack to huge data."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("it is compressed, unlike a training state")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise ValueError("its parts overlap")


def _loaded(path: Path, device: str) -> Any:
    """Load the file. The device `meta` loads only shapes and allocates no memory."""
    return torch.load(path, map_location=device, weights_only=True)


def _tensors(state: Any) -> Iterator[Tensor]:
    """All tensors in a state."""
    todo = [state]
    while todo:
        value = todo.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict):
            todo.extend(value.values())
        elif isinstance(value, list | tuple):
            todo.extend(value)


def check_state(run: Path, state: Any, config: VAEConfig) -> TrainingState:
    """Check that a loaded state fits the model: names, shapes, and finite numbers.

    Raises:
        ValueError: it belongs to another model, or is damaged.
    """
    path = run / layout.STATE_FILE
    with torch.device("meta"):
        vae = VAE(config)
    if not isinstance(state, dict):
        raise _no_state(path, f"holds a {type(state).__name__}")
    try:
        wrong = next(_faults(state, vae), None)
        checked = TrainingState(**{name: state[name] for name in STATE_NAMES}) if wrong is None else None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _no_state(path, f"something is missing or has another name: {error}") from None
    if checked is None:
        raise _no_state(path, str(wrong))
    return checked


def _faults(state: Mapping[str, Any], vae: VAE) -> Iterator[str]:
    """Describe each fault of a state in one line."""
    if type(state["step"]) is not int or not 0 <= state["step"] < MAX_STEPS:
        yield f"step is {state['step']!r}"
    if type(state["best_loss_nats"]) not in (int, float) or math.isnan(state["best_loss_nats"]):
        yield f"best_loss_nats is {state['best_loss_nats']!r}"
    if state["wandb_id"] is not None and not re.fullmatch(r"[\w-]{1,128}", state["wandb_id"]):
        yield f"wandb_id is {state['wandb_id']!r}"
    yield from _tensor_faults("sums", state["sums"], (NUM_SUMS,), torch.float64)
    yield from _tensor_faults("variance", state["variance"], ())
    shapes = {name: tuple(tensor.shape) for name, tensor in vae.state_dict().items()}
    if state["vae"].keys() != shapes.keys():
        yield "weights of another model"
    for name, shape in shapes.items():
        yield from _tensor_faults(name, state["vae"][name], shape)
    parameters = list(vae.parameters())
    for index, moments in state["optimizer"]["state"].items():
        if index not in range(len(parameters)):
            yield f"the optimizer knows a weight {index!r}"
            return
        yield from _tensor_faults(f"step of weight {index}", moments["step"], ())
        for name in ("exp_avg", "exp_avg_sq"):
            yield from _tensor_faults(f"{name} of weight {index}", moments[name], tuple(parameters[index].shape))
        if bool((moments["exp_avg_sq"] < 0).any()):
            yield f"exp_avg_sq of weight {index} is below 0"


def _tensor_faults(name: str, tensor: Any, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Iterator[str]:
    if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape or tensor.dtype != dtype:
        yield f"{name} is not a tensor of {shape}, {dtype}"
    elif not bool(tensor.isfinite().all()):
        yield f"{name} holds numbers that are not finite"


def check_new(out: Path, resume: bool) -> None:
    """Check that a new run may use this folder.

    Raises:
        ValueError: the folder holds a run and `resume` is False, or a name of a run's file is used by something else.
    """
    records.check_files(out)
    if (out / CONFIG_FILE).exists() and not resume:
        raise ValueError(f"{out} holds a run already; give --resume true to continue it, or choose another --out")


def load_run(out: Path, config: str, defaults: str, free: Sequence[str], trained_on: TrainedOn) -> Any:
    """Load the state to resume from, as `load_state` returns it; None for a new run.

    Args:
        out: the run's folder.
        config: the resolved config, as YAML.
        defaults: defaults of the config's fields, as YAML; used for fields that an older run's config lacks.
        free: fields that may differ from those of the run.
        trained_on: the data to train on.

    Raises:
        ValueError: the folder's run has other settings or other data.
    """
    if not (out / CONFIG_FILE).exists():
        return None
    saved, new, usual = (_fixed(out, text, free) for text in (_config_text(out), config, defaults))
    old = usual | OLDER_RUN_DEFAULTS | saved
    changed = [name for name, value in new.items() if old.get(name) != value]
    if changed:
        found = "; ".join(f"{name} {old.get(name)}, not {new[name]}" for name in changed)
        not_saved = "".join(f" --{name} {json.dumps(old.get(name))}" for name in changed if name not in saved)
        raise ValueError(
            f"{out} is a run with {found}: give --config {out}/config.yaml{not_saved} --resume true, or another --out"
        )
    if not untrusted.is_file(out / layout.STATE_FILE):
        return None
    if (digest := description.load(out).trained_on.data_digest) is None:
        raise description.missing_parts_error(out, "data_digest")
    if digest != trained_on.data_digest:
        raise ValueError(f"{out}: its training data have changed since (were they extended?); choose another --out")
    return load_state(out)


def saved_setting(out: Path, name: str) -> Json | None:
    """The value of a setting in the run of a folder, by its dotted name. None if there is no run, or it is not set.

    Raises:
        ValueError: the run's config cannot be read.
    """
    if not (out / CONFIG_FILE).exists():
        return None
    return (OLDER_RUN_DEFAULTS | _fixed(out, _config_text(out), free=())).get(name)


def _config_text(out: Path) -> str:
    return untrusted.read_text(out / CONFIG_FILE, untrusted.MAX_YAML_BYTES) or ""


def _fixed(out: Path, text: str, free: Sequence[str]) -> dict[str, Json]:
    """The settings that must not change in a run, by their dotted names."""
    try:
        settings = untrusted.from_yaml(text)
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise ValueError(f"{out / 'config.yaml'}: not the config of a run; delete the folder or choose another --out")
    return {name: value for name, value in flatten(settings).items() if name.split(".")[0] not in free}
