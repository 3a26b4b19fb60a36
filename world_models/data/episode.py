"""One episode of rollouts, in memory."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float32, UInt8

FRAME_SHAPE = (64, 64, 3)

Frame = UInt8[np.ndarray, "64 64 3"]


@dataclasses.dataclass(frozen=True)
class Episode:
    """One episode of T transitions and T + 1 frames.

    Attributes:
        actions: a_0 .. a_{T-1}; `actions[t]` was chosen after seeing `frames[t]`.
        rewards: the reward of each action.
        terminated, truncated: whether each action terminated or truncated the episode.
        frames: x_0 .. x_T.
        telemetry: simulator state at each frame.
        seed: seed of the environment.
        policy: name of the policy that drove.

    Example:
        >>> episode = world_models.Rollouts("rollouts/carracing")[0]
        >>> len(episode), episode.actions.shape, episode.frames.shape
        (40, (40, 3), (41, 64, 64, 3))
    """

    actions: Float32[np.ndarray, "T A"]
    rewards: Float32[np.ndarray, " T"]
    terminated: Bool[np.ndarray, " T"]
    truncated: Bool[np.ndarray, " T"]
    frames: UInt8[np.ndarray, "T+1 64 64 3"]
    telemetry: Float32[np.ndarray, "T+1 S"]
    seed: int
    policy: str

    def __len__(self) -> int:
        return len(self.actions)

    def __repr__(self) -> str:
        return f"Episode(steps={len(self)}, return={self.rewards.sum():.1f}, seed={self.seed}, policy={self.policy!r})"
