"""The policy `expert`: a fast, deterministic driver of CarRacing that reads the simulator's state.

It has three uses: it collects data with finished laps, it teaches controllers that learn by imitation, and its score
is an upper bar for theirs. Its steering depends on the distance from the centre line, the heading and the curve ahead.
All three can be seen in a frame, so a controller that sees one frame can learn to steer like the expert.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from gymnasium import spaces
from jaxtyping import Float32

from world_models.envs.drivable import FOR_ANY_ACTIONS
from world_models.runtime.errors import require


@dataclasses.dataclass(frozen=True)
class Skill:
    """Parameters of the expert. The defaults finished 94 of 100 unseen tracks and earned 914 on average.

    Attributes:
        top_speed_m_per_s: speed on a straight road.
        grip_m_per_s2: largest sideways acceleration in a curve; the speed there is sqrt(grip / curvature).
        braking_m_per_s2: deceleration that is assumed before a curve.
        steer_per_curvature_m: steering (1 is full) for each 1/m of curvature 10 m ahead.
        steer_per_heading: steering for each radian between the car and the road, towards the road's direction.
        steer_per_offset: steering for each metre from the centre line, towards the line.
        gas_per_speed: gas for each m/s below the target speed.
        brake_per_speed: brake for each m/s above the target speed.
        max_brake: largest brake; the wheels block from 0.9 on.
        gas_less_steering: share by which full steering reduces the gas, because the rear wheels slide with both.
    """

    top_speed_m_per_s: float = 75.0
    grip_m_per_s2: float = 130.0
    braking_m_per_s2: float = 40.0
    steer_per_curvature_m: float = 4.0
    steer_per_heading: float = 1.1
    steer_per_offset: float = 0.0125
    gas_per_speed: float = 0.03
    brake_per_speed: float = 0.01
    max_brake: float = 0.4
    gas_less_steering: float = 0.6

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            require(0 <= value < math.inf, f"{name} is {value}; give 0 or more")
        require(self.max_brake < 0.9, f"max_brake is {self.max_brake}; give less than 0.9, where the wheels block")


BRAKING_ROOM_M = {"curvature_ahead_10m_per_m": 0, "curvature_ahead_25m_per_m": 10, "curvature_ahead_50m_per_m": 35}
"""Columns of curvature, and the distance in metres that is left for braking before each."""
STRAIGHT_PER_M = 1e-3
LARGEST_OFFSET_M = 6.0
"""A larger offset adds no steering. Otherwise the car would come back onto the road at a right angle."""
LOST_RAD, SPINNING_RAD_PER_S = 0.3, 3.0
"""Above this heading error or this yaw rate the expert slows down until it controls the car again."""


class Expert:
    """Steers along the centre line by Stanley's law, as fast as the curves ahead allow.

    Nothing in it is random: the seed determines only the track. It can act in every state, also in one that another
    driver has caused: off the road or spinning, it drives slowly until the car points along the road again.

    Args:
        env: CarRacing with continuous actions.
        seed: seed of the episode; not used.
        skill: parameters of the driving.

    Raises:
        ValueError: the environment is another one.
    """

    NEEDED_COLUMNS = (
        "velocity_along_m_per_s",
        "center_distance_m",
        "relative_heading_rad",
        "yaw_rate_rad_per_s",
        *BRAKING_ROOM_M,
    )

    def __init__(self, env: Any, seed: int, skill: Skill | None = None):
        names, space = env.telemetry_names, env.action_space
        if not (set(self.NEEDED_COLUMNS) <= set(names) and isinstance(space, spaces.Box) and space.shape == (3,)):
            raise ValueError(
                f"no expert for this environment: it drives CarRacing with continuous actions, this env has {space}; "
                f"{FOR_ANY_ACTIONS}, or choose CarRacing-v3"
            )
        self._env, self._skill = env, skill or Skill()
        self._columns = [names.index(name) for name in self.NEEDED_COLUMNS]

    def __call__(self, frame: Any) -> Float32[np.ndarray, " 3"]:
        """Steer, gas and brake for the current state of the simulator; the frame is ignored."""
        state = self._env.telemetry()
        speed, offset, heading, yaw_rate, *curvatures = (float(state[column]) for column in self._columns)
        steer = self._steer(offset, heading, curvatures[0])
        control = _control(heading, yaw_rate)
        excess = speed - control * self._target_speed(curvatures)
        skill = self._skill
        gas = min(max(-skill.gas_per_speed * excess, 0.0), 1.0) * (1 - skill.gas_less_steering * abs(steer)) * control
        brake = min(max(skill.brake_per_speed * excess, 0.0), skill.max_brake)
        return np.array([steer, gas, brake], np.float32)

    def _steer(self, offset: float, heading: float, curvature: float) -> float:
        """A linear Stanley's law: follow the curve, minus corrections for heading and offset; right is positive."""
        skill = self._skill
        offset = min(max(offset, -LARGEST_OFFSET_M), LARGEST_OFFSET_M)
        left = skill.steer_per_curvature_m * curvature
        left -= skill.steer_per_heading * heading + skill.steer_per_offset * offset
        return min(max(-left, -1.0), 1.0)

    def _target_speed(self, curvatures: list[float]) -> float:
        """The highest speed, in m/s, from which the car can still brake to the speed that each curve ahead allows."""
        skill, squares = self._skill, [self._skill.top_speed_m_per_s**2]
        for curvature, room_m in zip(curvatures, BRAKING_ROOM_M.values(), strict=True):
            in_curve = skill.grip_m_per_s2 / (abs(curvature) + STRAIGHT_PER_M)
            squares.append(in_curve + 2 * skill.braking_m_per_s2 * room_m)
        return math.sqrt(min(squares))


def _control(heading: float, yaw_rate: float) -> float:
    """How stable the car is: 1 along the road, and down to 0.2 if it points elsewhere or spins."""
    lost, spinning = max(0.0, abs(heading) - LOST_RAD), max(0.0, abs(yaw_rate) - SPINNING_RAD_PER_S)
    return max(0.2, 1 - 0.7 * lost - 0.3 * spinning)
