"""The `Simulator` of CarRacing: of Gymnasium's class, of ours, of their subclasses, and of copies of the code."""

import contextlib
import functools
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.box2d import car_racing as gymnasium_car_racing
from jaxtyping import Float64

from world_models.envs import car_racing, renderer_choice
from world_models.envs.car_renderer import GymnasiumRenderer
from world_models.envs.making import Recipe
from world_models.envs.simulators import Simulator

LEFT_THE_FIELD = -100.0
"""The reward of the step that ends an episode because the car is outside the playing field."""

BAR_TOP, BAR_ROWS = 84, 96
"""First row of the indicator bar, and number of rows of the observation."""


def simulator(env: gymnasium.Env) -> Simulator | None:
    """The `Simulator` of this environment; None if it is not CarRacing but has a class of the same name."""
    if not hasattr(env.unwrapped, "car"):
        return None
    return CarSimulator(env) if isinstance(env.unwrapped, gymnasium_car_racing.CarRacing) else CopiedCarSimulator(env)


class CopiedCarSimulator(Simulator):
    """A CarRacing that is no subclass of Gymnasium's, such as a copy of its code. It has telemetry and draws itself."""

    telemetry_names = car_racing.CarTelemetry.NAMES

    def telemetry(self) -> car_racing.CarTelemetry:
        """A reader of the state of the episode that has just begun."""
        return car_racing.CarTelemetry(self.env.unwrapped)

    def centre_line_m(self) -> Float64[np.ndarray, "points 2"]:
        """The centre line of this episode's road, x and y."""
        car: Any = self.env.unwrapped
        return np.array(car.track, np.float64)[:, 2:4]

    def is_goal(self, last_reward: float) -> bool:
        """Whether an episode that ended with this reward ended with a finished lap."""
        return last_reward > LEFT_THE_FIELD

    def auto_crop(self, make: Recipe) -> tuple[int, int] | None:
        """The rows above the indicator bar; None if the observations have no bar."""
        has_all_rows = (self.env.observation_space.shape or (0,))[0] == BAR_ROWS
        return (0, BAR_TOP) if has_all_rows and self._draws_bar(make) else None

    def _draws_bar(self, make: Recipe) -> bool:
        return True


class CarSimulator(CopiedCarSimulator):
    """Gymnasium's CarRacing, ours, or a subclass of either."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        car: Any = env.unwrapped
        self._drawer: car_racing.ObservationDrawer | None = (
            car if isinstance(car, car_racing.ObservationDrawer) else None
        )
        self._reason = self._drawer.renderer_reason if self._drawer else ""

    @property
    def renderer(self) -> str:
        """Name of the renderer: `gymnasium`, or one of the fast renderers."""
        return self._drawer.renderer.name if self._drawer else "gymnasium"

    @property
    def renderer_note(self) -> str:
        """Which renderer was chosen and why, in one line; empty if there was no choice."""
        return f"CarRacing is drawn by {self.renderer}: {self._reason}" if self._reason else ""

    @property
    def check_factor(self) -> int:
        """The usual number of compared frames is multiplied by this; above 1 for versions that were not tested."""
        return renderer_choice.check_factor()

    @property
    def num_checked(self) -> int:
        """Number of observations that were compared with those that the class itself draws."""
        return self._drawer.num_checked if self._drawer else 0

    def use_renderer(self, renderer: str, make: Recipe) -> None:
        """Use a renderer. A trial checks first that it gives the same pixels as the class itself.

        Raises:
            ValueError: the renderer cannot draw this class.
        """
        car: Any = self.env.unwrapped
        name, reason = renderer_choice.choose(renderer, make)
        if self._drawer:
            self._drawer.set_renderer(name, reason)
        elif name != "gymnasium":
            self._drawer = car_racing.ObservationDrawer()
            self._drawer.set_renderer(name, reason)
            self._drawer.take_over(car)
        elif renderer == "gymnasium":
            return
        self._reason = reason

    def check_next_frame(self) -> None:
        """Compare the next observation with the one that the class itself draws."""
        if self._drawer:
            self._drawer.check_next_frame = True

    def stop_drawing(self) -> None:
        """Show black pictures from now on. Only a fast renderer can do so."""
        if self._drawer:
            self._drawer.stop_drawing()

    def free(self) -> None:
        """Free the simulator's memory."""
        car_racing.free(self.env.unwrapped)

    def _draws_bar(self, make: Recipe) -> bool:
        """Whether the observations show the bar. Our class draws it; a subclass may not."""
        return type(self.env.unwrapped) is car_racing.CarRacing or _shows_bar(make)


@functools.cache
def _shows_bar(make: Recipe) -> bool:
    """Whether a trial picture shows the bar, which is black except for some numbers."""
    with contextlib.closing(make()) as env:
        env.reset(seed=0)
        car: Any = env.unwrapped
        car.t = 1.0  # the camera has zoomed in, so the ground fills the rest of the picture
        return bool((GymnasiumRenderer().draw(car)[BAR_TOP:] == 0).all(axis=2).mean() > 0.5)
