"""Settings of a collection, and which of them define the data set."""

import dataclasses
import json
from typing import Any, Literal

from world_models import envs
from world_models.envs import RendererName
from world_models.runtime import ray_connection
from world_models.runtime.cli import ONLY_IF_SET
from world_models.runtime.errors import require, require_bounds
from world_models.runtime.paths import PATH, resolve_fields
from world_models.runtime.typed_json import Json

MAX_WEIGHT = 1_000_000_000
IDENTITY = (
    "env",
    "env_args",
    "seed",
    "max_steps",
    "episodes_per_shard",
    "policy",
    "mixture",
    "warmup_steps",
    "preprocess",
)
"""Two collections are the same data set if these settings agree."""


def _default_mixture() -> dict[str, float]:
    return {"brownian": 1.0, "driver": 1.0}


@dataclasses.dataclass(frozen=True)
class CollectConfig:
    """What to collect, and how.

    Attributes:
        out: folder of the data set.
        num_episodes: number of episodes in all; a larger number than before extends the data set.
        max_steps: number of steps after which an episode is truncated.
        env: id of a Gymnasium environment with image observations or render_mode rgb_array; module:id imports first.
        env_args: arguments for the environment, by name, such as domain_randomize of CarRacing.
        policy: what drives: random, repeated, brownian, driver, expert, mixture, or your own as package.module:name.
        mixture: policies of mixture, with the weight of each.
        seed: seed of the first episode; episode i has seed + i.
        warmup_steps: number of steps with zero actions at the start of an episode; they are not stored.
        crop: rows of the observation to keep: auto, none, or TOP:BOTTOM; they are resized to 64x64, the paper's size.
        renderer: renderer of CarRacing: auto, c, pygame, or gymnasium; all give the same frames.
        num_workers: number of processes; 0 for one per core. With ray, number of shards that are made at a time.
        executor: where the work runs: processes, serial, or ray, the nodes of a Ray cluster.
        episodes_per_shard: number of episodes in a file.
        verify: data set to check and describe, instead of collecting.
        ray_address: with executor ray, HOST:PORT of the cluster, or local; null takes RAY_ADDRESS, else Ray's choice.
    """

    out: str = dataclasses.field(default="rollouts/carracing", metadata=PATH)
    num_episodes: int = 40
    max_steps: int = 500
    env: str = "CarRacing-v3"
    env_args: dict[str, Any] = dataclasses.field(default_factory=dict)
    policy: str = "mixture"
    mixture: dict[str, float] = dataclasses.field(default_factory=_default_mixture)
    seed: int = 0
    warmup_steps: int = 0
    crop: str = "auto"
    renderer: RendererName = "auto"
    num_workers: int = 0
    executor: Literal["processes", "serial", "ray"] = "processes"
    episodes_per_shard: int = 10
    verify: str | None = dataclasses.field(default=None, metadata=PATH)
    ray_address: str | None = dataclasses.field(default=None, metadata=ONLY_IF_SET)

    def __post_init__(self):
        resolve_fields(self)
        require(self.num_workers >= 0, f"num_workers is {self.num_workers}; give 0 (one per core) or more")
        require_bounds(
            self,
            num_episodes=(1, 100_000_000),
            max_steps=(1, 2**31 - 2),  # the column episode_length is int32
            episodes_per_shard=(1, 100_000_000),
            seed=(0, 2**63 - 1),
            warmup_steps=(0, 10_000),
            num_workers=(0, 10_000),
        )
        require(
            self.seed + self.num_episodes <= 2**63, f"seed is {self.seed}; the last episode's seed must be below 2^63"
        )
        ray_connection.check_setting(self.ray_address, self.executor)
        envs.check_arguments(self.env_args)
        good = self.mixture and all(0 < weight <= MAX_WEIGHT for weight in self.mixture.values())
        require(bool(good), f"mixture is {self.mixture}; give each policy a weight above 0, {MAX_WEIGHT:,} at most")

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each policy that drives."""
        return self.mixture if self.policy == "mixture" else {self.policy: 1.0}


def identity(config: CollectConfig, preprocess: Json) -> dict[str, Json]:
    """The settings that define a data set. Workers, executor and folder are not among them.

    Args:
        config: the collection.
        preprocess: how its frames are made; it replaces `crop`, because `crop: auto` depends on the environment.
    """
    env_args = envs.check_arguments(config.env_args)
    resolved = {"env_args": env_args, "preprocess": preprocess, "mixture": config.weights}
    return json.loads(json.dumps({name: resolved.get(name, getattr(config, name, None)) for name in IDENTITY}))
