"""Models on disk: weights, architecture and data digest. Each file is written completely or not at all.

Weights are safetensors files, which cannot run code.
"""

import dataclasses
import json
import math
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from world_models.data.mnist import NUM_DIGITS
from world_models.data.rollouts import FRAME_SHAPE
from world_models.runs import description
from world_models.runs.description import ARCHITECTURES, Description, TrainedOn
from world_models.runs.layout import BASELINES_FILE, DESCRIPTION_FILE, Weights, weights_path
from world_models.runs.records import MetricsLine, read_lines
from world_models.runtime import files, untrusted
from world_models.runtime.paths import resolved
from world_models.runtime.typed_json import LARGEST, Json
from world_models.vae.config import VAEConfig
from world_models.vae.likelihoods import PAPER_VARIANCE
from world_models.vae.model import VAE

FACTS = "facts"


def save_weights(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Json] | None = None) -> None:
    """Write tensors as a safetensors file, with `facts` as JSON in its header."""
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {FACTS: json.dumps(facts)} if facts else None  # one entry, because the order of several entries varies
    files.write_bytes(path, safetensors.torch.save(on_cpu, header))


def save_vae(path: Path, vae: VAE, step: int = 0) -> None:
    """Write a model's weights, with the variance of its likelihood and the number of training steps."""
    save_weights(path, vae.state_dict(), {"variance": vae.variance.item(), "step": step})


def _facts(path: Path) -> Mapping[str, Json]:
    """The facts in the header of a file of weights.

    Raises:
        SafetensorError, OSError: the file cannot be read, or is not a safetensors file.
    """
    with safe_open(path, "pt") as file:
        header = file.metadata() or {}
    try:
        facts = untrusted.from_json(header.get(FACTS, "null"))
    except ValueError:
        facts = None
    return facts if isinstance(facts, dict) else header  # older files have a header entry for the variance


def validation_metrics(run: Path, weights: Weights) -> MetricsLine:
    """The metrics that the run logged when it validated these weights; empty if they are not found."""
    try:
        step = _facts(weights_path(run, weights)).get("step")
    except (SafetensorError, OSError):
        return {}
    lines = (line for line in read_lines(run) if step is not None and line.get("step") == step and "val/sse" in line)
    return next(lines, {})


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a safetensors file.
    """
    if not untrusted.is_file(path):
        raise FileNotFoundError(f"{path}: no such file; train the model first, or name the folder of a run")
    try:
        return safetensors.torch.load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a safetensors file ({error}); train the model again") from None


def save_description(run: Path, vae: VAE, trained_on: TrainedOn, step: int) -> None:
    """Write model.json, which holds everything that is needed to load the model, except the weights."""
    architecture, settings = ARCHITECTURES[vae.config.network], dataclasses.asdict(vae.config)
    Description(architecture, settings, vae.preprocess, files.versions(), trained_on, step).save(run)


def load_baselines(run: str | Path, vae: VAE) -> dict[str, Tensor]:
    """Read the mean and the principal components of a run's training frames.

    Raises:
        FileNotFoundError: the run has no such file.
        ValueError: the file holds something else, or its tensors do not have the size of the model's frames.
    """
    path = Path(run) / BASELINES_FILE
    found = _header(path, "train the model first, or name the folder of a run")
    count = found.get("components", ("", (0,)))[1][:1]
    wanted = {"mean": ("F32", (vae.num_values,)), "components": ("F32", (*count, vae.num_values))}
    if found != wanted or not 1 <= count[0] <= vae.num_values:
        raise ValueError(
            f"{path}: holds {found}, not the mean and components of this model's frames; train the model again"
        )
    return _finite(path, load_tensors(path))


def _finite(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{path}: {name} holds numbers that are not finite; train the model again")
    return tensors


def load_vae(run: str | Path, weights: Weights = "best", device: str | torch.device = "cpu") -> VAE:
    """Load the V model of a run, ready to encode and decode uint8 frames.

    Args:
        run: a run's folder.
        weights: `best` (lowest validation loss) or `last`.
        device: device of the model.

    Raises:
        FileNotFoundError: the folder holds no model.
        ValueError: its files are damaged, or have another architecture, or the model takes frames of another size.

    Example:
        >>> vae = world_models.load_vae("runs/vae")
        >>> vae.decode(torch.randn(4, vae.config.z_dim)).shape
        torch.Size([4, 64, 64, 3])
    """
    run = resolved(run, "vae")
    found, path = description.load(run), weights_path(run, weights)
    try:
        if found.vae is None or found.preprocess is None:
            raise ValueError(f"{'vae' if found.vae is None else 'preprocess'} is missing, or is not an object")
        config, preprocess = _config(found.vae), dict(found.preprocess)
        with torch.device("meta"):  # allocate no memory before the shapes in the file are known to be the same
            described = VAE(config, preprocess)
    except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        path = Path(run) / DESCRIPTION_FILE
        raise ValueError(f"{path}: not a description of a model ({error}); train it again") from None
    _check_frame_size(run, described)
    _check_shapes(path, {name: tuple(tensor.shape) for name, tensor in described.state_dict().items()})
    vae = VAE(config, preprocess)
    vae.load_state_dict(_finite(path, load_tensors(path)))
    vae.variance.fill_(_variance(path, vae.config))
    return vae.to(device).eval()


def _check_frame_size(run: Path, vae: VAE) -> None:
    """Check that a model of rollouts was trained on frames of the size that ours have."""
    height, width, channels = FRAME_SHAPE
    size = vae.preprocess.get("size", height)
    if vae.frame_shape == FRAME_SHAPE and size != height:
        raise ValueError(
            f"{run / DESCRIPTION_FILE}: a model of frames with size {size}, wanted {height}x{width}x{channels}, as in "
            "the paper; train one on data of collect or convert, which resize pictures of any size"
        )


def _config(fields: Mapping[str, Any]) -> VAEConfig:
    known = {"variance": PAPER_VARIANCE, **fields}  # older models do not name their variance
    known["hidden"] = tuple(known.get("hidden", VAEConfig.hidden))
    kinds = get_type_hints(VAEConfig)
    for name, value in known.items():
        if name in kinds and not _is_of(kinds[name], value):
            raise ValueError(f"vae.{name} is {value!r}")
    return VAEConfig(**known)


def _is_of(kind: Any, value: Any) -> bool:
    """Whether a value from a file has the type of the config's field."""
    if isinstance(kind, types.UnionType):
        return any(_is_of(each, value) for each in get_args(kind))
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_is_of(get_args(kind)[0], each) for each in value)
    wanted = {float: (int, float), int: (int,), types.NoneType: (types.NoneType,)}[kind]
    return type(value) in wanted and (value is None or abs(value) < LARGEST)


