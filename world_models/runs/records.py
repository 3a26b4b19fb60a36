"""Reads the folder of a run, finished or still training: config, metrics, scores, description. It imports no torch.

The files may come from anybody. So sizes and types are checked, and no code in them can run.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from world_models.runs.description import Description, TrainedOn
from world_models.runs.layout import (
    CONFIG_FILE,
    DESCRIPTION_FILE,
    FIGURES,
    FILES,
    METRICS_FILE,
    flatten,
)
from world_models.runs.scores import Scores, read_scores
from world_models.runtime import untrusted
from world_models.runtime.typed_json import Json, is_number

SEARCH_DEPTH = 3  # runs, runs/sweep, runs/sweep/a
MAX_BYTES = 100_000_000  # the paper's own training logs 30,000 lines, 10 MB

MetricsLine = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """The contents of a run's folder.

    Attributes:
        path: the folder.
        name: a short name that differs from those of the other runs.
        config: its resolved settings.
        lines: its metrics, one mapping for each logged line; finite numbers only.
        scores: the contents of eval.json; None before an evaluation of these weights.
        description: the contents of model.json; None before the first checkpoint.
        why_ignored: why eval.json exists but is ignored, in one line; else empty.
    """

    path: Path
    name: str
    config: Mapping[str, Json]
    lines: tuple[MetricsLine, ...]
    scores: Scores | None
    description: Description | None
    why_ignored: str = ""

    def series(self, metric: str) -> list[tuple[float, float]]:
        """(frames seen, value) for each line that has the metric."""
        return [(line["frames_seen"], line[metric]) for line in self.lines if metric in line]

    def best_line(self) -> MetricsLine:
        """The validation with the lowest SSE; empty if there was none."""
        return min((line for line in self.lines if "val/sse" in line), key=lambda line: line["val/sse"], default={})

    def last_validation(self) -> MetricsLine:
        """The latest validation; empty if there was none."""
        return next((line for line in reversed(self.lines) if "val/sse" in line), {})

    def frames_seen(self) -> int:
        """Number of frames that training has seen."""
        return int(max((line["frames_seen"] for line in self.lines), default=0))

    def progress(self) -> float | None:
        """Share of the training that is done; None if the config does not say how long it is."""
        wanted = number(self.config, "num_frames")
        return min(1.0, self.frames_seen() / wanted) if wanted else None

    @property
    def trained_on(self) -> TrainedOn:
        """The training data; before the first checkpoint only the kind of data is known."""
        if self.description:
            return self.description.trained_on
        return TrainedOn(str(self.config.get("dataset", TrainedOn.dataset)))

    @property
    def dataset(self) -> str:
        """The kind of training data: rollouts or mnist."""
        return self.trained_on.dataset

    def settings(self) -> dict[str, Json]:
        """The settings by their dotted names."""
        return flatten(self.config)


def number(values: Mapping[str, Json], key: str) -> float | None:
    """The finite number under this key; None if there is none."""
    value = values.get(key)
    return float(value) if is_number(value) else None


def is_run(folder: Path) -> bool:
    """Whether the folder is a run of train_vae: it has a model, or metrics but no model yet."""
    logs = (folder / CONFIG_FILE).is_file() and (folder / METRICS_FILE).is_file()
    return logs or (folder / DESCRIPTION_FILE).is_file()


def check_files(folder: Path) -> None:
    """Check that the names of a run's files are not used by something else, such as a pipe or a folder.

    Raises:
        ValueError: a name is used by something else; the message says which.
    """
    for name in FILES:
        untrusted.is_file(folder / name)
    if (folder / FIGURES).exists() and not (folder / FIGURES).is_dir():
        raise ValueError(f"{folder / FIGURES}: not a folder; remove it, because a run's pictures go there")


def find_runs(folder: Path, depth: int = SEARCH_DEPTH) -> list[Path]:
    """The folder itself if it is a run, else all runs in it and in its folders, sorted by path.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; name the --out of a train_vae run, or a folder of runs")
    if is_run(folder):
        return [folder]
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and os.access(path, os.R_OK | os.X_OK))
    return [run for path in inside for run in (find_runs(path, depth - 1) if depth else [])]


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """A short, distinct name for each path: its last parts, as many as are needed."""
    parts = [Path(os.path.abspath(path)).parts for path in paths]  # noqa: PTH100 - keeps the name of a link

    def name(path: tuple[str, ...]) -> str:
        length, alike = 1, [other for other in parts if other[-1:] == path[-1:]]
        while len(alike) > 1 and length < len(path):
            length += 1
            alike = [other for other in alike if other[-length:] == path[-length:]]
        end = str(Path(*path[-length:]))
        return end if end.isprintable() else ascii(end)[1:-1]

    return [name(path) for path in parts]


