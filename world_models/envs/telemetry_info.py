"""A Gymnasium wrapper that gives the simulator's state in `info`."""

from typing import Any, SupportsFloat

import gymnasium
from gymnasium.utils import RecordConstructorArgs

from world_models.envs.simulators import KNOWN, Telemetry, simulator_of


class TelemetryInfo(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Puts the simulator's state into `info`. Names and values are those of the telemetry in rollouts.

    The names carry the units, such as `velocity_along_m_per_s` and `center_distance_m`. The values are floats and
    belong to the observation that `reset` or `step` returns.

    Args:
        env: CarRacing or a subclass of it, wrapped or not. Wrap it before you put it into a vector environment.

    Raises:
        ValueError: the simulator is unknown.

    Example:
        >>> env = TelemetryInfo(gymnasium.make("world_models:world_models/CarRacing-v3"))
        >>> _, info = env.reset(seed=0)
        >>> info["wheels_on_road_share"]
        1.0
    """

    def __init__(self, env: gymnasium.Env[Any, Any]):
        RecordConstructorArgs.__init__(self)
        self._simulator = simulator_of(env)
        if not self._simulator.telemetry_names:
            found, known = type(env.unwrapped).__name__, " or ".join(KNOWN)
            raise ValueError(f"the environment is {found}, whose state is not known here; give one {known}")
        super().__init__(env)
        self._read: Telemetry | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; `info` holds the state."""
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, info | self._state()

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Take an action; `info` holds the state."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, info | self._state()

    def _state(self) -> dict[str, float]:
        if self._read is None or not self._read.is_of_this_episode():  # a wrapper below may reset within `step`
            self._read = self._simulator.telemetry()
        return dict(zip(self._simulator.telemetry_names, self._read().tolist(), strict=True))
