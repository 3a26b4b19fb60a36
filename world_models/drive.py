"""How well a V model serves a controller: a linear one learns on mu, then drives tracks that nobody has seen.

The measurement is the same for every model: the tracks to practise on, the expert who teaches, the regression, and the
100 tracks that count. Beside it stand the same controller on PCA's coefficients, and the expert itself.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from world_models import formulations, host, imitation, lockstep, progress
from world_models.baselines import Baselines
from world_models.imitation import Driven, Plan, Read
from world_models.lockstep import Place
from world_models.rollouts import Rollouts
from world_models.vae import VAE

NUM_STEPS = 1000
SCORED_TRACKS = range(2**40, 2**40 + 100)
FIRST_PRACTICE_SEED, PRACTICE_SEEDS_APART = 2**41, 10**6
PRACTICE = Plan(num_rounds=8, num_tracks=16, num_steps=500, first_seed=FIRST_PRACTICE_SEED)
ROWS = 8
"""Frames that are read at once by a thread: always as many, so that sums do not depend on cores or ended tracks."""


@dataclasses.dataclass(frozen=True)
class Map:
    """The driven tracks, for the report.

    Attributes:
        driven: how the controller on mu drove them.
        outlines_m: their centre lines, x and y.
    """

    driven: Driven
    outlines_m: Sequence[Float[np.ndarray, "_ 2"]]


def place_of(data: Rollouts) -> Place:
    """The environment that rollouts are of."""
    crop = data.preprocess["crop"]
    return Place(data.env, data.env_args, "none" if crop is None else f"{crop[0]}:{crop[1]}")


def check(data: Rollouts, *seeds: frozenset[int]) -> None:
    """Refuse to drive where there is no expert, or where a scored track was seen.

    Args:
        data: the rollouts whose environment is driven.
        seeds: of episodes that the model was trained or scored on.

    Raises:
        ValueError: there is such a reason.
    """
    try:
        place_of(data).check()
    except ValueError as error:
        raise ValueError(f"--drive cannot drive {data.env} of {data.path}: {error}; or leave --drive out") from None
    if seen := sum(len(each.intersection(SCORED_TRACKS)) for each in seeds):
        raise ValueError(
            f"--drive drives the tracks of seeds {SCORED_TRACKS.start} to {SCORED_TRACKS.stop - 1}, and {seen} of them "
            "are among the episodes for training or scoring; collect with other seeds"
        )


def measure(place: Place, vae: VAE, baselines: Baselines, seed: int) -> tuple[dict[str, Any], Map]:
    """Have controllers learn and drive.

    Args:
        place: the environment.
        vae: the model whose mu the controller sees.
        baselines: PCA, for a controller to compare with.
        seed: of the tracks to practise on.

    Returns:
        `drive` of eval.json, and the driven tracks.
    """
    plan = dataclasses.replace(PRACTICE, first_seed=FIRST_PRACTICE_SEED + seed * PRACTICE_SEEDS_APART)
    count = min(host.available_cores(), plan.num_tracks, len(SCORED_TRACKS))
    practised = plan.num_rounds * plan.num_tracks * plan.num_steps
    scored = len(SCORED_TRACKS) * NUM_STEPS
    with (
        progress.bar(2 * practised + 3 * scored, "steps", "drive") as bar,
        lockstep.opened(place, count) as tracks,
    ):

        def driven(read: Read, z_dim: int) -> Driven:
            controller = imitation.learn(tracks, read, z_dim, plan, bar.update)
            return imitation.drive(tracks, SCORED_TRACKS, NUM_STEPS, imitation.by(controller, read), bar.update)

        on_mu = driven(read_mu(vae), vae.config.z_dim)
        outlines_m = tracks.outlines()
        on_pca = driven(read_pca(baselines), len(baselines.components))
        expert = imitation.drive(tracks, SCORED_TRACKS, NUM_STEPS, imitation.by_expert, bar.update, drawn=False)
    beside = {"pca_mean": float(on_pca.returns.mean()), "expert_mean": float(expert.returns.mean())}
    return scores(on_mu) | beside, Map(on_mu, outlines_m)


def scores(driven: Driven) -> dict[str, float | int]:
    """What eval.json says of the controller on mu: sums of rewards over the tracks, and finished laps."""
    returns = driven.returns
    return {
        "mean": float(returns.mean()),
        "std": float(returns.std()),
        "median": float(np.median(returns)),
        "laps": int(driven.finished.sum()),
        "tracks": len(returns),
    }


def read_mu(vae: VAE) -> Read:
    """Mu of frames."""
    encoder, _ = vae.paper
    return _in_equal_parts(lambda frames: formulations.encode_frames(encoder, frames.to(vae.device))[0])


def read_pca(baselines: Baselines) -> Read:
    """PCA's coefficients of frames."""
    return _in_equal_parts(baselines.coefficients)


def _in_equal_parts(read: Callable[[UInt8[Tensor, "rows 64 64 3"]], Float[Tensor, "rows z"]]) -> Read:
    """Read any number of frames, always `ROWS` at once, on a thread a core."""

    def read_all(frames: UInt8[np.ndarray, "tracks 64 64 3"]) -> Float[np.ndarray, "tracks z"]:
        padded = np.concatenate([frames, np.zeros((-len(frames) % ROWS, *frames.shape[1:]), np.uint8)])
        parts = torch.from_numpy(padded).split(ROWS)
        shares = [parts[start :: host.available_cores()] for start in range(min(host.available_cores(), len(parts)))]
        with formulations.single_threaded():
            done = formulations.in_threads(lambda share: [read(part).cpu() for part in share], shares)
        z = torch.empty(len(parts), ROWS, done[0][0].shape[1])
        for start, share in enumerate(done):
            z[start :: len(shares)] = torch.stack(share)
        return z.flatten(0, 1)[: len(frames)].numpy()

    return read_all