def read_run(folder: Path, name: str | None = None) -> RunRecord:
    """Read a run's folder, finished or not.

    Raises:
        ValueError: a file is damaged or far too large. A damaged eval.json is ignored instead.
    """
    scores, why_ignored = read_scores(folder)
    return RunRecord(
        folder,
        name or folder.resolve().name,
        _read_config(folder / CONFIG_FILE),
        read_lines(folder),
        scores,
        _read_description(folder / DESCRIPTION_FILE),
        why_ignored,
    )


class FoundRuns(NamedTuple):
    """Runs that were found.

    Attributes:
        own_name: short name of the run that the others are compared with; empty without one.
        runs: the other runs, with distinct names.
        notes: a line for each run that is left out and for each eval.json that is ignored.
    """

    own_name: str
    runs: list[RunRecord]
    notes: list[str]


def read_runs(
    named: Sequence[Path], own: Path | None = None, read: Callable[[Path, str], RunRecord] = read_run
) -> FoundRuns:
    """Read the named runs and the runs in named folders, each once.

    Args:
        named: folders of runs, or folders that hold such folders. An unreadable run in the latter is left out.
        own: a run to leave out; the other runs' names differ from its name too.
        read: reads one run.

    Raises:
        FileNotFoundError: a folder does not exist.
        ValueError: a folder holds no run, or a run that is named itself cannot be read.
    """
    required, left_out = {path.resolve() for path in named}, own and own.resolve()
    found: dict[Path, Path] = {}
    for run in (run for folder in named for run in _runs_in(folder)):
        found.setdefault(run.resolve(), run)
    paths = [path for resolved, path in found.items() if resolved != left_out]
    own_name, *names = distinct_names([own, *paths]) if own else ["", *distinct_names(paths)]
    runs, notes = [], []
    for path, name in zip(paths, names, strict=True):
        try:
            runs.append(read(path, name))
        except ValueError as error:  # noqa: PERF203 - reading files takes longer
            if path.resolve() in required:
                raise
            notes.append(f"left out: {error}")
    notes += [run.why_ignored for run in runs if run.why_ignored]
    return FoundRuns(own_name, runs, notes)


def _runs_in(folder: Path) -> list[Path]:
    if runs := find_runs(folder):
        return runs
    raise ValueError(f"{folder}: no run in it (no model.json, no metrics.jsonl); name the --out of train_vae runs")


def other_runs(own: Path, dataset: str, folders: Sequence[Path]) -> FoundRuns:
    """Read other runs on the same kind of data.

    Args:
        own: a run's folder; it is left out.
        dataset: its kind of data.
        folders: folders of other runs, or folders that hold such folders. In the latter, runs on another kind of data
            are left out.

    Raises:
        FileNotFoundError: a folder does not exist.
        ValueError: a folder holds no run, or a run that is named itself cannot be read or is on another kind of data.
    """
    found = read_runs(folders, own)
    for run in found.runs:
        if run.dataset != dataset and run.path in folders:
            raise ValueError(
                f"{run.path}: trained on {run.dataset}, {own} on {dataset}; name runs on the same kind of data"
            )
    return found._replace(runs=[run for run in found.runs if run.dataset == dataset])


def _read_config(path: Path) -> dict[str, Json]:
    text = untrusted.read_text(path, untrusted.MAX_YAML_BYTES)
    try:
        config = {} if text is None else untrusted.from_yaml(text)
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise ValueError(f"{path}: not the settings of a run; leave this run out, or train it again")
    return config


def _read_description(path: Path) -> Description | None:
    text = untrusted.read_text(path, MAX_BYTES)
    if text is None:
        return None
    value = _parsed(text)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: not a JSON object; train the model again, or leave this run out")
    return Description.from_json(value) if value else None


def _parsed(text: str) -> Json:
    """The JSON value; None if the text is not JSON."""
    try:
        return untrusted.from_json(text)
    except ValueError:
        return None


def read_lines(run: Path) -> tuple[MetricsLine, ...]:
    """Read the finite numbers of each line of a run's metrics. Invalid and half-written lines are left out.

    Raises:
        ValueError: the file is far too large.
    """
    values = map(_parsed, (untrusted.read_text(run / METRICS_FILE, MAX_BYTES) or "").splitlines())
    lines = ({key: float(v) for key, v in value.items() if is_number(v)} for value in values if isinstance(value, dict))
    return tuple(line for line in lines if line.get("frames_seen", -1) >= 0)
