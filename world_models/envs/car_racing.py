"""CarRacing-v3 with a fast renderer and a fast car, and its telemetry: the simulator's state at each frame.

The track's centre line is a closed polyline. Its points are about 3.5 m apart. Heading 0 points along +y. Left is
positive, for angles and for distances.
"""

import bisect
import math
from typing import Any, ClassVar

import numpy as np
from gymnasium.envs.box2d import car_dynamics, car_racing
from gymnasium.utils import EzPickle
from jaxtyping import Float32, Float64

from world_models.envs import renderer_choice
from world_models.envs.car_dynamics import move_car, use_fast_car
from world_models.envs.car_renderer import NoRenderer, Observation, Renderer
from world_models.envs.car_scene import zoom_px_per_m

CURVATURE_AHEAD_M = (10, 25, 50)
CURVATURE_SPAN = 2  # a curvature is measured from this many points behind to this many ahead


class ObservationDrawer:
    """Draws the observations of one CarRacing, and compares some of them with those that its class draws.

    Attributes:
        renderer: the renderer that draws the observations.
        renderer_reason: why this renderer was chosen, in one line.
        check_next_frame: set it to True to compare the next observation with the one that the class itself draws.
        num_checked: number of observations that were compared.
    """

    renderer: Renderer
    renderer_reason: str
    check_next_frame = False
    num_checked = 0

    def set_renderer(self, name: str, reason: str) -> None:
        """Draw with the renderer of this name from now on."""
        self.renderer, self.renderer_reason = renderer_choice.RENDERERS[name](), reason

    def stop_drawing(self) -> None:
        """Show black pictures from now on. This saves most of a step's time."""
        self.renderer = NoRenderer()

    def picture(self, car: car_racing.CarRacing) -> Observation:
        """Draw the observation.

        Raises:
            renderer_choice.MismatchError: the observation was compared, and it differs.
        """
        frame = self.renderer.draw(car)
        if self.check_next_frame:
            self.check_next_frame = False
            self.num_checked += 1
            renderer_choice.compare(self.renderer, frame, car)
        return frame

    def take_over(self, car: Any) -> None:
        """Draw the observations of an object whose class is a subclass of Gymnasium's CarRacing; give it a fast car.

        The object exists already, because its id may stand for any function that makes it. Its `step` calls its own
        `_render`, which no wrapper can replace. So `_render` is replaced on the object itself.
        """
        original_render = car._render

        def render(mode: str) -> Any:
            if not _is_observed(car, mode):
                return original_render(mode)
            use_fast_car(car)
            return self.picture(car)

        car._render = render


def _is_observed(car: car_racing.CarRacing, mode: str) -> bool:
    """Whether the picture is an observation. There are none before the first reset."""
    return mode == "state_pixels" and "t" in vars(car)


def free(car: Any) -> None:
    """Free the simulator's memory. Python does not, because Box2D's bodies and its listener refer to each other."""
    car.world.contactListener = car.world.contactListener_bug_workaround = None
    car.contactListener_keepref = None
    car._destroy()


class CarRacing(car_racing.CarRacing, ObservationDrawer):
    """A faster CarRacing-v3. Observations, rewards, ends and random numbers are Gymnasium's, bit for bit.

    With `random_start` the car starts at rest on a random tile of the track, in the direction of the track. A lap then
    begins and ends at that tile. A seed still gives the same track, because the tile is drawn from another random
    generator, which `np_random` spawns.

    Args:
        render_mode, verbose, lap_complete_percent, domain_randomize, continuous: as in Gymnasium.
        renderer: renderer of the observations: auto, c, pygame or gymnasium.
        random_start: whether to start at a random tile instead of the track's first.

    Raises:
        ValueError: this machine does not have the renderer.
        renderer_choice.MismatchError: a compared observation differs. `reset` and `step` raise it.

    Example:
        >>> env = CarRacing()
        >>> observation, info = env.reset(seed=0)
        >>> observation.shape
        (96, 96, 3)
        >>> env.close()
    """

    def __init__(  # the arguments are Gymnasium's, in its order
        self,
        render_mode: str | None = None,
        verbose: bool = False,
        lap_complete_percent: float = 0.95,
        domain_randomize: bool = False,
        continuous: bool = True,
        renderer: renderer_choice.RendererName = "auto",
        random_start: bool = False,
    ):
        super().__init__(render_mode, verbose, lap_complete_percent, domain_randomize, continuous)
        options = {"renderer": renderer, "random_start": random_start}
        EzPickle.__init__(self, render_mode, verbose, lap_complete_percent, domain_randomize, continuous, **options)
        self.random_start = random_start
        self.set_renderer(*renderer_choice.choose(renderer))

    def step(self, action: Any):
        """Take a step, as in Gymnasium. `reset` ends with a step without an action, None."""
        if action is None and self.car is not None:
            if self.random_start and self.t == 0:
                self._start_anywhere()
            use_fast_car(self)
        return super().step(action)  # type: ignore[arg-type]

    def plain_picture(self) -> Any:
        """Draw the observation with Gymnasium's own code."""
        return super()._render("state_pixels")

    def close(self) -> None:
        """Close the window if there is one, and free the simulator's memory."""
        super().close()
        free(self)

    def _render(self, mode: str):
        return self.picture(self) if _is_observed(self, mode) else super()._render(mode)

    def _start_anywhere(self) -> None:
        """Put the car on a random tile, and number the tiles from there, because a lap is complete at tile 0."""
        start = int(self.np_random.spawn(1)[0].integers(len(self.track)))
        heading, x, y = self.track[start][1:4]
        old_car: Any = self.car
        old_car.destroy()
        # Gymnasium does not rotate a new car's wheels about the hull. So make it at heading 0, then turn all of it.
        self.car = car_dynamics.Car(self.world, 0, x, y)
        move_car(self.car, x, y, heading)
        for tile in self.road or ():
            tile.idx = (tile.idx - start) % len(self.track)


