"""One episode while it is driven: warm-up, then one action after another. Errors name the policy or the environment."""

import contextlib
from collections.abc import Iterator
from typing import NoReturn

import numpy as np
from jaxtyping import Float32

from world_models import envs
from world_models.envs import policies
from world_models.runtime.errors import Stopped

MAX_REWARD = float(np.finfo(np.float32).max)


class LiveEpisode:
    """One episode of an environment, driven by a policy; `begin` makes it.

    Attributes:
        env: the environment.
        policy_name: name of the policy that drives.
        seed: seed of the episode.
        frame: the current frame.
        steps: number of actions so far.
        num_clipped: number of actions that lay outside their Box.
    """

    def __init__(self, env: envs.FrameEnv, policy_name: str, seed: int, frame: envs.Frame):
        self.env, self.policy_name, self.seed, self.frame = env, policy_name, seed, frame
        self.steps = self.num_clipped = 0
        factory = policies.load_policy(policy_name)
        try:
            self._policy = factory(env, seed)
        except Exception as error:
            self._raise_as_stopped(f"when it is made for the episode of seed {seed}", error)

    def act(self) -> Float32[np.ndarray, " A"]:
        """Ask the policy for the next action. Returns its columns, clipped to their Box.

        Raises:
            Stopped: the policy fails, or its action does not fit the environment's space.
        """
        self.steps += 1
        try:
            chosen = self._policy(self.frame)
        except Exception as error:
            self._raise_as_stopped(f"at {self._now}", error)
        try:
            columns = envs.to_columns(self.env.action_space, chosen)
        except ValueError as error:
            raise Stopped(f"policy {self.policy_name!r} at {self._now}: {error}") from None
        inside = envs.clipped(self.env.action_space, columns)
        self.num_clipped += inside is not columns
        return inside

    def step(self, action: Float32[np.ndarray, " A"]) -> tuple[float, bool, bool]:
        """Take the action. Returns reward, terminated, truncated.

        Raises:
            Stopped: the environment fails, shows no picture, or gives a reward that is not a finite float32 number.
        """
        with env_errors_at(self._now):
            self.frame, reward, terminated, truncated = self.env.step(action)
        if not abs(reward) <= MAX_REWARD:  # true for NaN too
            raise Stopped(
                f"{self.env.name}: the reward is {reward} at {self._now}; a memory model learns from finite float32 "
                "rewards only, so fix the environment"
            )
        return reward, terminated, truncated

    @property
    def _now(self) -> str:
        return f"step {self.steps} of the episode of seed {self.seed}"

    def _raise_as_stopped(self, when: str, error: Exception) -> NoReturn:
        """Raise a policy's error with the policy's name and line. An error of a built-in policy is raised unchanged."""
        if self.policy_name in policies.BUILTIN:
            raise error
        problem = f"policy {self.policy_name!r} fails {when}: {envs.describe_error(error)}"
        raise Stopped(f"{problem}; {envs.HOW_TO_FIX}") from error


def begin(env: envs.FrameEnv, policy_name: str, seed: int, warmup_steps: int) -> LiveEpisode | None:
    """Begin the episode of this seed and take the warm-up steps. Returns None if the episode ended during them.

    Raises:
        Stopped: the environment fails, shows no picture, or has no action for the warm-up; or the policy cannot be
            made.
    """
    idle = _idle_action(env) if warmup_steps else np.zeros(0, np.float32)
    with env_errors_at(f"reset of the episode of seed {seed}"):
        frame = env.reset(seed)
    for step in range(1, warmup_steps + 1):
        with env_errors_at(f"warm-up step {step} of the episode of seed {seed}"):
            frame, _, terminated, truncated = env.step(idle)
        if terminated or truncated:
            return None
    return LiveEpisode(env, policy_name, seed, frame)


@contextlib.contextmanager
def env_errors_at(moment: str) -> Iterator[None]:
    """Add the moment, such as `step 3 of the episode of seed 0`, to errors of the environment in this block.

    Raises:
        Stopped: the environment fails or shows no picture.
    """
    try:
        yield
    except envs.EnvError as error:
        raise Stopped(f"{moment}: {error}") from error


def _idle_action(env: envs.FrameEnv) -> Float32[np.ndarray, " A"]:
    """The action of the warm-up: zeros, or the nearest action if zeros lie outside the Box."""
    zeros = np.zeros(envs.num_columns(env.action_space), np.float32)
    try:
        return envs.clipped(env.action_space, envs.to_columns(env.action_space, zeros))
    except ValueError:
        raise Stopped(f"{env.name} has no action 0 for the warm-up; give no --warmup_steps") from None
