"""What is special about CarRacing, as `simulators` asks it: of Gymnasium's class, ours, and those made of either."""

import contextlib
import functools
from typing import Any

import gymnasium
from gymnasium.envs.box2d import car_racing as gymnasiums

from world_models.envs import car_racing, renderer_choice
from world_models.envs.car_renderer import GymnasiumRenderer
from world_models.envs.making import Recipe
from world_models.envs.simulators import Simulator

BAR_TOP, BAR_ROWS = 84, 96
"""CarRacing's observation has so many rows, and its indicator bar begins at that one."""


def simulator(env: gymnasium.Env) -> Simulator | None:
    """What is special about this environment; None if it is another simulator of the same name."""
    if not hasattr(env.unwrapped, "car"):
        return None
    return CarSimulator(env) if isinstance(env.unwrapped, gymnasiums.CarRacing) else CopiedCarSimulator(env)


class CopiedCarSimulator(Simulator):
    """A CarRacing that is not Gymnasium's, such as a copy of its code: we read its state, and it draws itself."""

    telemetry_names = car_racing.CarTelemetry.NAMES

    def telemetry(self) -> car_racing.CarTelemetry:
        """The reader of the episode that has just begun."""
        return car_racing.CarTelemetry(self.env.unwrapped)

    def auto_crop(self, make: Recipe) -> tuple[int, int] | None:
        """The rows above the indicator bar, where the observations have it."""
        has_all_rows = (self.env.observation_space.shape or (0,))[0] == BAR_ROWS
        return (0, BAR_TOP) if has_all_rows and self._draws_bar(make) else None

    def _draws_bar(self, make: Recipe) -> bool:
        return True


class CarSimulator(CopiedCarSimulator):
    """Gymnasium's CarRacing, ours, or a class made of either."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        car: Any = env.unwrapped
        self._drawing: car_racing.Drawing | None = car if isinstance(car, car_racing.Drawing) else None
        self._reason = self._drawing.renderer_reason if self._drawing else ""

    @property
    def renderer(self) -> str:
        """Who draws the observations: `gymnasium`, or one of the fast renderers."""
        return self._drawing.renderer.name if self._drawing else "gymnasium"

    @property
    def renderer_note(self) -> str:
        """In a line, which renderer was taken and why; empty where there was no choice."""
        return f"CarRacing is drawn by {self.renderer}: {self._reason}" if self._reason else ""

    @property
    def caution(self) -> int:
        """How many times the usual number of frames has to be compared, with the installed versions."""
        return renderer_choice.caution()

    @property
    def num_checked(self) -> int:
        """How many observations were compared with those that the class itself draws."""
        return self._drawing.num_checked if self._drawing else 0

    def draw_by(self, renderer: str, make: Recipe) -> None:
        """Have the observations drawn by a renderer that gives the same pixels, which a trial shows.

        Raises:
            ValueError: the renderer cannot be had for this class.
        """
        car: Any = self.env.unwrapped
        name, reason = renderer_choice.choose(renderer, make)
        if self._drawing:
            self._drawing.draw_with(name, reason)
        elif name != "gymnasium":
            self._drawing = car_racing.Drawing()
            self._drawing.draw_with(name, reason)
            self._drawing.take_over(car)
        elif renderer == "gymnasium":
            return
        self._reason = reason

    def check_next_frame(self) -> None:
        """Have the next observation compared with the one that the class itself draws."""
        if self._drawing:
            self._drawing.check_next_frame = True

    def stop_drawing(self) -> None:
        """Show black pictures from now on, if a fast renderer draws."""
        if self._drawing:
            self._drawing.stop_drawing()

    def free(self) -> None:
        """Free the simulator's memory."""
        car_racing.free(self.env.unwrapped)

    def _draws_bar(self, make: Recipe) -> bool:
        """Whether a class that somebody made of CarRacing still draws the bar; ours draws it."""
        return type(self.env.unwrapped) is car_racing.CarRacing or _shows_bar(make)


@functools.cache
def _shows_bar(make: Recipe) -> bool:
    """Whether a bar is seen in a trial picture. It is black but for some numbers."""
    with contextlib.closing(make()) as env:
        env.reset(seed=0)
        car: Any = env.unwrapped
        car.t = 1.0  # the camera has come close, so the ground fills the picture
        return bool((GymnasiumRenderer().draw(car)[BAR_TOP:] == 0).all(axis=2).mean() > 0.5)