class CarTelemetry:
    """Reads the state of one CarRacing episode.

    Args:
        env: the unwrapped environment, after its reset.
    """

    NAMES: ClassVar[tuple[str, ...]] = (
        "position_x_m",
        "position_y_m",
        "heading_rad",
        "velocity_along_m_per_s",
        "velocity_across_m_per_s",
        "yaw_rate_rad_per_s",
        "steering_angle_rad",
        "wheel_speed_front_left_rad_per_s",
        "wheel_speed_front_right_rad_per_s",
        "wheel_speed_rear_left_rad_per_s",
        "wheel_speed_rear_right_rad_per_s",
        "center_distance_m",
        "relative_heading_rad",
        *(f"curvature_ahead_{distance}m_per_m" for distance in CURVATURE_AHEAD_M),
        "wheels_on_road_share",
        "tile_index",
        "zoom_px_per_m",
    )

    def __init__(self, env: Any):
        self._env, self._env_track = env, env.track
        track = np.array(env.track, np.float64)  # rows of (alpha, heading, x, y)
        headings, points = track[:, 1], track[:, 2:4]
        following = np.roll(points, -1, axis=0) - points
        arc_m = np.concatenate([[0.0], np.cumsum(np.hypot(*following.T))])
        self._x, self._y = np.ascontiguousarray(points.T)
        # A step looks up single numbers. Lists give them several times faster than arrays.
        self._track: list[tuple[float, float, float]] = track[:, 1:4].tolist()
        self._arc_m: list[float] = arc_m.tolist()
        self._curvature: list[float] = _curvatures(headings, arc_m).tolist()

    def is_of_this_episode(self) -> bool:
        """Whether the environment still drives the track that was read. Each reset makes a new track."""
        return self._env.track is self._env_track

    def __call__(self) -> Float32[np.ndarray, " 19"]:
        """The state at the current frame, in the order of `NAMES`."""
        hull, wheels = self._env.car.hull, self._env.car.wheels
        (x, y), angle, (vx, vy) = hull.position, hull.angle, hull.linearVelocity
        sin, cos = math.sin(angle), math.cos(angle)
        away_x, away_y = self._x - x, self._y - y
        tile = int((away_x * away_x + away_y * away_y).argmin())
        heading, center_x, center_y = self._track[tile]
        left = -(x - center_x) * math.cos(heading) - (y - center_y) * math.sin(heading)
        relative = (angle - heading + math.pi) % (2 * math.pi) - math.pi
        values = (
            *(x, y, angle),
            *(-vx * sin + vy * cos, -vx * cos - vy * sin),  # forward, and to the left of the car
            hull.angularVelocity,
            wheels[0].joint.angle,
            *(wheel.omega for wheel in wheels),
            *(left, relative),
            *(self._curvature_ahead(tile, distance) for distance in CURVATURE_AHEAD_M),
            sum(bool(wheel.tiles) for wheel in wheels) / len(wheels),
            *(tile, zoom_px_per_m(self._env.t)),
        )
        return np.array(values, np.float32)

    def _curvature_ahead(self, tile: int, distance_m: int) -> float:
        arc = (self._arc_m[tile] + distance_m) % self._arc_m[-1]
        return self._curvature[bisect.bisect_right(self._arc_m, arc) - 1]


def _curvatures(headings: Float64[np.ndarray, " n"], arc_m: Float64[np.ndarray, " n+1"]) -> Float64[np.ndarray, " n"]:
    """Change of heading per metre at each point of the centre line; positive is a turn to the left."""
    n, span = len(headings), CURVATURE_SPAN
    ahead, behind = (np.roll(headings, shift) for shift in (-span, span))
    turn = (ahead - behind + math.pi) % (2 * math.pi) - math.pi
    index = np.arange(n)
    length_m = (arc_m[(index + span) % n] - arc_m[(index - span) % n]) % arc_m[-1]
    return turn / length_m
