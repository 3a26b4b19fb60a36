"""What a model was trained on, by its model.json, so that a score on training data does not go unnoticed."""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path

from world_models.data.rollouts import FRAME_SHAPE, Rollouts, environment
from world_models.runs import description
from world_models.runtime.typed_json import Json
from world_models.vae.model import VAE


@dataclasses.dataclass(frozen=True)
class TrainingRecord:
    """What a model of rollouts was trained on.

    Attributes:
        data: folder of the rollouts.
        data_digest: of what was in it.
        env: their environment, as `rollouts.environment` names it.
        env_args: the arguments that it was made with.
        split_seed: chose the episodes for training.
        seeds: of the episodes trained on.
    """

    data: str
    data_digest: str
    env: str
    split_seed: int
    seeds: frozenset[int]
    env_args: Mapping[str, Json] = dataclasses.field(default_factory=dict)

    def seen(self, data: Rollouts) -> set[int]:
        """The seeds of those episodes of `data` that the model was trained on, wherever they lie.

        An environment's version and arguments do not count: the same seed may be the same track from another start,
        or in other colours, and nobody but the environment could say when it is not. So an episode may be taken for
        one that was trained on though it was not, never the other way round.
        """
        same = _without_version(self.env) == _without_version(data.env)
        return set(self.seeds.intersection(data.seeds.tolist())) if same else set()

    def rollouts(self) -> Rollouts:
        """The rollouts it was trained on.

        Raises:
            FileNotFoundError: they are gone.
            ValueError: something else lies there.
        """
        if not Path(self.data).exists():
            raise FileNotFoundError(f"{self.data} is gone; name training data with --train_data")
        found = Rollouts(self.data)
        if found.digest() != self.data_digest:
            raise ValueError(f"{self.data} has changed since the training; name training data with --train_data")
        return found


def load(run: str | Path) -> TrainingRecord:
    """Read the record from a run's model.json.

    Raises:
        FileNotFoundError: the folder holds no model.
        ValueError: model.json lacks a part of the record, or a part has another type.
    """
    found = description.load(run).trained_on
    if (found.data is None or found.data_digest is None or found.env is None) or (
        found.env_args is None or found.split_seed is None or found.train_seeds is None
    ):
        raise description.lacks(run, *(name for name, value in vars(found).items() if value is None))
    seeds = frozenset(found.train_seeds)
    return TrainingRecord(
        found.data, found.data_digest, environment(found.env), found.split_seed, seeds, found.env_args
    )


def _without_version(env: str) -> str:
    return re.sub(r"-v\d+$", "", env)


def check_preprocess(preprocess: Mapping[str, Json], data: Path, vae: VAE, run: str) -> None:
    """Refuse frames that were made in another way than those the model was trained on.

    Raises:
        ValueError: the two differ.
    """
    if vae.frame_shape != FRAME_SHAPE:
        raise ValueError(f"{run}: a model of MNIST's digits, wanted one of rollouts; name another run")
    if preprocess != vae.preprocess:
        raise ValueError(
            f"{data}: frames made by {json.dumps(preprocess)}, {run} was trained on {json.dumps(vae.preprocess)}; "
            "collect with the same --crop, or train on such frames"
        )
