"""What CarRacing's renderers draw: the camera, the quads on the ground, the text of the panel.

All numbers are computed in Gymnasium's order, so they are the same bits.
"""

import functools
from typing import Any

import gymnasium
import numpy as np
import pygame
from gymnasium.envs.box2d import car_racing
from jaxtyping import Float64

WIDTH, HEIGHT = car_racing.WINDOW_W, car_racing.WINDOW_H
TEXT_CENTER = (60, HEIGHT - HEIGHT * 2.5 / 40.0)
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
GYMNASIUM_VERSION = tuple(int(part) for part in gymnasium.__version__.split(".")[:2])


def zoom_px_per_m(t: float) -> float:
    """Pixels of the 1000x800 canvas per metre at time t, in seconds. The camera zooms in during the first second."""
    return 0.1 * car_racing.SCALE * max(1 - t, 0) + car_racing.ZOOM * car_racing.SCALE * min(t, 1)


class Camera:
    """The transform from the world to the canvas: rotate, scale, shift.

    Attributes:
        cos, sin: cosine and sine of the rotation; exactly 0 and 1 at multiples of 90 degrees, because pygame rounds
            such angles.
        zoom: scale, in pixels per metre.
        shift: shift after rotation and scaling, in pixels.
    """

    def __init__(self, env: car_racing.CarRacing):
        assert env.car is not None and env.car.hull is not None
        hull = env.car.hull
        angle = -hull.angle
        self.zoom = zoom_px_per_m(env.t)
        x, y = hull.position
        shift = pygame.math.Vector2((-x * self.zoom, -y * self.zoom)).rotate_rad(angle)
        self.shift = (WIDTH / 2 + shift[0], HEIGHT / 4 + shift[1])
        self.cos, self.sin = pygame.math.Vector2(1, 0).rotate_rad(angle)


class Ground:
    """The quads of an episode, from bottom to top: the field, the grass, the road and its borders.

    Attributes:
        quads: x and y of the four corners of each quad, in metres.
        colors: colours of the field, of all grass, and of each quad of the road. The tiles of the road use these rows
            as their colours, because a tile changes its colour when the car touches it.
        num_grass: number of quads of grass.
    """

    quads: Float64[np.ndarray, "2 4 quads"]
    colors: Float64[np.ndarray, "colors 3"]

    def __init__(self, env: car_racing.CarRacing):
        assert env.road is not None
        bounds = car_racing.PLAYFIELD
        field = [(bounds, bounds), (bounds, -bounds), (-bounds, -bounds), (-bounds, bounds)]
        grass = _grass()
        quads = [field, *grass, *(corners for corners, _ in env.road_poly)]
        self.quads = np.ascontiguousarray(np.array(quads, np.float64).transpose(2, 1, 0))
        self.num_grass = len(grass)
        self.colors = np.array([env.bg_color, env.grass_color, *(color for _, color in env.road_poly)], np.float64)
        tiles = {id(tile.color): tile for tile in env.road}
        for index, (corners, color) in enumerate(env.road_poly):
            if id(color) in tiles:
                tiles[id(color)].color = row = self.colors[2 + index]
                env.road_poly[index] = (corners, row)


def ground_of(env: car_racing.CarRacing) -> Ground:
    """The ground of the current episode. All renderers of the environment share it, because its tiles share colours."""
    car: Any = env.car
    if not hasattr(car, "ground"):
        car.ground = Ground(env)
    return car.ground


@functools.cache
def _grass() -> list[list[tuple[float, float]]]:
    """The light squares of the field, in the order in which Gymnasium draws them."""
    size = car_racing.GRASS_DIM
    return [
        [
            (size * x + size, size * y + 0),
            (size * x + 0, size * y + 0),
            (size * x + 0, size * y + size),
            (size * x + size, size * y + size),
        ]
        for x in range(-20, 20, 2)
        for y in range(-20, 20, 2)
    ]


def reward_string(reward: float) -> str:
    """The reward as text. Gymnasium 1.4 rounds it, 1.3 writes all digits, earlier versions truncate it."""
    if GYMNASIUM_VERSION >= (1, 4):
        return f"{reward:04.0f}"
    return f"{reward:04}" if GYMNASIUM_VERSION == (1, 3) else f"{int(reward):04d}"


@functools.lru_cache(maxsize=256)
def reward_text(text: str) -> tuple[pygame.Surface, pygame.Rect]:
    """The text of the reward as Gymnasium draws it, and its position."""
    try:
        surface = _font().render(text, True, WHITE, BLACK)
    except pygame.error:  # closing a window has ended pygame, so the font is no longer valid
        _font.cache_clear()
        surface = _font().render(text, True, WHITE, BLACK)
    place = surface.get_rect()
    place.center = TEXT_CENTER
    return surface, place


@functools.lru_cache(maxsize=256)
def reward_ink(text: str) -> tuple[np.ndarray, pygame.Rect]:
    """The pixels of a text that are not black, as `Ink` of the C library, and the text's position."""
    surface, place = reward_text(text)
    pixels = pygame.surfarray.array3d(surface).astype(np.uint32)
    colors = pixels @ np.array([1, 1 << 8, 1 << 16], np.uint32)
    x, y = np.nonzero(colors)
    ink = np.empty(len(x), np.dtype([("x", np.int16), ("y", np.int16), ("color", np.uint32)]))
    ink["x"], ink["y"], ink["color"] = x + place.x, y + place.y, colors[x, y]
    return ink, place


@functools.cache
def _font() -> pygame.font.Font:
    pygame.font.init()
    return pygame.font.Font(pygame.font.get_default_font(), 42)
