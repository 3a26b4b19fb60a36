"""The vision component of World Models: from CarRacing to latent sequences for a memory model.

    collect    envs + policies -> rollouts/<name>/shard-*.h5    64x64x3 frames, actions, rewards, ends, telemetry
    train_vae  frames -> VAE -> runs/<name>/                    the V model of Ha & Schmidhuber (2018)
    encode     rollouts + V model -> latents/<name>/shard-*.h5  mu and logvar of every frame
    evaluate   scores a V model                                 numbers, figures, a report page
    compare    compares several runs                            a table, a page
    explore    makes a page to play with a V model              one HTML file
    convert    other people's data -> rollouts, and rollouts and latents -> other people's formats

Each is a command, `python -m world_models.<verb> --help`. `python -m world_models` runs the first four on a small
scale. From Python, `Rollouts`, `Latents` and `LatentSequences` read the files of the commands, `load_vae` loads a V
model, and `preprocess` turns an observation into a frame. `LatentObservation` is a Gymnasium wrapper that observes z.
`TelemetryInfo` is a wrapper that puts the simulator's state into `info`. Importing this package registers the
environment `world_models/CarRacing-v3`, which is CarRacing-v3 with the fast renderer. It does not import torch, Box2D
or OpenCV.
"""

import importlib
from typing import TYPE_CHECKING, Any

import gymnasium

from world_models.version import __version__

if TYPE_CHECKING:
    from world_models.data.episode import Episode
    from world_models.data.latents import Latents
    from world_models.data.rollouts import Rollouts
    from world_models.data.sequences import LatentSequences
    from world_models.envs.preprocessing import preprocess
    from world_models.envs.telemetry_info import TelemetryInfo
    from world_models.runs.checkpoints import load_vae
    from world_models.vae.latent_observation import LatentObservation

_PUBLIC = {
    "Episode": "data.episode",
    "LatentObservation": "vae.latent_observation",
    "Latents": "data.latents",
    "LatentSequences": "data.sequences",
    "Rollouts": "data.rollouts",
    "TelemetryInfo": "envs.telemetry_info",
    "load_vae": "runs.checkpoints",
    "preprocess": "envs.preprocessing",
}
__all__ = [
    "Episode",
    "LatentObservation",
    "LatentSequences",
    "Latents",
    "Rollouts",
    "TelemetryInfo",
    "__version__",
    "load_vae",
    "preprocess",
]

gymnasium.register(
    id="world_models/CarRacing-v3",
    entry_point="world_models.envs.car_racing:CarRacing",
    max_episode_steps=1000,
    reward_threshold=900,
)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
