"""What models cost and give, KL against SSE, from the records of their runs; and when two evaluations compare."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from world_models.runs.records import RunRecord
from world_models.runs.scores import Scores


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
        is_other = run.scores is not None and run.scores.data_digest not in (None, digest)
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
    scores, last = run.scores, run.last_validation()
    if scores and scores.kl_nats is not None and scores.sse is not None:
        return RatePoint(run.name, scores.kl_nats, scores.sse)
    return RatePoint(run.name, last["val/kl_nats"], last["val/sse"], evaluated=False) if "val/kl_nats" in last else None


def pca_levels(runs: Sequence[RunRecord]) -> dict[int, float]:
    """SSE of PCA by its number of components, from the evaluations that can be compared with the first one.

    Like it are those on the same frames of runs that were trained on the same data: PCA is fitted on the one and scored
    on the other.
    """
    evaluated = [(run.scores, run.trained_on.data_digest) for run in runs if run.scores is not None]
    kinds = [(scores.data_digest, scores.frames, trained_on) for scores, trained_on in evaluated]
    levels: dict[int, float] = {}
    for (scores, _), kind in zip(evaluated, kinds, strict=True):
        if kind == kinds[0]:
            levels = pca_of(scores) | levels
    return dict(sorted(levels.items()))


def pca_of(scores: Scores) -> dict[int, float]:
    """SSE of PCA by its number of components, from one evaluation: as many as the model has dimensions, and others.

    Fewer than four are left out, whose error is far from any model's.
    """
    found = {k: sse for k, sse in (scores.pca_sse_by_components or {}).items() if k not in ("1", "2", "3")}
    own = {} if scores.pca_sse is None else {str(scores.pca_components): scores.pca_sse}
    return {int(k): sse for k, sse in (own | found).items() if k.isdecimal() and len(k) < 6 and sse > 0}


def flatters(run: RunRecord) -> bool:
    """Whether the run was evaluated on episodes that it was trained on."""
    return bool(run.scores and run.scores.trained_on_episodes)
