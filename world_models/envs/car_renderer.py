"""Renderers of CarRacing's observation that are faster than Gymnasium's and give the same bits.

`c` is a small C library (`_car_canvas.c`), built if there is a compiler. `pygame` draws with pygame as Gymnasium does,
but skips what is not visible. `gymnasium` is Gymnasium's own code. All three give the same 96x96 pixels for the same
state. `renderer_choice` tests this on the machine at hand.
"""

import ctypes
import functools
import importlib.util
import struct
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import pygame
from gymnasium.envs.box2d import car_racing
from jaxtyping import Float64, Int64, UInt8
from pygame import gfxdraw

from world_models.envs.car_scene import BLACK, HEIGHT, WIDTH, Camera, ground_of, reward_ink, reward_string, reward_text

Observation = UInt8[np.ndarray, "96 96 3"]

PANEL_HEIGHT = HEIGHT // 8
NOT_FINITE = (
    "CarRacing cannot be drawn: the car's position, heading or speed is not a finite number, or beyond every picture; "
    "reset the environment"
)


@runtime_checkable
class Renderer(Protocol):
    """Draws the observation of one environment."""

    name: ClassVar[str]

    def draw(self, env: car_racing.CarRacing) -> Observation:
        """Draw the picture that Gymnasium's `env._render("state_pixels")` returns."""
        ...


class GymnasiumRenderer:
    """Draws with the code of the environment's own class: Gymnasium's CarRacing or a subclass of it."""

    name: ClassVar[str] = "gymnasium"

    def draw(self, env: Any) -> Observation:
        """Draw the observation."""
        if hasattr(env, "plain_picture"):
            return env.plain_picture()
        return type(env)._render(env, "state_pixels")  # `ObservationDrawer.take_over` replaces `_render` on the object


class NoRenderer:
    """Draws black pictures, for policies that do not look at frames."""

    name: ClassVar[str] = "none"

    def draw(self, env: Any) -> Observation:
        """Return a black picture."""
        return np.zeros((96, 96, 3), np.uint8)


# ---- C ----

_NOT_FINITE, _TOO_COMPLEX = 1, 2


class Scene(ctypes.Structure):
    """`Scene` of `_car_canvas.c`, field for field."""

    _fields_ = (
        ("state", ctypes.c_double * 37),
        ("quads", ctypes.c_void_p),
        ("colors", ctypes.c_void_p),
        ("margin", ctypes.c_double),
        ("wheel", ctypes.c_double * 2 * 4),
        ("hull", ctypes.c_double * 2 * 8 * 4),
        ("ink", ctypes.c_void_p),
        ("num_ink", ctypes.c_int32),
        ("text_left", ctypes.c_int32),
        ("text_top", ctypes.c_int32),
        ("text_width", ctypes.c_int32),
        ("text_height", ctypes.c_int32),
        ("num_quads", ctypes.c_int32),
        ("num_grass", ctypes.c_int32),
        ("hull_points", ctypes.c_int32 * 4),
        ("wheel_color", ctypes.c_uint8 * 4),
        ("hull_color", ctypes.c_uint8 * 4),
    )


_pack_state = struct.Struct("37d").pack_into


@functools.cache
def load_library() -> ctypes.CDLL:
    """Load the C library.

    Raises:
        ImportError: the library was not built, or was built for another version of this file.
    """
    spec = importlib.util.find_spec("world_models.envs._car_canvas")
    if spec is None or spec.origin is None:
        raise ImportError("the C renderer was not built; install a C compiler, then the package again")
    library = ctypes.CDLL(spec.origin)
    library.canvas_size.restype = library.scene_size.restype = ctypes.c_size_t
    library.canvas_init.argtypes = [ctypes.c_void_p]
    library.canvas_draw.argtypes = [ctypes.c_void_p] * 3
    if library.scene_size() != ctypes.sizeof(Scene):
        raise ImportError("the C renderer belongs to another version; install the package again")
    return library


