"""model.json: how to load a model's weights, and the model's training data. This module does not import torch.

The file may come from anybody, and older files have fewer parts. A part that is missing or has another type is None.
Code that needs the part then refuses the file.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from world_models.runs.layout import DESCRIPTION_FILE
from world_models.runtime import files, typed_json, untrusted
from world_models.runtime.typed_json import Json

FORMAT = "world_models.vae"
ARCHITECTURES = {"paper": "conv_vae", "mlp": "mlp_vae", "conv": "small_conv_vae"}
"""Names of the networks in model.json."""
MAX_BYTES = 50_000_000  # the file lists the seeds of the training episodes, 12 bytes each

Kind = TypeVar("Kind")


@dataclasses.dataclass(frozen=True)
class DataSet:
    """One of the data sets that a model was trained on. For MNIST the last three values are None.

    Attributes:
        data: its folder.
        data_digest: digest of its contents.
        env: the environment of the rollouts.
        env_args: the arguments of the environment.
        train_seeds: seeds of the training episodes.
    """

    data: str | None = None
    data_digest: str | None = None
    env: str | None = None
    env_args: Mapping[str, Json] | None = None
    train_seeds: list[int] | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, Json]) -> "DataSet":
        """Read the JSON object. Missing `env_args` are empty."""
        seeds = _value_of_type(list, values.get("train_seeds"))
        return cls(
            data=_value_of_type(str, values.get("data")),
            data_digest=_value_of_type(str, values.get("data_digest")),
            env=_value_of_type(str, values.get("env")),
            env_args=_value_of_type(dict, values.get("env_args", {})),
            train_seeds=seeds if seeds is None or {type(seed) for seed in seeds} <= {int} else None,
        )


@dataclasses.dataclass(frozen=True)
class TrainedOn:
    """The training data of a model. `data`, `env`, `env_args` and `train_seeds` are None for several data sets.

    Only rollouts have the values after `data_digest`; for MNIST they are None.

    Attributes:
        dataset: kind of data: rollouts or mnist.
        data: its folder.
        data_digest: digest of its contents; of several data sets, the digest of their digests.
        env: the environment of the rollouts.
        env_args: the arguments of the environment.
        train_seeds: seeds of the training episodes.
        split_seed: seed of the split into training and validation episodes.
        data_sets: the data sets, if there are several.
        data_weights: their weights, if they were not mixed by their numbers of frames.
    """

    dataset: str = "rollouts"
    data: str | None = None
    data_digest: str | None = None
    env: str | None = None
    env_args: Mapping[str, Json] | None = None
    train_seeds: list[int] | None = None
    split_seed: int | None = None
    data_sets: Sequence[DataSet] | None = None
    data_weights: Sequence[float] | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, Json]) -> "TrainedOn":
        """Read the JSON object. If it does not name the kind of data it is rollouts."""
        one, sets = DataSet.from_json(values), _value_of_type(list, values.get("data_sets"))
        if sets is not None:  # it has no values of a single data set
            one = dataclasses.replace(one, env_args=None)
            sets = [DataSet.from_json(each if isinstance(each, dict) else {}) for each in sets]
        weights = _value_of_type(list, values.get("data_weights"))
        return cls(
            dataset=_value_of_type(str, values.get("dataset")) or TrainedOn.dataset,
            **vars(one),
            split_seed=_value_of_type(int, values.get("split_seed")),
            data_sets=sets,
            data_weights=weights if weights is not None and all(map(typed_json.is_number, weights)) else None,
        )

    @property
    def sets(self) -> Sequence[DataSet]:
        """The data sets, one or several."""
        if self.data_sets is not None:
            return self.data_sets
        return [DataSet(self.data, self.data_digest, self.env, self.env_args, self.train_seeds)]


@dataclasses.dataclass(frozen=True)
class Description:
    """The contents of model.json.

    Attributes:
        architecture: name of the network, one of the values of `ARCHITECTURES`.
        vae: the settings of its `VAEConfig`.
        preprocess: how observations become frames.
        versions: versions of the programs that made it; empty if the file does not name them.
        trained_on: the training data.
        step: number of training steps.
        format: `FORMAT` for our models.
    """

    architecture: str | None
    vae: Mapping[str, Json] | None
    preprocess: Mapping[str, Json] | None
    versions: Mapping[str, str]
    trained_on: TrainedOn
    step: int = 0
    format: str | None = FORMAT

    @classmethod
    def from_json(cls, values: Mapping[str, Json]) -> "Description":
        """Read the JSON object."""
        versions = _value_of_type(dict, values.get("versions")) or {}
        return cls(
            architecture=_value_of_type(str, values.get("architecture")),
            vae=_value_of_type(dict, values.get("vae")),
            preprocess=_value_of_type(dict, values.get("preprocess")),
            versions={name: str(version) for name, version in versions.items()},
            trained_on=TrainedOn.from_json(values),
            step=_value_of_type(int, values.get("step")) or 0,
            format=_value_of_type(str, values.get("format")),
        )

    def save(self, run: Path) -> None:
        """Write model.json."""
        head = {name: getattr(self, name) for name in ("format", "architecture", "vae", "preprocess", "versions")}
        data = {name: typed_json.plain(value) for name, value in vars(self.trained_on).items() if value is not None}
        files.write_json(run / DESCRIPTION_FILE, {**head, **data, "step": self.step})


def _value_of_type(kind: type[Kind], value: Json) -> Kind | None:
    """The value if it has exactly that type, else None. So a bool is not an int."""
    return value if type(value) is kind else None


def load(run: str | Path) -> Description:
    """Read the model.json of a model.

    Raises:
        FileNotFoundError: the folder holds no model.
        ValueError: it does not describe a model of a known architecture.
    """
    path = Path(run) / DESCRIPTION_FILE
    text = untrusted.read_text(path, MAX_BYTES)
    if text is None:
        raise FileNotFoundError(f"{run}: no trained model in it (no model.json); name the --out of a train_vae run")
    try:
        values = untrusted.from_json(text)
    except ValueError:
        values = None
    found = Description.from_json(values if isinstance(values, dict) else {})
    if found.format is None or found.architecture is None:
        raise ValueError(f"{path}: not a description of a model; name the --out of a train_vae run")
    if found.format != FORMAT or found.architecture not in ARCHITECTURES.values():
        raise ValueError(
            f"{path}: a model of {found.format!r}, {found.architecture!r}, wanted {FORMAT}, one of "
            f"{', '.join(ARCHITECTURES.values())}; read it with the program that made it"
        )
    return found


def missing_parts_error(run: str | Path, *names: str) -> ValueError:
    """The error for parts that are None but needed: model.json lacks them, or they have another type."""
    listed = ", ".join(names)
    return ValueError(f"{Path(run) / DESCRIPTION_FILE}: lacks {listed}, or it has another type; train the model again")
