"""The table of several runs: their numbers, the settings that differ, and reasons why numbers cannot be compared."""

import itertools
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from world_models.runs.description import TrainedOn
from world_models.runs.rate_distortion import was_scored_on_training_episodes
from world_models.runs.records import RunRecord
from world_models.runs.scores import Scores
from world_models.runtime.typed_json import Json

NOTHING = "-"
NOT_COMPARED = ("out", "resume", "wandb")
"""Settings that do not change a run's numbers. They are left out of the comparison."""

MAX_LENGTH = 1000
Cell = int | float | str | None


class TableColumn(NamedTuple):
    """A column of the table: its head, its meaning, a function that reads it from a run, and its number format."""

    head: str
    meaning: str
    read: Callable[[RunRecord], Cell]
    form: str = "{:,.2f}"


def _of_best(key: str) -> Callable[[RunRecord], Cell]:
    return lambda run: run.best_line().get(key)


def _of_scores(read: Callable[[Scores], Cell]) -> Callable[[RunRecord], Cell]:
    """Read a number from eval.json; None if the run was not evaluated."""
    return lambda run: read(run.scores) if run.scores else None


def _foreseen(form: str) -> Callable[[Scores], Cell]:
    """The error of this form of memory model ten steps ahead."""

    def read(scores: Scores) -> Cell:
        at_ten = (scores.foresight or {}).get(form, {}).get("10")
        return at_ten.foreseen if at_ten else None

    return read


def _frames_per_s(run: RunRecord) -> Cell:
    rates = [rate for _, rate in run.series("train/frames_per_s")]
    return statistics.median(rates) if rates else None


def _of_pca(scores: Scores) -> Cell:
    return scores.sse / scores.pca_sse if scores.sse is not None and scores.pca_sse else None


def _done(run: RunRecord) -> Cell:
    share = run.progress()
    return None if share is None else "yes" if share == 1 else f"{min(99, round(100 * share))} %"


COLUMNS = (
    TableColumn("frames", "frames seen in training", lambda run: run.frames_seen(), "{:,.0f}"),
    TableColumn("done", "whether training is finished, else its share", _done, "{}"),
    TableColumn("frames/s", "median rate of training", _frames_per_s, "{:,.0f}"),
    TableColumn("val SSE", "lowest squared error of a validation on held-out data", _of_best("val/sse")),
    TableColumn("val KL", "KL in nats per frame in that validation", _of_best("val/kl_nats"), "{:,.1f}"),
    TableColumn("SSE", "squared error, by evaluate", _of_scores(lambda scores: scores.sse)),
    TableColumn(
        "SSE/PCA",
        "that error divided by PCA's with as many components, on the same frames",
        _of_scores(_of_pca),
        "{:.3f}",
    ),
    TableColumn("PSNR dB", "peak signal-to-noise ratio, by evaluate", _of_scores(lambda scores: scores.psnr_db)),
    TableColumn("KL", "KL in nats per frame, by evaluate", _of_scores(lambda scores: scores.kl_nats), "{:,.1f}"),
    TableColumn(
        "10 ahead, z",
        "squared error, ten steps ahead, of a memory model that predicts z, by evaluate --foresight",
        _of_scores(_foreseen("predicts_z")),
    ),
    TableColumn(
        "10 ahead, change",
        "squared error, ten steps ahead, of a memory model that predicts the change of z, by evaluate --foresight",
        _of_scores(_foreseen("predicts_change")),
    ),
    TableColumn(
        "active",
        "number of dimensions whose mu has variance above 0.01",
        _of_scores(lambda scores: scores.active_units),
        "{:,.0f}",
    ),
    TableColumn(
        "used", "number of dimensions with KL above 0.05 nats", _of_scores(lambda scores: scores.dims_used), "{:,.0f}"
    ),
    TableColumn(
        "drive",
        "mean score of a linear controller on mu that drives 100 tracks",
        _of_scores(lambda scores: scores.drive and scores.drive.mean),
        "{:,.0f}",
    ),
)


