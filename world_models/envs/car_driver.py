"""The policy `driver`: it follows CarRacing's road with random noise, by continuous actions or by keys."""

import math

import numpy as np
from gymnasium import spaces
from jaxtyping import Float32, UInt8

from world_models.envs.drivable import FOR_ANY_ACTIONS, Drivable, generator


class Driver:
    """Follows the centre line at a target speed. Its style and its noise differ from episode to episode.

    The style is fixed for an episode: offset from the centre line, top speed, and grip in curves. The noise is an
    Ornstein-Uhlenbeck process on the offset and on the steering. From time to time the driver also stops steering for
    some steps. So the data also show the car on the road's edge and on the grass, and how it comes back.

    Raises:
        ValueError: the environment is not CarRacing with continuous actions or with its five keys.
    """

    NEEDED_COLUMNS = (
        "velocity_along_m_per_s",
        "center_distance_m",
        "relative_heading_rad",
        "curvature_ahead_10m_per_m",
        "curvature_ahead_25m_per_m",
        "curvature_ahead_50m_per_m",
    )
    WHEELBASE_M = 3.24
    MAX_WHEEL_ANGLE_RAD = 0.4

    def __init__(self, env: Drivable, seed: int):
        missing = [name for name in self.NEEDED_COLUMNS if name not in env.telemetry_names]
        space = env.action_space
        has_pedals, has_keys = isinstance(space, spaces.Box) and space.shape == (3,), space == spaces.Discrete(5)
        if missing or not (has_pedals or has_keys):
            raise ValueError(
                f"policy driver needs CarRacing's telemetry and continuous actions or keys, this env has {space}; "
                f"{FOR_ANY_ACTIONS}, or leave driver out of --mixture"
            )
        self._keys = Keys() if has_keys else None
        self._env = env
        self._columns = [env.telemetry_names.index(name) for name in self.NEEDED_COLUMNS]
        self._rng = generator(seed)
        self._lane_m = self._rng.uniform(-3.0, 3.0)
        self._top_speed_m_per_s = self._rng.uniform(25.0, 65.0)
        self._grip_m_per_s2 = self._rng.uniform(25.0, 70.0)
        self._wander_m = 0.0
        self._shake = 0.0
        self._dozing_steps = 0

    def __call__(self, frame: UInt8[np.ndarray, "64 64 3"]) -> Float32[np.ndarray, " 3"] | int:
        """Steer, gas and brake for the current state; or one key, if the actions are CarRacing's five keys."""
        state = self._env.telemetry()
        speed, offset, heading, *curvatures = (float(state[column]) for column in self._columns)
        self._update_noise()
        steer = self._steer(speed, offset, heading, curvatures[0])
        target = min(self._top_speed_m_per_s, math.sqrt(self._grip_m_per_s2 / (max(map(abs, curvatures)) + 1e-3)))
        gas = min(max(0.08 * (target - speed), 0.0), 1.0) * (1 - 0.6 * abs(steer))
        brake = min(max(0.03 * (speed - 1.15 * target), 0.0), 0.6)
        action = np.array([steer, gas, brake], np.float32)
        return self._keys.press(action) if self._keys else action

    def _update_noise(self) -> None:
        """Advance the noise by one step. It decays in about 2 s for the offset and in 0.25 s for the steering."""
        self._wander_m += -0.01 * self._wander_m + 0.25 * self._rng.standard_normal()
        self._shake += -0.08 * self._shake + 0.04 * self._rng.standard_normal()
        if self._rng.random() < 0.003:
            self._dozing_steps = int(self._rng.integers(10, 40))
        self._dozing_steps -= 1

    def _steer(self, speed: float, offset: float, heading: float, curvature: float) -> float:
        """Stanley's law: the wheel angle of the curve, minus corrections for the errors of heading and offset."""
        if self._dozing_steps > 0:
            return float(np.clip(self._shake, -1, 1))
        error = offset - self._lane_m - self._wander_m
        angle = math.atan(self.WHEELBASE_M * curvature) - 0.9 * heading - math.atan(0.6 * error / (abs(speed) + 10.0))
        return float(np.clip(-angle / self.MAX_WHEEL_ANGLE_RAD * 0.5 + self._shake, -1, 1))


class Keys:
    """Approximates continuous actions by CarRacing's discrete ones, one key a step.

    The difference between the wanted actions and the pressed keys is carried over to the next step, up to a limit. The
    key that leaves the smallest difference is pressed.
    """

    ACTIONS = np.array([[0, 0, 0], [0.6, 0, 0], [-0.6, 0, 0], [0, 0.2, 0], [0, 0, 0.8]])
    """Steer, gas and brake of each key: none, right, left, gas, brake; as CarRacing defines them."""
    LIMIT = np.array([1.0, 0.4, 0.8])

    def __init__(self):
        self._remainder = np.zeros(3)

    def press(self, wanted: Float32[np.ndarray, " 3"]) -> int:
        """The key for this step, 0 to 4, for the wanted steer, gas and brake."""
        self._remainder = np.clip(self._remainder + wanted, -self.LIMIT, self.LIMIT)
        key = int(((self._remainder - self.ACTIONS) ** 2).sum(axis=1).argmin())
        self._remainder = self._remainder - self.ACTIONS[key]
        return key
