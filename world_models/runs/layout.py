"""The names of the files in a run's folder, runs/<name>/. All code takes these names from here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from world_models.runtime.typed_json import Json

Weights = Literal["best", "last"]

CONFIG_FILE = "config.yaml"
METRICS_FILE = "metrics.jsonl"
DESCRIPTION_FILE = "model.json"
SCORES_FILE = "eval.json"
WEIGHT_FILES: Mapping[Weights, str] = {"best": "best.safetensors", "last": "model.safetensors"}
BASELINES_FILE = "baselines.safetensors"
STATE_FILE = "state.pt"
REPORT_FILE = "report.html"
FIGURES = "figures"
FILES = (
    *(CONFIG_FILE, METRICS_FILE, DESCRIPTION_FILE, SCORES_FILE, BASELINES_FILE, STATE_FILE, REPORT_FILE),
    *WEIGHT_FILES.values(),
)


def weights_path(run: str | Path, weights: Weights = "best") -> Path:
    """The path of the best or the last weights of a run."""
    return Path(run) / WEIGHT_FILES[weights]


def flatten(values: Mapping[str, Json], separator: str = ".") -> dict[str, Json]:
    """Flatten nested values into dotted names: `{"vae": {"beta": 4}}` becomes `{"vae.beta": 4}`."""
    flat: dict[str, Json] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= {f"{name}{separator}{inner}": each for inner, each in flatten(value, separator).items()}
        else:
            flat[str(name)] = value
    return flat
