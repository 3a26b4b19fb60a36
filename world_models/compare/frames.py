"""The same held-out frames, and their reconstructions by each of several runs."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from world_models.data import mnist, several
from world_models.data.frames import FrameSet, FrameSource
from world_models.data.rollouts import Rollouts
from world_models.drawing import charts, grids
from world_models.runs import checkpoints, layout, provenance
from world_models.runs.records import RunRecord
from world_models.runtime.distributed import Device, torch_device
from world_models.vae.model import VAE

MAX_SHOWN = charts.MAX_COLOURED


class FrameRows(NamedTuple):
    """Frames and their reconstructions.

    Attributes:
        data: folder of the frames.
        originals: the frames.
        reconstructions: decode(mu) of the frames, by name of the run.
    """

    data: str
    originals: grids.Frames
    reconstructions: Mapping[str, grids.Frames]


@dataclasses.dataclass(frozen=True)
class ShownModels:
    """Models, and frames that none of them was trained on.

    Attributes:
        data: folder of the frames.
        frames: the frames to choose from.
        by_run: the models, by name of the run.
    """

    data: str
    frames: FrameSource
    by_run: Mapping[str, VAE]

    def rows(self, num_frames: int) -> FrameRows:
        """Some evenly spread frames, and each model's reconstructions of them."""
        spread = self.frames.read_spread(num_frames + 2)
        inner = slice(1, -1) if len(spread) > 2 else slice(None)  # the first frame shows CarRacing's opening zoom
        frames = spread[inner]
        labels = torch.from_numpy(self.frames.labels[self.frames.spread_positions(num_frames + 2)][inner])
        made = {
            name: vae.decode(vae.encode(frames, labels).mu, labels).cpu().numpy() for name, vae in self.by_run.items()
        }
        return FrameRows(self.data, frames, made)


def load(
    runs: Sequence[RunRecord], data: str | None, weights: layout.Weights, device: Device
) -> tuple[ShownModels | None, list[str]]:
    """Load the models of the first twelve runs, and frames to show.

    Args:
        runs: the runs, best first.
        data: rollouts with frames to show, or MNIST's folder; None takes the runs' training data, if they still exist.
        weights: best or last.
        device: device of the models.

    Returns:
        The models and frames, or None if nothing can be shown; and lines that say what is not shown, and why.

    Raises:
        FileNotFoundError, ValueError: `data` is named but cannot be read, or there is no such device.
    """
    place = torch_device(device)
    kind, alike, others = _of_one_kind(runs, data)
    saved = [run for run in alike if run.description]
    try:
        models, left_out = kind.load(saved, data, weights, place)
    except _NothingShownError as error:
        return None, [*others, *error.notes]
    return models, [*others, *left_out]


class _NothingShownError(Exception):
    """No frames can be shown; `notes` says why."""

    def __init__(self, *notes: str):
        super().__init__(*notes)
        self.notes = notes


def _of_rollouts(
    saved: Sequence[RunRecord], data: str | None, weights: layout.Weights, device: torch.device
) -> tuple[ShownModels, list[str]]:
    """Held-out frames of rollouts, and the models that take such frames."""
    rollouts = Rollouts(data) if data else _trained_on(saved)
    models, left_out = _models(saved, lambda run: _load(run, rollouts, weights, device))
    frames = _held_out(rollouts, [run for run in saved if run.name in models])
    if frames is None:
        why = f"no frames are shown: a run was trained on each episode of {rollouts.name}; name others with --data"
        raise _NothingShownError(*left_out, why)
    return ShownModels(rollouts.name, frames, models), left_out


def _of_digits(
    saved: Sequence[RunRecord], data: str | None, weights: layout.Weights, device: torch.device
) -> tuple[ShownModels, list[str]]:
    """Test images of MNIST, and the models that take such images."""
    path = data or str(saved[0].trained_on.data)
    try:
        digits = mnist.load(path)
    except (FileNotFoundError, ValueError) as error:
        if data:
            raise
        raise _NothingShownError(f"no frames are shown: {error}") from None
    if not data and digits.digest != saved[0].trained_on.data_digest:
        raise _NothingShownError(
            f"no frames are shown: {path} has changed since the training; name MNIST's folder with --data"
        )
    models, left_out = _models(saved, lambda run: checkpoints.load_digits_vae(run.path, weights, device))
    return ShownModels(path, digits.test.as_frames(), models), left_out


