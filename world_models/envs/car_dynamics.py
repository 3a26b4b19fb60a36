"""A faster step of CarRacing's car: with Python's floats instead of NumPy's scalars. The results are the same bits."""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.envs.box2d import car_dynamics, car_racing
from gymnasium.envs.box2d.car_dynamics import ENGINE_POWER, FRICTION_LIMIT, SIZE, WHEEL_MOMENT_OF_INERTIA

BRAKE_RAD_PER_S = 15
STIFFNESS = 205000 * SIZE * SIZE


class FastCar(car_dynamics.Car):
    """Gymnasium's car with faster `gas` and `step`, which compute the same numbers in the same order.

    Args:
        car: the car that Gymnasium has made inside `reset`. The new car takes over its hull and wheels.
    """

    def __init__(self, car: car_dynamics.Car):
        vars(self).update(vars(car))

    def gas(self, gas: float) -> None:
        """Set the throttle of the rear wheels. It opens gradually and closes at once."""
        gas = 0 if gas < 0 else 1 if gas > 1 else float(gas)
        for wheel in self.wheels[2:4]:
            wheel.gas += min(gas - wheel.gas, 0.1)

    def step(self, dt: float) -> None:
        """Turn the wheels and apply their forces for a time step of `dt` seconds."""
        for wheel in self.wheels:
            self._step_wheel(wheel, dt)

    def _step_wheel(self, wheel: Any, dt: float) -> None:
        joint, rotation, velocity = wheel.joint, wheel.transform.q, wheel.linearVelocity
        error = wheel.steer - joint.angle
        joint.motorSpeed = _sign(error) * min(50.0 * abs(error), 3.0)

        friction_limit, grass = FRICTION_LIMIT * 0.6, not wheel.tiles
        for tile in wheel.tiles:
            friction_limit = max(friction_limit, FRICTION_LIMIT * tile.road_friction)

        omega, brake, radius = wheel.omega, wheel.brake, wheel.wheel_rad
        omega += dt * ENGINE_POWER * wheel.gas / WHEEL_MOMENT_OF_INERTIA / (abs(omega) + 5.0)
        self.fuel_spent += dt * ENGINE_POWER * wheel.gas
        if brake >= 0.9:
            omega = 0
        elif brake > 0:
            omega += -_sign(omega) * min(BRAKE_RAD_PER_S * brake, abs(omega))
        wheel.phase += omega * dt

        # The wheel's own axes: forward is (-sine, cosine), sideways is (cosine, sine).
        sine, cosine, vx, vy = rotation.s, rotation.c, velocity.x, velocity.y
        forward_force = (-(-sine * vx + cosine * vy) + omega * radius) * STIFFNESS
        side_force = -(cosine * vx + sine * vy) * STIFFNESS
        force = math.sqrt(forward_force * forward_force + side_force * side_force)
        self._leave_trace(wheel, grass, force > 2.0 * friction_limit)
        if force > friction_limit:
            forward_force = forward_force / force * friction_limit
            side_force = side_force / force * friction_limit
        wheel.omega = omega - dt * forward_force * radius / WHEEL_MOMENT_OF_INERTIA
        wheel.ApplyForceToCenter(
            (side_force * cosine + forward_force * -sine, side_force * sine + forward_force * cosine), True
        )

    def _leave_trace(self, wheel: Any, grass: bool, skids: bool) -> None:
        """Extend the skid mark of a wheel that skids. Only Gymnasium's window shows these marks."""
        if not skids:
            wheel.skid_start = wheel.skid_particle = None
            return
        particle, place = wheel.skid_particle, wheel.position
        if particle and particle.grass == grass and len(particle.poly) < 30:
            particle.poly.append((place[0], place[1]))
        elif wheel.skid_start is None:
            wheel.skid_start = place
        else:
            wheel.skid_particle = self._create_particle(wheel.skid_start, place, grass)
            wheel.skid_start = None


def _sign(x: float) -> float:
    return 1.0 if x > 0 else -1.0 if x < 0 else x + 0.0  # NumPy's sign of -0.0 is 0.0


def move_car(car: Any, x: float, y: float, heading: float) -> None:
    """Move the car to a position (in metres) and a heading (in radians). The wheels move and turn with it.

    The velocity does not change.
    """
    cos, sin = math.cos(heading - car.hull.angle), math.sin(heading - car.hull.angle)
    home_x, home_y = car.hull.position
    for wheel in car.wheels:
        away_x, away_y = wheel.position[0] - home_x, wheel.position[1] - home_y
        wheel.position = (x + cos * away_x - sin * away_y, y + sin * away_x + cos * away_y)
        wheel.angle += heading - car.hull.angle
    car.hull.position, car.hull.angle = (x, y), heading


# Steering, gas and brake, each held for ten steps. They cover too much throttle, soft and blocking brakes, and skids.
_TRIAL = (
    *((0.0, 1.5, 0.0), (0.0, 1.5, 0.0), (0.05, 0.6, 0.15), (-0.3, 1.0, 0.85), (1.0, 0.4, -1.0), (-0.5, 1.0, 0.0)),
    *((0.02, -0.5, 0.0), (0.7, 0.9, 0.95), (-1.0, 1.0, 0.3)),
)


def use_fast_car(env: Any) -> None:
    """Replace Gymnasium's car by a fast one, if the trial drive has shown that both compute the same numbers."""
    if type(env.car) is car_dynamics.Car and fast_car_agrees():
        env.car = FastCar(env.car)


@functools.cache
def fast_car_agrees() -> bool:
    """Whether the fast car computes the same numbers as the car of the installed Gymnasium, in a trial drive."""
    expected = _trial(lambda car: car)
    try:
        return _trial(FastCar) == expected
    except Exception:  # the car of another version may have other attributes
        return False


class _BlindCarRacing(car_racing.CarRacing):
    """CarRacing without pictures."""

    def _render(self, mode: str) -> None:
        return None


def _trial(replaced: Callable[[car_dynamics.Car], car_dynamics.Car]) -> list[Any]:
    """Every number of a trial drive, on the road and then on the grass, with the skid marks.

    Args:
        replaced: takes the car that Gymnasium has made and returns the car that drives.
    """
    env = _BlindCarRacing()
    states = []
    for away_m in (0.0, 60.0):
        env.reset(seed=0)
        assert env.car is not None
        car: Any = replaced(env.car)
        env.car = car
        for body in (car.hull, *car.wheels):
            body.position = (body.position[0] + away_m, body.position[1])
        for action in np.array(_TRIAL, np.float32).repeat(10, axis=0):
            _, reward, *_ = env.step(action)
            states += [reward, *((*wheel.position, wheel.omega, wheel.phase) for wheel in car.wheels)]
        states += [particle.poly for particle in car.particles]
    return states
