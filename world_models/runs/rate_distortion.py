"""What models cost and give, KL against SSE, from the records of their runs; and when two evaluations compare."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from world_models.runs.records import RunRecord, number


class RatePoint(NamedTuple):
    """What a model costs and what it gives: nats per frame, and squared error per frame.

    Attributes:
        label: the model's name.
        kl_nats: its rate.
        sse: its distortion.
        evaluated: False where the numbers are those of a validation in training, drawn hollow.
    """

    label: str
    kl_nats: float
    sse: float
    evaluated: bool = True


def on_data(digest: str, runs: Sequence[RunRecord]) -> tuple[list[RunRecord], list[str]]:
    """The runs, without scores that do not compare: those of other data, and those that flatter.

    Returns:
        the runs, and a line for each whose scores were taken off.
    """
    here, notes = [], []
    for run in runs:
        is_other = run.scores is not None and run.scores.get("data_digest", digest) != digest
        if is_other or flatters(run):
            on = "other data" if is_other else "what it was trained on"
            notes.append(f"{run.path} was evaluated on {on}; its validation is drawn: evaluate it on this data")
            run = dataclasses.replace(run, scores=None)
        here.append(run)
    return here, notes


def rate_points(runs: Sequence[RunRecord]) -> list[RatePoint]:
    """KL and SSE of each run that has both: those of its evaluation, else of its last validation."""
    return [point for run in runs if (point := rate_point(run))]


def rate_point(run: RunRecord) -> RatePoint | None:
    """KL and SSE of a run: those of its evaluation, else of its last validation, None if it had none."""
    for values, prefix in ((run.scores or {}, ""), (run.last_validation(), "val/")):
        kl_nats, sse = number(values, f"{prefix}kl_nats"), number(values, f"{prefix}sse")
        if kl_nats is not None and sse is not None:
            return RatePoint(run.name, kl_nats, sse, evaluated=not prefix)
    return None


def pca_levels(runs: Sequence[RunRecord]) -> dict[int, float]:
    """SSE of PCA by its number of components, from the evaluations that can be compared with the first one.

    Like it are those on the same frames of runs that were trained on the same data: PCA is fitted on the one and scored
    on the other.
    """
    evaluated = [run for run in runs if run.scores is not None]
    facts = (scored("data_digest"), scored("frames"), lambda run: run.trained_on.data_digest)
    kinds = [[read(run) for read in facts] for run in evaluated]
    levels: dict[int, float] = {}
    for run, kind in zip(evaluated, kinds, strict=True):
        if kind == kinds[0]:
            levels = pca_of(run.scores or {}) | levels
    return dict(sorted(levels.items()))


def pca_of(scores: Mapping[str, Any]) -> dict[int, float]:
    """SSE of PCA by its number of components, from one evaluation: as many as the model has dimensions, and others.

    Fewer than four are left out, whose error is far from any model's.
    """
    by_components = scores.get("pca_sse_by_components")
    found = by_components if isinstance(by_components, dict) else {}
    own = {str(scores.get("pca_components")): scores.get("pca_sse")}
    every = {**own, **{k: sse for k, sse in found.items() if k not in ("1", "2", "3")}}
    return {
        int(k): sse for k in every if k.isdecimal() and len(k) < 6 and (sse := number(every, k)) is not None and sse > 0
    }


def flatters(run: RunRecord) -> bool:
    """Whether the run was evaluated on episodes that it was trained on."""
    return bool(number(run.scores or {}, "trained_on_episodes"))


def scored(key: str) -> Callable[[RunRecord], Any]:
    """Reads a run's value of that name in eval.json, None where there is none."""
    return lambda run: (run.scores or {}).get(key)
