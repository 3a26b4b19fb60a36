"""model.json: what is needed beside the weights to load a model, and what the model was trained on. No torch in here.

The file may come from anybody, and older models say less. A part that is absent or of another type is None, and
whoever needs that part refuses the file.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from world_models.runs.layout import DESCRIPTION_FILE
from world_models.runtime import files, untrusted
from world_models.runtime.typed_json import Json

FORMAT = "world_models.vae"
ARCHITECTURES = {"paper": "conv_vae", "mlp": "mlp_vae", "conv": "small_conv_vae"}
"""What model.json calls a network."""
MAX_BYTES = 50_000_000  # it lists the seeds of the training episodes, 12 bytes each

Kind = TypeVar("Kind")


@dataclasses.dataclass(frozen=True)
class TrainedOn:
    """The data that a model was trained on. The last four are of rollouts; MNIST has none of them.

    Attributes:
        dataset: its kind, rollouts or mnist.
        data: its folder.
        data_digest: of what was in it.
        env: the environment of the rollouts.
        env_args: the arguments that it was made with.
        train_seeds: of the episodes that were trained on.
        split_seed: chose those episodes.
    """

    dataset: str = "rollouts"
    data: str | None = None
    data_digest: str | None = None
    env: str | None = None
    env_args: Mapping[str, Json] | None = None
    train_seeds: list[int] | None = None
    split_seed: int | None = None


@dataclasses.dataclass(frozen=True)
class Description:
    """What model.json says of a model.

    Attributes:
        architecture: what its network is called, one of `ARCHITECTURES`.
        vae: the settings of its `VAEConfig`.
        preprocess: how observations have to be turned into its frames.
        versions: of what made it; empty where it is not said.
        trained_on: the data that it was trained on.
        step: steps that it was trained for.
        format: `FORMAT`, or it is no model of ours.
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
        """Read the JSON object. Models that do not name their kind of data, or arguments, are of rollouts without."""
        seeds = _of(list, values.get("train_seeds"))
        return cls(
            architecture=_of(str, values.get("architecture")),
            vae=_of(dict, values.get("vae")),
            preprocess=_of(dict, values.get("preprocess")),
            versions={name: str(version) for name, version in (_of(dict, values.get("versions")) or {}).items()},
            trained_on=TrainedOn(
                dataset=_of(str, values.get("dataset")) or TrainedOn.dataset,
                data=_of(str, values.get("data")),
                data_digest=_of(str, values.get("data_digest")),
                env=_of(str, values.get("env")),
                env_args=_of(dict, values.get("env_args", {})),
                train_seeds=seeds if seeds is None or {type(seed) for seed in seeds} <= {int} else None,
                split_seed=_of(int, values.get("split_seed")),
            ),
            step=_of(int, values.get("step")) or 0,
            format=_of(str, values.get("format")),
        )

    def save(self, run: Path) -> None:
        """Write model.json."""
        head = {name: getattr(self, name) for name in ("format", "architecture", "vae", "preprocess", "versions")}
        data = {name: value for name, value in vars(self.trained_on).items() if value is not None}
        files.write_json(run / DESCRIPTION_FILE, {**head, **data, "step": self.step})


def _of(kind: type[Kind], value: Json) -> Kind | None:
    """The value if it is of that type, which a truth value never is."""
    return value if type(value) is kind else None


def load(run: str | Path) -> Description:
    """Read the model.json of a model.

    Raises:
        FileNotFoundError: the folder holds no model.
        ValueError: it describes no model of an architecture that is known.
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
        raise ValueError(f"{path}: describes no model; name the --out of a train_vae run")
    if found.format != FORMAT or found.architecture not in ARCHITECTURES.values():
        raise ValueError(
            f"{path}: a model of {found.format!r}, {found.architecture!r}, wanted {FORMAT}, one of "
            f"{', '.join(ARCHITECTURES.values())}; read it with the program that made it"
        )
    return found


def lacks(run: str | Path, *names: str) -> ValueError:
    """The error where parts are needed that are None: model.json does not have them, or has another type there."""
    listed = ", ".join(names)
    return ValueError(
        f"{Path(run) / DESCRIPTION_FILE}: lacks {listed}, or has another type there; train the model again"
    )
