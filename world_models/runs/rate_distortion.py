"""Rate and distortion of models, KL against SSE, from the records of their runs."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from world_models.runs.records import RunRecord
from world_models.runs.scores import Scores


class RatePoint(NamedTuple):
    """Rate and distortion of a model.

    Attributes:
        label: the model's name.
        kl_nats: rate, in nats per frame.
        sse: distortion, squared error per frame.
        evaluated: whether the numbers come from an evaluation; else they come from a validation during training, and
            the marker is drawn hollow.
    """

    label: str
    kl_nats: float
    sse: float
    evaluated: bool = True


def comparable_runs(digest: str, runs: Sequence[RunRecord]) -> tuple[list[RunRecord], list[str]]:
    """Remove scores that cannot be compared: those on other data, and those on training episodes.

    Args:
        digest: digest of the data.
        runs: the runs.

    Returns:
        The runs, and a line for each run whose scores were removed.
    """
    comparable, notes = [], []
    for run in runs:
        is_other = run.scores is not None and run.scores.data_digest not in (None, digest)
        if is_other or was_scored_on_training_episodes(run):
            data = "other data" if is_other else "data that it was trained on"
            notes.append(
                f"{run.path} was evaluated on {data}, so its last validation is drawn; evaluate it on this data"
            )
            run = dataclasses.replace(run, scores=None)
        comparable.append(run)
    return comparable, notes


def rate_points(runs: Sequence[RunRecord]) -> list[RatePoint]:
    """The `rate_point` of each run that has one."""
    return [point for run in runs if (point := rate_point(run))]


def rate_point(run: RunRecord) -> RatePoint | None:
    """KL and SSE of a run: from its evaluation, else from its last validation, else None."""
    scores, last = run.scores, run.last_validation()
    if scores and scores.kl_nats is not None and scores.sse is not None:
        return RatePoint(run.name, scores.kl_nats, scores.sse)
    return RatePoint(run.name, last["val/kl_nats"], last["val/sse"], evaluated=False) if "val/kl_nats" in last else None


def pca_levels(runs: Sequence[RunRecord]) -> dict[int, float]:
    """SSE of PCA by its number of components, from all evaluations that can be compared with the first one.

    PCA is fitted on the training data and scored on the evaluated frames. So an evaluation can be compared if both are
    the same as in the first one.
    """
    evaluated = [(run.scores, run.trained_on.data_digest) for run in runs if run.scores is not None]
    kinds = [(scores.data_digest, scores.frames, trained_on) for scores, trained_on in evaluated]
    levels: dict[int, float] = {}
    for (scores, _), kind in zip(evaluated, kinds, strict=True):
        if kind == kinds[0]:
            levels = pca_of(scores) | levels
    return dict(sorted(levels.items()))


def pca_of(scores: Scores) -> dict[int, float]:
    """SSE of PCA by its number of components, from one evaluation.

    Fewer than four components are left out, because their error is far above any model's.
    """
    found = {k: sse for k, sse in (scores.pca_sse_by_components or {}).items() if k not in ("1", "2", "3")}
    own = {} if scores.pca_sse is None else {str(scores.pca_components): scores.pca_sse}
    return {int(k): sse for k, sse in (own | found).items() if k.isdecimal() and len(k) < 6 and sse > 0}


def was_scored_on_training_episodes(run: RunRecord) -> bool:
    """Whether the run was evaluated on episodes that it was trained on."""
    return bool(run.scores and run.scores.trained_on_episodes)
