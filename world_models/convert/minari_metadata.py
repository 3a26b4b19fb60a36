"""What a Minari data set says of itself: its spaces, its environment, and the rest of its metadata."""

import copy
import dataclasses
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec

from world_models.convert.config import MinariSettings
from world_models.data.latents import Latents
from world_models.data.rollouts import FRAME_SHAPE, Rollouts
from world_models.envs import action_columns
from world_models.runtime.terminal import printable
from world_models.version import __version__

RECORD = "world_models"
"""The key of our own part of the metadata."""
REQUIREMENT, BOX2D_REQUIREMENT = "gymnasium>=1.1", "gymnasium[box2d]>=1.1"


def observation_space(data: Rollouts | Latents, settings: MinariSettings) -> gymnasium.Space:
    """Frames; or mu, or a dict of mu and logvar, in their dtype."""
    if isinstance(data, Rollouts):
        return gymnasium.spaces.Box(0, 255, FRAME_SHAPE, np.uint8)
    dtypes = data.shards[0].column_dtypes
    spaces: dict[str, gymnasium.Space] = {
        name: gymnasium.spaces.Box(-np.inf, np.inf, (data.z_dim,), np.dtype(dtypes[name]).type)
        for name in ("mu", "logvar")
    }
    return gymnasium.spaces.Dict(spaces) if settings.observations == "mu_logvar" else spaces["mu"]


def action_space(data: Rollouts | Latents) -> gymnasium.Space:
    """The environment's action space; a Box without bounds if the data set does not know it exactly."""
    try:
        space = _described_space(data.action_space)
    except Exception:  # Gymnasium raises whatever a wrong description makes it trip over
        space = None
    if space is not None and action_columns.num_columns(space) == data.num_actions:
        return space
    return gymnasium.spaces.Box(-np.inf, np.inf, (data.num_actions,), np.float32)


def _described_space(known: Mapping[str, Any]) -> gymnasium.Space | None:
    """The inverse of `action_columns.describe_space`. Other spaces than Box and Discrete are not described in full."""
    if known["type"] == "Discrete":
        return gymnasium.spaces.Discrete(known["n"], start=known["start"])
    if known["type"] != "Box":
        return None
    shape = tuple(known["shape"])
    low, high = (
        np.array([infinite if bound is None else bound for bound in known[name]], np.float32).reshape(shape)
        for name, infinite in (("low", -np.inf), ("high", np.inf))
    )
    return gymnasium.spaces.Box(low, high, shape, np.float32)


def env_spec(data: Rollouts | Latents) -> EnvSpec | None:
    """The environment; None if it is unknown. No module is imported for it, because the data set names it."""
    if not isinstance(data, Rollouts):
        return None
    env_id = str(data.shards[0].attributes["env"])
    registered = gymnasium.registry.get(env_id.rpartition(":")[2])
    if registered is None:
        return None
    spec = copy.deepcopy(registered)
    spec.kwargs.update(data.env_args)
    try:
        spec.to_json()
    except (TypeError, ValueError):  # made by a function, which has no name to be stored
        return None
    return spec


def record(data: Rollouts | Latents, settings: MinariSettings) -> dict[str, str]:
    """What the metadata hold as `world_models`: the data, and the settings that it was written with."""
    return {"digest": data.digest(), **dataclasses.asdict(settings)}


def new_storage(path: Path, data: Rollouts | Latents, settings: MinariSettings) -> Any:
    """Let Minari begin a data set: metadata with the spaces, and an empty file."""
    from minari.dataset.minari_storage import MinariStorage

    return MinariStorage.new(
        path,
        observation_space=observation_space(data, settings),
        action_space=action_space(data),
        env_spec=env_spec(data),
        data_format="hdf5",
        jpeg_encoding=False,
    )


def metadata(dataset_id: str, data: Rollouts | Latents, settings: MinariSettings) -> dict[str, Any]:
    """The metadata of the data set, complete as Minari asks for them, but for its size."""
    spec = env_spec(data)
    has_box2d = spec is not None and ("box2d" in str(spec.entry_point) or str(spec.entry_point).startswith(RECORD))
    of_env = {} if spec is None else {"eval_env_spec": spec.to_json()}
    return {
        **of_env,
        "dataset_id": dataset_id,
        "minari_version": importlib.metadata.version("minari"),
        "total_episodes": len(data),
        "total_steps": data.num_rows - len(data),
        "author": {settings.author},
        "author_email": {settings.author_email},
        "code_permalink": settings.code_permalink,
        "algorithm_name": ", ".join(sorted({printable(policy) for policy in data.policies})),
        "description": _description(data),
        "requirements": [BOX2D_REQUIREMENT if has_box2d else REQUIREMENT],
        RECORD: {**record(data, settings), "preprocess": data.preprocess, "version": __version__},
    }


def _description(data: Rollouts | Latents) -> str:
    if isinstance(data, Rollouts):
        what = f"Rollouts of {printable(data.env)}: frames of 64x64 pixels, actions, rewards and ends."
    else:
        sha256 = printable(data.vae_sha256)
        what = f"Latents: the posterior of a VAE for each frame, z_dim {data.z_dim}, weights with sha256 {sha256}."
    return f"{what} Preprocessing: {json.dumps(data.preprocess)}. Written by world_models {__version__}."