def _variance(path: Path, config: VAEConfig) -> float:
    if config.variance is not None or config.likelihood != "gaussian":
        return config.variance or PAPER_VARIANCE
    try:
        variance = float(str(_facts(path)["variance"]))  # older files have it as text
    except (KeyError, ValueError):
        variance = math.nan
    if not 0 < variance < math.inf:
        raise ValueError(
            f"{path}: has no variance of the likelihood, although it is null in model.json; train the model again"
        )
    return variance


def _header(path: Path, advice: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The dtype and shape of each tensor of a file, read from its header alone."""
    if not untrusted.is_file(path):
        raise FileNotFoundError(f"{path}: no such file; {advice}")
    try:
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            return {name: (each.get_dtype(), tuple(each.get_shape())) for name, each in slices.items()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a safetensors file ({error}); train the model again") from None


def _check_shapes(path: Path, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Check names, dtypes and shapes before any weight is read."""
    found = _header(path, "train the model to its first validation, or give --weights last")
    for name in sorted(wanted.keys() | found.keys()):
        dtype, shape = found.get(name, ("F32", "absent"))
        if wanted.get(name) != shape:
            raise ValueError(
                f"{path}: the weights have another architecture: {name} is {shape}, model.json wants "
                f"{wanted.get(name, 'none')}; use the model.json and weights of one run"
            )
        if dtype != "F32":
            raise ValueError(f"{path}: {name} is {dtype}, wanted F32; train the model again")


def load_digits_vae(run: str | Path, weights: Weights = "best", device: str | torch.device = "cpu") -> VAE:
    """Load a model of MNIST's digits. The arguments are those of `load_vae`.

    Raises:
        FileNotFoundError: the folder holds no model.
        ValueError: its files are damaged, or it is not a model of digits.
    """
    vae = load_vae(run, weights, device)
    if vae.config.network == "paper" or vae.config.num_classes not in (0, NUM_DIGITS):
        raise ValueError(
            f"{run}: takes frames of {vae.frame_shape} and {vae.config.num_classes} classes, so it is not a model of "
            "MNIST's digits; use the model.json and weights of one run"
        )
    return vae