def by_val_sse(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Sort the runs by the SSE of their best validation, lowest first. Runs without validation come last."""
    return sorted(runs, key=lambda run: run.best_line().get("val/sse", float("inf")))


def known_columns(runs: Sequence[RunRecord]) -> list[TableColumn]:
    """The columns in which at least one run has a value."""
    return [column for column in COLUMNS if any(column.read(run) is not None for run in runs)]


def table(runs: Sequence[RunRecord]) -> list[list[str]]:
    """The table as rows of text. The first row holds the heads."""
    columns = known_columns(runs)
    rows = [[run.name, *(_shown(column, column.read(run)) for column in columns)] for run in runs]
    return [["run", *(column.head for column in columns)], *rows]


def _shown(column: TableColumn, value: Cell) -> str:
    return NOTHING if value is None else column.form.format(value)


def differences(runs: Sequence[RunRecord]) -> list[list[str]]:
    """The settings that differ, as rows of text: the dotted name, then the value of each run."""
    settings = [{name: _plain(value) for name, value in run.settings().items()} for run in runs]
    names = dict.fromkeys(name for each in settings for name in each if name.split(".")[0] not in NOT_COMPARED)
    rows = [[name, *(each.get(name, NOTHING) for each in settings)] for name in names]
    return [row for row in rows if len(set(row[1:])) > 1]


def _plain(value: Any) -> str:
    """The value as one line of text without control characters."""
    return value if isinstance(value, str) and value.isprintable() else json.dumps(value, default=str)


def conflicts(runs: Sequence[RunRecord]) -> list[str]:
    """Reasons why numbers of the runs cannot be compared, one sentence each; empty if there are none."""
    facts: Mapping[str, Callable[[RunRecord], Any]] = {
        "trained on different data, so their validations are on different frames": lambda run: (
            run.trained_on.data_digest
        ),
        "trained on frames made in different ways (crop, size, interpolation)": lambda run: (
            run.description and run.description.preprocess
        ),
        "validated on different held-out episodes (split_seed)": lambda run: run.trained_on.split_seed,
        "evaluated on different data": lambda run: run.scores and run.scores.data_digest,
        "evaluated on different numbers of frames": lambda run: run.scores and run.scores.frames,
    }
    found = [
        f"the runs were {fact}: {_groups(runs, read)}. These numbers cannot be compared."
        for fact, read in facts.items()
        if len({_plain(value) for run in runs if (value := read(run)) is not None}) > 1
    ]
    if too_good := [run.name for run in runs if was_scored_on_training_episodes(run)]:
        found.append(
            f"Some runs were evaluated on episodes that they were trained on, so their scores are too good: "
            f"{_listed(too_good)}."
        )
    return found


def _groups(runs: Sequence[RunRecord], read: Callable[[RunRecord], Any]) -> str:
    """Groups of runs with the same value, as text: `a, b | c`."""
    groups: dict[str, list[str]] = {}
    for run in runs:
        if (value := read(run)) is not None:
            groups.setdefault(_plain(value), []).append(run.name)
    return _listed([_listed(names) for names in groups.values()], " | ")


def _listed(names: Sequence[str], between: str = ", ", most: int = 4) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return between.join(names[:most]) + rest


def provenance(run: RunRecord) -> list[tuple[str, str]]:
    """The origin of a run: its folder, its training data, and the versions of the programs."""
    scores, trained_on = run.scores, run.trained_on
    versions = run.description.versions if run.description else {}
    facts = {
        "folder": str(run.path),
        "git commit": versions.get("git_commit"),
        "versions": ", ".join(f"{k} {v}" for k, v in versions.items() if k != "git_commit"),
        "environment": _of_each(trained_on, "env"),
        "its arguments": _of_each(trained_on, "env_args"),
        "data": _of_each(trained_on, "data"),
        "data digest": trained_on.data_digest,
        "preprocess": run.description and run.description.preprocess,
        "evaluated on": scores and scores.data,
        "digest of that": scores and scores.data_digest,
        "evaluated weights": scores and scores.vae_sha256,
    }
    return [(name, _plain(value)[:MAX_LENGTH]) for name, value in facts.items() if value]


def _of_each(trained_on: TrainedOn, name: str) -> Json:
    """A fact about the training data; if it is not the same of all data sets, the list of those of each."""
    facts = [getattr(each, name) for each in trained_on.sets]
    return facts[0] if facts and all(fact == facts[0] for fact in facts) else facts


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as lines of text. The first column is left-aligned, the others are right-aligned."""
    first, *others = _widths(rows)
    lines = (
        [row[0].ljust(first), *(cell.rjust(width) for cell, width in zip(row[1:], others, strict=True))] for row in rows
    )
    return "\n".join("  ".join(line) for line in lines)


def fitting(rows: Sequence[Sequence[str]], line_width: int) -> list[list[str]]:
    """The rows with as many columns as fit into lines of `line_width` characters, but at least two."""
    widths = _widths(rows)
    count = sum(used <= line_width for used in itertools.accumulate(width + 2 for width in widths))
    return [list(row[: max(2, count)]) for row in rows]


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]
