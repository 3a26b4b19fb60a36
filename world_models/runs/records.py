"""What a run's folder says of it, finished or still training: config, metrics, scores, description. No torch in here.

The files may come from anybody, so sizes and types are checked before they are trusted, and nothing in them can run.
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

Line = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """What is known of a run.

    Attributes:
        path: its folder.
        name: what to call it among others.
        config: its resolved settings.
        lines: its metrics, line by line as they were logged; finite numbers only.
        scores: what eval.json holds; None before an evaluation of these weights.
        description: what model.json says; None before the first checkpoint.
        why_ignored: why eval.json is there and not taken, a line; empty where it is.
    """

    path: Path
    name: str
    config: Mapping[str, Json]
    lines: tuple[Line, ...]
    scores: Scores | None
    description: Description | None
    why_ignored: str = ""

    def series(self, metric: str) -> list[tuple[float, float]]:
        """Frames seen and value of each line that holds the metric."""
        return [(line["frames_seen"], line[metric]) for line in self.lines if metric in line]

    def best_line(self) -> Line:
        """The validation with the least SSE; empty if there was none."""
        return min((line for line in self.lines if "val/sse" in line), key=lambda line: line["val/sse"], default={})

    def last_validation(self) -> Line:
        """The latest validation; empty if there was none."""
        return next((line for line in reversed(self.lines) if "val/sse" in line), {})

    def frames_seen(self) -> int:
        """Frames that training has seen."""
        return int(max((line["frames_seen"] for line in self.lines), default=0))

    def progress(self) -> float | None:
        """Share of the training that is done, None if the config does not say how long it is."""
        wanted = number(self.config, "num_frames")
        return min(1.0, self.frames_seen() / wanted) if wanted else None

    @property
    def trained_on(self) -> TrainedOn:
        """What it was trained on; before the first checkpoint no more than the kind of data."""
        if self.description:
            return self.description.trained_on
        return TrainedOn(str(self.config.get("dataset", TrainedOn.dataset)))

    @property
    def dataset(self) -> str:
        """What kind of data it was trained on: rollouts, or mnist."""
        return self.trained_on.dataset

    def settings(self) -> dict[str, Json]:
        """The config's fields by their dotted names."""
        return flatten(self.config)


def number(values: Mapping[str, Json], key: str) -> float | None:
    """The finite number under the key, None if there is none."""
    value = values.get(key)
    return float(value) if is_number(value) else None


def is_run(folder: Path) -> bool:
    """Whether the folder is a run of train_vae: with a model, or with metrics and no model yet."""
    logs = (folder / CONFIG_FILE).is_file() and (folder / METRICS_FILE).is_file()
    return logs or (folder / DESCRIPTION_FILE).is_file()


def check_files(folder: Path) -> None:
    """Refuse a folder where one of a run's files is no file, such as a pipe or a folder.

    Raises:
        ValueError: one of the names is not a file's; the message says which.
    """
    for name in FILES:
        untrusted.is_file(folder / name)
    if (folder / FIGURES).exists() and not (folder / FIGURES).is_dir():
        raise ValueError(f"{folder / FIGURES}: no folder; remove it, since a run's pictures go there")


def find_runs(folder: Path, depth: int = SEARCH_DEPTH) -> list[Path]:
    """The folder itself if it is a run, else the runs in it and in its folders, in the order of their paths.

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
    """A short name for each path: as many of its last parts as are needed to tell it from the others."""
    parts = [Path(os.path.abspath(path)).parts for path in paths]  # noqa: PTH100 - a link's own name is meant

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
        ValueError: a file other than eval.json is damaged, or far too large to be what it says.
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


class Found(NamedTuple):
    """Runs that were found.

    Attributes:
        own_name: what to call the run that the others are shown beside; empty without one.
        runs: the others, under names that tell all apart.
        notes: a line for each run that is left out, and for scores that are not taken.
    """

    own_name: str
    runs: list[RunRecord]
    notes: list[str]


def read_runs(
    named: Sequence[Path], own: Path | None = None, read: Callable[[Path, str], RunRecord] = read_run
) -> Found:
    """The runs that are named, and those in folders that are, each once.

    Args:
        named: folders of runs, or folders that hold such. Of the latter, runs that cannot be read are left out.
        own: a run that is left out, and called apart from them too.
        read: reads one.

    Raises:
        FileNotFoundError: a folder is not there.
        ValueError: a folder holds no run, or a run that is named itself cannot be read.
    """
    must, left_out = {path.resolve() for path in named}, own and own.resolve()
    found: dict[Path, Path] = {}
    for run in (run for folder in named for run in _runs_in(folder)):
        found.setdefault(run.resolve(), run)
    paths = [path for resolved, path in found.items() if resolved != left_out]
    own_name, *names = distinct_names([own, *paths]) if own else ["", *distinct_names(paths)]
    runs, notes = [], []
    for path, name in zip(paths, names, strict=True):
        try:
            runs.append(read(path, name))
        except ValueError as error:  # noqa: PERF203 - files are read, which takes longer
            if path.resolve() in must:
                raise
            notes.append(f"left out: {error}")
    notes += [run.why_ignored for run in runs if run.why_ignored]
    return Found(own_name, runs, notes)


def _runs_in(folder: Path) -> list[Path]:
    if runs := find_runs(folder):
        return runs
    raise ValueError(f"{folder}: no run in it (no model.json, no metrics.jsonl); name the --out of train_vae runs")


def other_runs(own: Path, dataset: str, folders: Sequence[Path]) -> Found:
    """The runs that are named on the same kind of data as a run's own.

    Args:
        own: the run's folder, left out of the others.
        dataset: its kind of data.
        folders: of other runs, or of folders of runs, of which those on another kind of data are left out.

    Raises:
        FileNotFoundError: a folder is not there.
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
        raise ValueError(f"{path}: no settings of a run; leave this run out, or train it again")
    return config


def _read_description(path: Path) -> Description | None:
    text = untrusted.read_text(path, MAX_BYTES)
    if text is None:
        return None
    value = _parsed(text)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: no JSON object; train the model again, or leave this run out")
    return Description.from_json(value) if value else None


def _parsed(text: str) -> Json:
    """The JSON value, None where the text is none."""
    try:
        return untrusted.from_json(text)
    except ValueError:
        return None


def read_lines(run: Path) -> tuple[Line, ...]:
    """The finite numbers of each line of a run's metrics.

    A line that is still being written, and any other that is none, is left out.

    Raises:
        ValueError: far too much to be metrics.
    """
    values = map(_parsed, (untrusted.read_text(run / METRICS_FILE, MAX_BYTES) or "").splitlines())
    lines = ({key: float(v) for key, v in value.items() if is_number(v)} for value in values if isinstance(value, dict))
    return tuple(line for line in lines if line.get("frames_seen", -1) >= 0)
