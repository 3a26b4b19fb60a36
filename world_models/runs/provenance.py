"""What a model was trained on, by its model.json, so that a score on training data does not go unnoticed."""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from world_models.data.rollouts import FRAME_SHAPE, Rollouts, environment
from world_models.runs import checkpoints
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
    env_args: Mapping[str, Any] = dataclasses.field(default_factory=dict)

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
    texts, numbers = ("data", "data_digest", "env"), ("split_seed", "train_seeds")
    found = checkpoints.load_description(run, *texts, *numbers)
    data, digest, env = (found[name] for name in texts)
    split_seed, seeds = (found[name] for name in numbers)
    env_args = found.get("env_args", {})  # models of data sets without arguments did not say so
    listed = seeds if isinstance(seeds, list) else [None]
    numbered = {type(n) for n in (split_seed, *listed)} == {int}
    if {type(text) for text in (data, digest, env)} != {str} or not isinstance(env_args, dict) or not numbered:
        raise ValueError(
            f"{Path(run) / 'model.json'}: wanted named values as env_args, texts as {', '.join(texts)} and whole "
            f"numbers as {', '.join(numbers)}; train the model again"
        )
    return TrainingRecord(data, digest, environment(env), split_seed, frozenset(seeds), env_args)


def _without_version(env: str) -> str:
    return re.sub(r"-v\d+$", "", env)


def check_preprocess(preprocess: Mapping[str, Any], data: Path, vae: VAE, run: str) -> None:
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
