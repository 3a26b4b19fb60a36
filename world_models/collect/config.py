"""Settings of a collection, and which of them define the data set."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from world_models import envs
from world_models.envs import RendererName
from world_models.runtime import executors
from world_models.runtime.errors import require, require_bounds
from world_models.runtime.paths import PATH, resolve_fields

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
"""Settings that have to agree where two collections are the same data set."""


def _default_mixture() -> dict[str, float]:
    return {"brownian": 1.0, "driver": 1.0}


@dataclasses.dataclass(frozen=True)
class CollectConfig:
    """What to collect, and how.

    Attributes:
        out: folder of the data set.
        num_episodes: episodes in all; more than are there extends the data set.
        max_steps: steps after which an episode is truncated.
        env: id of a Gymnasium environment with image observations or render_mode rgb_array; module:id imports first.
        env_args: arguments for the environment, by name, such as domain_randomize of CarRacing.
        policy: who drives: random, brownian, driver, expert, mixture, or your own as package.module:name.
        mixture: weights of the policies that mixture deals out over the episodes.
        seed: seed of the first episode; episode i has seed + i.
        warmup_steps: steps with zero actions before an episode's first row, which are not stored.
        crop: rows of the observation to keep: auto, none, or TOP:BOTTOM.
        renderer: who draws CarRacing: auto, c, pygame, or gymnasium; the frames are the same.
        num_workers: processes at once; 0 for one a core.
        executor: where the work runs: processes, serial, or ray.
        episodes_per_shard: episodes in a file.
        verify: check this data set and show what it holds, instead of collecting.
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
    executor: executors.Executor = "processes"
    episodes_per_shard: int = 10
    verify: str | None = dataclasses.field(default=None, metadata=PATH)

    def __post_init__(self):
        resolve_fields(self)
        require(self.num_workers >= 0, f"num_workers is {self.num_workers}; give 0 (one a core) or more")
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
            self.seed + self.num_episodes <= 2**63, f"seed is {self.seed}; give one whose last episode is below 2^63"
        )
        envs.check_arguments(self.env_args)
        good = self.mixture and all(0 < weight <= MAX_WEIGHT for weight in self.mixture.values())
        require(bool(good), f"mixture is {self.mixture}; give each policy a weight above 0, {MAX_WEIGHT:,} at most")

    @property
    def weights(self) -> dict[str, float]:
        """The policies that drive, by weight."""
        return self.mixture if self.policy == "mixture" else {self.policy: 1.0}


def identity(config: CollectConfig, preprocess: Mapping[str, Any]) -> dict[str, Any]:
    """What makes two collections the same data set; workers, executor and folder may differ.

    Args:
        config: the collection.
        preprocess: how its frames are made; what `crop: auto` means is for the environment to say.
    """
    env_args = envs.check_arguments(config.env_args)
    how = {"env_args": env_args, "preprocess": preprocess, "mixture": config.weights}
    return json.loads(json.dumps({name: how.get(name, getattr(config, name, None)) for name in IDENTITY}))