def _models(saved: Sequence[RunRecord], load: Callable[[RunRecord], VAE]) -> tuple[dict[str, VAE], list[str]]:
    """The first twelve models, by name of the run, and a line for each that cannot be loaded."""
    notes = [f"of {len(saved)} runs with a model, frames of the best {MAX_SHOWN} are shown"]
    notes = notes if len(saved) > MAX_SHOWN else []
    models: dict[str, VAE] = {}
    for run in saved[:MAX_SHOWN]:
        try:
            models[run.name] = load(run)
        except (ValueError, OSError) as error:  # noqa: PERF203 - twelve turns at most
            notes.append(f"no frames of {run.name}: {error}")
    if not models:
        raise _NothingShownError(*notes)
    return models, notes


class _Kind(NamedTuple):
    """A kind of data that runs are trained on.

    Attributes:
        dataset: its name in model.json.
        name: its name in messages.
        is_in: whether a folder holds such data.
        load: loads frames, and the models that take such frames.
    """

    dataset: str
    name: str
    is_in: Callable[[str], bool]
    load: Callable[[Sequence[RunRecord], str | None, layout.Weights, torch.device], tuple[ShownModels, list[str]]]


MNIST = _Kind("mnist", "MNIST", lambda folder: Path(folder, mnist.FOLDER).is_dir(), _of_digits)
ROLLOUTS = _Kind("rollouts", "rollouts", lambda folder: True, _of_rollouts)
KINDS = (MNIST, ROLLOUTS)
"""If no kind fits, the last one is used, because its reader gives a good message."""


def _kind(run: RunRecord) -> _Kind:
    return next((kind for kind in KINDS if kind.dataset == run.dataset), KINDS[-1])


def _of_one_kind(runs: Sequence[RunRecord], data: str | None) -> tuple[_Kind, list[RunRecord], list[str]]:
    """The kind of data to show: that of `data`, else that of the best run with a model.

    Returns:
        The kind, the runs trained on such data, and a line about the other runs.
    """
    of_models = (_kind(run) for run in runs if run.description)
    kind = next(kind for kind in KINDS if kind.is_in(data)) if data else next(of_models, KINDS[-1])
    alike, others = ([run for run in runs if (_kind(run) is kind) == same] for same in (True, False))
    names, theirs = (
        ", ".join(run.name for run in others),
        " and ".join(dict.fromkeys(_kind(run).name for run in others)),
    )
    note = f"frames of {kind.name} are shown, so none of {names}, trained on {theirs}"
    return kind, alike, [note] if others else []


def _trained_on(saved: Sequence[RunRecord]) -> Rollouts:
    """The training data of the first run whose data have not changed since the training."""
    named = [(tuple(each.data for each in run.trained_on.sets), run.trained_on.data_digest) for run in saved]
    recorded = {(tuple(map(str, paths)), digest): None for paths, digest in named if digest and paths and all(paths)}
    for paths, digest in recorded:
        with contextlib.suppress(ValueError, OSError):
            rollouts = several.open_rollouts(paths)
            if rollouts.digest() == digest:
                return rollouts
    paths = ", ".join(sorted({path for paths, _ in recorded for path in paths})[:3])
    no_data = "no model.json names its training data" if saved else "no run has saved a model yet"
    why = f"{paths} does not exist any more or has changed since the training" if recorded else no_data
    raise _NothingShownError(f"no frames are shown: {why}; name rollouts with --data")


def _load(run: RunRecord, data: Rollouts, weights: layout.Weights, device: torch.device) -> VAE:
    """Load a run's model; raises ValueError if it takes other frames or does not name its training data."""
    provenance.load(run.path)
    vae = checkpoints.load_vae(run.path, weights, device)
    provenance.check_preprocess(data.preprocess, data.name, vae, run.name)
    return vae


def _held_out(data: Rollouts, runs: Sequence[RunRecord]) -> FrameSet | None:
    """The frames of the episodes that no run was trained on; None if there are none."""
    trained_on = set[int]().union(*(provenance.load(run.path).trained_seeds(data) for run in runs))
    chosen = [episode for episode, seed in enumerate(data.seeds.tolist()) if seed not in trained_on]
    return FrameSet(data, chosen) if chosen else None