class CRenderer:
    """Draws with `_car_canvas.c`. Each object has its own canvas.

    Attributes:
        scene: the numbers from which the C library draws the next frame.

    Raises:
        ImportError: the library was not built.
    """

    name: ClassVar[str] = "c"

    def __init__(self):
        self._library = load_library()
        memory = np.zeros(self._library.canvas_size() + 64, np.uint8)
        self._memory, self._canvas = memory, memory.ctypes.data + -memory.ctypes.data % 64
        self._library.canvas_init(self._canvas)
        self.scene, self._out = Scene(), np.zeros((96, 96, 3), np.uint8)
        self._scene_at, self._out_at = ctypes.addressof(self.scene), self._out.ctypes.data
        self._car: Any = None
        self._written = ""

    def draw(self, env: car_racing.CarRacing) -> Observation:
        """The observation.

        Raises:
            ValueError: the state cannot be drawn, such as a position that is not a number.
        """
        if env.car is not self._car:
            self._begin(env)
        car = self._car
        camera, velocity = Camera(env), car.hull.linearVelocity
        self._colors[0], self._colors[1] = env.bg_color, env.grass_color
        values = [camera.cos, camera.sin, camera.zoom, *camera.shift]
        for position, rotation in self._bodies:
            values += (position.x, position.y, rotation.c, rotation.s)
        values += [wheel.phase for wheel in car.wheels]
        values += [wheel.omega for wheel in car.wheels]
        values += (velocity.x, velocity.y, car.wheels[0].joint.angle, car.hull.angularVelocity)
        _pack_state(self.scene, 0, *values)
        self._write(reward_string(env.reward))
        failure = self._library.canvas_draw(self._canvas, self._scene_at, self._out_at)
        if failure == _NOT_FINITE:
            raise ValueError(NOT_FINITE)
        if failure == _TOO_COMPLEX:  # too many colours or edges; CarRacing's own pictures never have so many
            return GymnasiumRenderer().draw(env)
        return self._out.copy()

    def _begin(self, env: car_racing.CarRacing) -> None:
        """Read what does not change during an episode."""
        car: Any = env.car
        ground, scene = ground_of(env), self.scene
        self._ground, self._colors = ground, ground.colors
        scene.num_quads, scene.num_grass = ground.quads.shape[2], ground.num_grass
        scene.quads, scene.colors = ground.quads.ctypes.data, ground.colors.ctypes.data
        scene.margin = car_racing.MAX_SHAPE_DIM
        for corner, vertex in zip(scene.wheel, car.wheels[0].fixtures[0].shape.vertices, strict=True):
            corner[:] = vertex
        for part, fixture in enumerate(car.hull.fixtures):
            vertices = fixture.shape.vertices
            scene.hull_points[part] = len(vertices)
            for corner, vertex in zip(scene.hull[part], vertices, strict=False):
                corner[:] = vertex
        scene.hull_color[:3] = [int(c * 255) for c in car.hull.color]
        scene.wheel_color[:3] = [int(c * 255) for c in car.wheels[0].color]
        # These are references into Box2D's bodies: they always hold the current values.
        transforms = [body.transform for body in (*car.wheels, car.hull)]
        self._bodies = [(transform.position, transform.q) for transform in transforms]
        self._car = car

    def _write(self, text: str) -> None:
        if text == self._written:
            return
        ink, place = reward_ink(text)
        scene = self.scene
        self._ink, self._written = ink, text
        scene.ink, scene.num_ink = ink.ctypes.data, len(ink)
        scene.text_left, scene.text_top, scene.text_width, scene.text_height = place


# ---- pygame ----


class PygameRenderer:
    """Draws like Gymnasium, but transforms all quads at once and skips those outside the picture."""

    name: ClassVar[str] = "pygame"

    def __init__(self):
        self._canvas = pygame.Surface((WIDTH, HEIGHT))
        self._picture = pygame.Surface((WIDTH, HEIGHT))
        self._car: Any = None

    def draw(self, env: car_racing.CarRacing) -> Observation:
        """The observation.

        Raises:
            ValueError: the state cannot be drawn, such as a position that is not a number.
        """
        if env.car is not self._car:
            self._ground, self._car = ground_of(env), env.car
        camera = Camera(env)
        self._canvas.fill(BLACK)
        self._ground.colors[0], self._ground.colors[1] = env.bg_color, env.grass_color
        self._draw_ground(camera)
        self._car.draw(self._canvas, camera.zoom, camera.shift, -self._car.hull.angle, False)
        pygame.surfarray.pixels2d(self._picture)[:] = pygame.surfarray.pixels2d(self._canvas)[:, ::-1]
        env.surf = self._picture
        env._render_indicators(WIDTH, HEIGHT)
        self._picture.blit(*reward_text(reward_string(env.reward)))
        return env._create_image_array(self._picture, (96, 96))

    def _draw_ground(self, camera: Camera) -> None:
        ground = self._ground
        world_x, world_y = ground.quads
        x = (camera.cos * world_x - camera.sin * world_y) * camera.zoom + camera.shift[0]
        y = (camera.sin * world_x + camera.cos * world_y) * camera.zoom + camera.shift[1]
        if not (np.abs((x[:, 0], y[:, 0])) < 9e18).all():  # NaN fails this test too
            raise ValueError(NOT_FINITE)
        corners = np.stack([x, y], axis=2).transpose(1, 0, 2)
        for index in np.flatnonzero(_visible(x, y)).tolist():
            points: Int64[np.ndarray, "4 2"] = corners[index].astype(np.int64)
            first_road = ground.num_grass + 1
            row = 0 if index == 0 else 1 if index < first_road else index - first_road + 2
            color = [int(c) for c in ground.colors[row]]
            gfxdraw.aapolygon(self._canvas, points.tolist(), color)
            gfxdraw.filled_polygon(self._canvas, points.tolist(), color)


def _visible(x: Float64[np.ndarray, "4 quads"], y: Float64[np.ndarray, "4 quads"]) -> np.ndarray:
    """Which quads may be visible: those that Gymnasium draws, except those that the panel hides."""
    margin = car_racing.MAX_SHAPE_DIM
    near = (x >= -margin) & (x <= WIDTH + margin) & (y >= -margin) & (y <= HEIGHT + margin)
    on_canvas = (x.max(0) >= -2) & (x.min(0) <= WIDTH + 1) & (y.max(0) >= PANEL_HEIGHT - 2) & (y.min(0) <= HEIGHT + 1)
    visible = near.any(0) & on_canvas
    visible[0] = True  # the field is always drawn
    return visible
