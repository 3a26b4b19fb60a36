"""The same held-out frames as they are and as each of several runs gives them back."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from world_models.data import mnist
from world_models.data.frames import Device, FrameSet, FrameSource, torch_device
from world_models.data.rollouts import Rollouts
from world_models.drawing import charts, grids
from world_models.runs import checkpoints, provenance
from world_models.runs.records import RunRecord
from world_models.vae.model import VAE

MAX_SHOWN = charts.MAX_COLOURED


class FrameRows(NamedTuple):
    """Frames beside what runs make of them.

    Attributes:
        data: folder that they come from.
        originals: the frames.
        reconstructions: decode(mu) of them, by the name of the run.
    """

    data: str
    originals: grids.Frames
    reconstructions: Mapping[str, grids.Frames]


@dataclasses.dataclass(frozen=True)
class Models:
    """Models, and frames that none of them was trained on.

    Attributes:
        data: folder that the frames come from.
        frames: the frames to choose from.
        by_run: the models by the names of their runs.
    """

    data: str
    frames: FrameSource
    by_run: Mapping[str, VAE]

    def rows(self, num_frames: int) -> FrameRows:
        """Some frames, spread evenly, and what each model makes of them."""
        spread = self.frames.read_spread(num_frames + 2)
        inner = slice(1, -1) if len(spread) > 2 else slice(None)  # the first of all is CarRacing's opening zoom
        frames, labels = spread[inner], None
        if self.frames.labels is not None:
            labels = torch.from_numpy(self.frames.read_spread(num_frames + 2, "labels")[inner])
        made = {
            name: vae.decode(vae.encode(frames, labels).mu, labels).cpu().numpy() for name, vae in self.by_run.items()
        }
        return FrameRows(self.data, frames, made)


def load(
    runs: Sequence[RunRecord], data: str | None, weights: checkpoints.Weights, device: Device, notes: list[str]
) -> Models | None:
    """Load what is shown: the first twelve runs' models; `notes` gets a line for whatever is not.

    Args:
        runs: the runs, best first.
        data: rollouts to show frames of, or MNIST's folder; when None, what the runs were trained on, if still there.
        weights: best or last.
        device: where to compute.
        notes: is appended to.

    Raises:
        FileNotFoundError, ValueError: `data` is named and cannot be read, or there is no such device.
    """
    place = torch_device(device)
    runs, of_digits = _of_one_kind(runs, data, notes)
    if of_digits:
        return _of_digits(runs, data, weights, place, notes)
    rollouts = Rollouts(data) if data else _trained_on(runs, notes)
    if rollouts is None:
        return None
    saved = [run for run in runs if run.description]
    models = _models(saved, lambda run: _load(run, rollouts, weights, place), notes)
    frames = _held_out(rollouts, [run for run in saved if run.name in models], notes) if models else None
    return Models(str(rollouts.path), frames, models) if frames else None


def _models(saved: Sequence[RunRecord], load: Callable[[RunRecord], VAE], notes: list[str]) -> dict[str, VAE]:
    """The first twelve models by the names of their runs, without those that cannot be loaded."""
    if len(saved) > MAX_SHOWN:
        notes.append(f"of {len(saved)} runs with a model, frames of the best {MAX_SHOWN} are shown")
    models: dict[str, VAE] = {}
    for run in saved[:MAX_SHOWN]:
        try:
            models[run.name] = load(run)
        except (ValueError, OSError) as error:  # noqa: PERF203 - twelve turns at most
            notes.append(f"no frames of {run.name}: {error}")
    return models


def _of_one_kind(runs: Sequence[RunRecord], data: str | None, notes: list[str]) -> tuple[Sequence[RunRecord], bool]:
    """The runs whose models take digits, or those that take rollouts: what `data` holds, else what the best takes."""
    takes = [run.dataset == "mnist" for run in runs if run.description]
    of_digits = Path(data, mnist.FOLDER).is_dir() if data else takes[:1] == [True]
    alike = [run for run in runs if (run.dataset == "mnist") == of_digits]
    others = ", ".join(run.name for run in runs if run not in alike)
    if others:
        kinds = ("MNIST", "rollouts") if of_digits else ("rollouts", "MNIST")
        notes.append(f"frames of {kinds[0]} are shown, so none of {others}, trained on {kinds[1]}")
    return alike, of_digits


def _of_digits(
    runs: Sequence[RunRecord], data: str | None, weights: checkpoints.Weights, device: torch.device, notes: list[str]
) -> Models | None:
    """Test images of MNIST, and what the models make of them."""
    saved = [run for run in runs if run.description]
    path = data or str(saved[0].description.get("data"))
    try:
        digits = mnist.load(path)
    except (FileNotFoundError, ValueError) as error:
        if data:
            raise
        notes.append(f"no frames are shown: {error}")
        return None
    if not data and digits.digest != saved[0].description.get("data_digest"):
        notes.append(f"no frames are shown: {path} has changed since the training; name MNIST's folder with --data")
        return None
    models = _models(saved, lambda run: checkpoints.load_digits_vae(run.path, weights, device), notes)
    return Models(path, digits.test.as_frames(), models) if models else None


def _trained_on(runs: Sequence[RunRecord], notes: list[str]) -> Rollouts | None:
    """The rollouts of the first run whose data is still as it was in training."""
    described = [run.description for run in runs if {"data", "data_digest"} <= run.description.keys()]
    recorded = dict.fromkeys((str(each["data"]), str(each["data_digest"])) for each in described)
    for path, digest in recorded:
        with contextlib.suppress(ValueError, OSError):
            rollouts = Rollouts(path)
            if rollouts.digest() == digest:
                return rollouts
    paths = ", ".join(sorted({path for path, _ in recorded})[:3])
    why = f"{paths} is gone or has changed since the training" if recorded else "no run has saved a model yet"
    notes.append(f"no frames are shown: {why}; name rollouts with --data")
    return None


def _load(run: RunRecord, data: Rollouts, weights: checkpoints.Weights, device: torch.device) -> VAE:
    """A run's model, if it takes such frames and says what it was trained on."""
    provenance.load(run.path)
    vae = checkpoints.load_vae(run.path, weights, device)
    checkpoints.check_preprocess(data.preprocess, data.path, vae, run.name)
    return vae


def _held_out(data: Rollouts, runs: Sequence[RunRecord], notes: list[str]) -> FrameSet | None:
    """The frames of the episodes that none of the runs was trained on, None if there are none."""
    trained_on = set[int]().union(*(provenance.load(run.path).seen(data) for run in runs))
    chosen = [episode for episode, seed in enumerate(data.seeds.tolist()) if seed not in trained_on]
    if not chosen:
        notes.append(f"no frames are shown: a run was trained on each episode of {data.path}; name others with --data")
        return None
    return FrameSet(data, chosen)
