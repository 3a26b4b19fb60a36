"""The training data of a model, by its model.json. So scores on training data can be marked."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from world_models.data import several
from world_models.data.rollouts import FRAME_SHAPE, Rollouts, env_name
from world_models.runs import description
from world_models.runs.description import DataSet
from world_models.runtime.typed_json import Json
from world_models.vae.model import VAE


@dataclasses.dataclass(frozen=True)
class SetRecord:
    """A data set that a model was trained on.

    Attributes:
        data: folder of the rollouts.
        data_digest: digest of its contents.
        env: name of the environment, as `rollouts.env_name` returns it.
        env_args: the arguments of the environment.
        seeds: seeds of the training episodes.
    """

    data: str
    data_digest: str
    env: str
    seeds: frozenset[int]
    env_args: Mapping[str, Json] = dataclasses.field(default_factory=dict)

    def trained_seeds(self, data: Rollouts) -> set[int]:
        """The seeds of those episodes of `data` that the model was trained on.

        Versions and arguments of the environment are ignored, because the same seed may still give the same track, in
        other colours or from another start. So a new episode may be counted as seen, but a seen one is never missed.
        """
        return {
            seed
            for each in data.sets
            if _without_version(self.env) == _without_version(each.env)
            for seed in self.seeds.intersection(each.seeds.tolist())
        }

    def rollouts(self) -> Rollouts:
        """Open the rollouts.

        Raises:
            FileNotFoundError: the folder does not exist any more.
            ValueError: its contents have changed.
        """
        if not Path(self.data).exists():
            raise FileNotFoundError(f"{self.data} does not exist any more; name training data with --train_data")
        found = Rollouts(self.data)
        if found.digest() != self.data_digest:
            raise ValueError(f"{self.data} has changed since the training; name training data with --train_data")
        return found


@dataclasses.dataclass(frozen=True)
class TrainingRecord:
    """The training data of a model of rollouts.

    Attributes:
        sets: the data sets, one or several.
        split_seed: seed of the split into training and validation episodes.
    """

    sets: Sequence[SetRecord]
    split_seed: int

    @property
    def seeds(self) -> frozenset[int]:
        """Seeds of the training episodes of all sets."""
        return frozenset[int]().union(*(each.seeds for each in self.sets))

    def trained_seeds(self, data: Rollouts) -> set[int]:
        """The seeds of those episodes of `data` that the model was trained on; see `SetRecord.trained_seeds`."""
        return set[int]().union(*(each.trained_seeds(data) for each in self.sets))

    def num_trained_episodes(self, data: Rollouts) -> int:
        """The number of episodes of `data` that the model was trained on."""
        return sum(int(np.isin(each.seeds, sorted(self.trained_seeds(each))).sum()) for each in data.sets)

    def rollouts(self) -> Rollouts:
        """Open the rollouts that the model was trained on, all sets together.

        Raises:
            FileNotFoundError: a folder does not exist any more.
            ValueError: the contents of a folder have changed.
        """
        return several.together([each.rollouts() for each in self.sets])


def load(run: str | Path) -> TrainingRecord:
    """Read the record from a run's model.json.

    Raises:
        FileNotFoundError: the folder holds no model.
        ValueError: model.json lacks a part of the record, or a part has another type.
    """
    found = description.load(run).trained_on
    sets = [record for each in found.sets if (record := _set_record(each))]
    if not sets or len(sets) < len(found.sets) or found.split_seed is None:
        missing = [name for each in found.sets for name, value in vars(each).items() if value is None]
        missing += [] if found.sets else ["data_sets"]
        missing += ["split_seed"] if found.split_seed is None else []
        raise description.missing_parts_error(run, *dict.fromkeys(missing))
    return TrainingRecord(sets, found.split_seed)


def _set_record(found: DataSet) -> SetRecord | None:
    """The record of a data set; None if the description lacks a part of it."""
    if (found.data is None or found.data_digest is None or found.env is None) or (
        found.env_args is None or found.train_seeds is None
    ):
        return None
    return SetRecord(found.data, found.data_digest, env_name(found.env), frozenset(found.train_seeds), found.env_args)


def _without_version(env: str) -> str:
    return re.sub(r"-v\d+$", "", env)


def check_preprocess(preprocess: Mapping[str, Json], data: Path | str, vae: VAE, run: str) -> None:
    """Check that the frames of `data` were made in the same way as the model's training frames.

    Raises:
        ValueError: they were not, or the model is one of digits.
    """
    if vae.frame_shape != FRAME_SHAPE:
        raise ValueError(f"{run}: a model of MNIST's digits, wanted one of rollouts; name another run")
    if preprocess != vae.preprocess:
        raise ValueError(
            f"{data}: frames with preprocess {json.dumps(preprocess)}, those of {run} have "
            f"{json.dumps(vae.preprocess)}; "
            "collect with the same --crop, or train on such frames"
        )
