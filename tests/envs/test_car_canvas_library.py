"""The C renderer's source: no compiler warnings, the same pixels in every build, no errors by sanitizers.

It is built anew here, so the installed library is not tried, and not touched. WORLD_MODELS_EXACT_FRAMES, see
test_car_renderer.py, also says how many scenes the sanitizers watch: twice as many.
"""

import ctypes
import functools
import json
import math
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.envs.box2d import car_racing

from world_models.envs import car_renderer
from world_models.envs.car_renderer import CRenderer
from world_models.envs.renderer_choice import scatter

pytestmark = pytest.mark.slow

FRAMES = int(os.environ.get("WORLD_MODELS_EXACT_FRAMES", "1500"))
SECONDS = max(FRAMES / 75, 20)  # at most
SOURCE = Path(car_renderer.__file__).with_name("_car_canvas.c")
COMPILER = shutil.which("cc")
FLAGS = ("-std=c11", "-O3", "-ffp-contract=off", "-fno-builtin-sin", "-fno-builtin-cos")  # the package's own
SANITIZE = ("-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all", "-g", "-O1")
NO_COMPILER = "no C compiler here: cc is not on the path"
OK, NOT_FINITE, TOO_COMPLEX = range(3)
GUARD, FILLING = 64, 0xA5

Build = Callable[..., Path]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Compiles the source as the package does, with further flags after its own; the warnings go to a file."""
    if COMPILER is None:
        pytest.skip(NO_COMPILER)

    @functools.cache
    def compile_with(*flags: str) -> Path:
        library = tmp_path_factory.mktemp("canvas") / "canvas.so"
        command = [COMPILER, "-shared", "-fPIC", *FLAGS, "-Wall", "-Wextra", *flags, SOURCE, "-o", library, "-lm"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        warnings_of(library).write_text(done.stderr)
        return library

    return compile_with


def warnings_of(library: Path) -> Path:
    return library.with_suffix(".warnings")


def opened(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    library.canvas_size.restype = library.scene_size.restype = ctypes.c_size_t
    library.canvas_init.argtypes = [ctypes.c_void_p]
    library.canvas_draw.argtypes = [ctypes.c_void_p] * 3
    return library


class Canvas:
    """A canvas and a picture between guard bytes.

    Args:
        library: whose canvas it is.
        filling: what is in its memory before it is initialised.
    """

    def __init__(self, library: ctypes.CDLL, filling: int = 0):
        self._draw, size = library.canvas_draw, library.canvas_size()
        self._memory, self._picture = (np.full(n + 4 * GUARD, FILLING, np.uint8) for n in (size, 96 * 96 * 3))
        self._at, self._out = (GUARD + -memory.ctypes.data % 64 for memory in (self._memory, self._picture))
        self._end = self._at + size
        self._memory[self._at : self._end] = filling
        library.canvas_init(self._memory.ctypes.data + self._at)
        self.longest_s = 0.0  # time of this thread on the processor

    def draw(self, scene: car_renderer.Scene) -> int:
        canvas, picture = self._memory.ctypes.data + self._at, self._picture.ctypes.data + self._out
        began = time.thread_time()
        code = self._draw(canvas, ctypes.addressof(scene), picture)
        self.longest_s = max(self.longest_s, time.thread_time() - began)
        guards = (*np.split(self._memory, [self._at, self._end])[::2], *self._around_picture)
        assert all((guard == FILLING).all() for guard in guards), "a byte beside the canvas or the picture was written"
        return code

    @property
    def picture(self) -> np.ndarray:
        return self._picture[self._out : self._out + 96 * 96 * 3].copy()

    @property
    def _around_picture(self) -> list[np.ndarray]:
        return np.split(self._picture, [self._out, self._out + 96 * 96 * 3])[::2]


# --- scenes

ODD = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-300, 1e300, -1e300, 1e38, 1e39, -1e12, 2.0**31, -(2.0**31) - 1, 2.0**63, 9e18)
NO_NUMBERS = (math.nan, math.inf, -math.inf)
EDGES = (-32769, -32768, 32767, 32768, 65535, -65536, -1, 0, 99, 100, 799, 800, 999, 1000, 99.5, 500)


def numbers(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Random numbers of different sizes, sometimes with unusual ones."""
    found = rng.normal(0, 10.0 ** rng.integers(-3, 13), shape)
    return np.where(rng.random(shape) < rng.choice([0, 0, 0.05]), rng.choice(ODD, shape), found)


def corners(rng: np.random.Generator, count: int) -> np.ndarray:
    """Quads in pixels: near the canvas, far from it, at the limits of int16, and rarely not finite."""
    shape = (2, 4, count)
    kinds = [
        rng.uniform(-50, 1050, shape),
        rng.uniform(-50, 1050, (2, 1, count)) + rng.normal(0, 20, shape),
        rng.normal(0, 10.0 ** rng.uniform(2, 5), shape),
        rng.choice(EDGES, shape) + rng.integers(-1, 2, shape),
        rng.normal(0, 10.0 ** rng.uniform(3, 12), shape),
    ]
    quads = np.choose(rng.choice(5, (1, 1, count)), kinds)
    if rng.random() < 0.05:
        quads.reshape(-1)[rng.integers(quads.size)] = rng.choice(ODD + NO_NUMBERS)
    return np.ascontiguousarray(quads)


def garbage(rng: np.random.Generator) -> tuple[car_renderer.Scene, list[np.ndarray]]:
    """A scene that no environment makes, and the arrays that it points to."""
    scene = car_renderer.Scene()
    state = np.concatenate([(1, 0, 1, 0, 0) if rng.random() < 0.6 else numbers(rng, 5), numbers(rng, 32)])
    if rng.random() < 0.1:
        state[rng.integers(37)] = rng.choice(NO_NUMBERS)
    scene.state[:] = state
    count = int(rng.choice([1, 3, 10, 30, 400], p=[0.1, 0.3, 0.3, 0.25, 0.05]))
    grass = int(rng.integers(0, count)) if rng.random() < 0.97 else int(rng.integers(-2, count + 3))
    quads, colors = corners(rng, count), rng.uniform(0, 255, (count - grass + 1 if 0 <= grass < count else 1, 3))
    if rng.random() < 0.5:
        colors = rng.choice([0.0, 77.0, 255.9], colors.shape)
    if rng.random() < 0.05:
        colors[rng.integers(len(colors))] = rng.choice([-0.5, 256.0, 1e300, *NO_NUMBERS])
    places = rng.integers(-(2**15), 2**15, (rng.integers(1, 300), 2)) // int(rng.choice([1, 30]))
    places[:10] = rng.choice([-1, 0, 5, 799, 800, 999, 1000], places[:10].shape)
    ink = np.empty(len(places), np.dtype([("x", np.int16), ("y", np.int16), ("color", np.uint32)]))
    ink["x"], ink["y"] = places.T
    ink["color"] = rng.integers(0, 2**24, len(ink))
    scene.num_quads, scene.num_grass, scene.num_ink = count, grass, len(ink) if rng.random() < 0.9 else -5
    scene.quads, scene.colors, scene.ink = quads.ctypes.data, colors.ctypes.data, ink.ctypes.data
    scene.margin = rng.choice([math.inf, 382.0, 1e5, -1.0, math.nan], p=[0.6, 0.2, 0.1, 0.05, 0.05])
    for corner, values in zip(scene.wheel, numbers(rng, 4, 2).tolist(), strict=True):
        corner[:] = values
    for part, points in zip(scene.hull, numbers(rng, 4, 8, 2).tolist(), strict=True):
        for corner, values in zip(part, points, strict=True):
            corner[:] = values
    scene.hull_points[:] = rng.integers(3, 9, 4) if rng.random() < 0.95 else rng.integers(-10, 20, 4)
    text = rng.integers(-50, 900, 4) if rng.random() < 0.8 else rng.integers(-40_000, 40_000, 4)
    scene.text_left, scene.text_top, scene.text_width, scene.text_height = text.tolist()
    scene.wheel_color[:], scene.hull_color[:] = rng.integers(0, 256, (2, 4)).tolist()
    return scene, [quads, colors, ink]


def real_states(rng: np.random.Generator) -> Iterator[car_racing.CarRacing]:
    env = car_racing.CarRacing(domain_randomize=True)
    env.reset(seed=0)
    while True:
        scatter(env, rng)
        yield env


def spoiled(scene: car_renderer.Scene, rng: np.random.Generator) -> None:
    """Replace some numbers of the state of a real scene."""
    for index in rng.integers(0, 37, rng.integers(1, 4)):
        scene.state[index] = rng.choice([numbers(rng, 1)[0], rng.choice(ODD), scene.state[index] * 1000])


# --- builds


@pytest.mark.parametrize("flags", [(), ("-DPORTABLE",)], ids=["SSE2", "portable"])
def test_no_compiler_warns_of_the_source(build: Build, flags: tuple[str, ...]):
    assert warnings_of(build(*flags)).read_text() == ""


def renderer_of(library: Path, monkeypatch: pytest.MonkeyPatch) -> CRenderer:
    with monkeypatch.context() as patch:
        patch.setattr(car_renderer, "load_library", lambda: opened(library))
        return CRenderer()


@pytest.mark.parametrize("flags", [("-DPORTABLE",), ("-O0",)], ids=["portable", "unoptimised"])
def test_every_build_draws_the_same_pictures(build: Build, flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch):
    ours, other = renderer_of(build(), monkeypatch), renderer_of(build(*flags), monkeypatch)
    for _, env in zip(range(50), real_states(np.random.default_rng(1)), strict=False):
        np.testing.assert_array_equal(ours.draw(env), other.draw(env))


@pytest.mark.parametrize("flags", [("-DPORTABLE",), ("-O0",)], ids=["portable", "unoptimised"])
def test_every_build_gives_the_same_results_for_random_numbers(build: Build, flags: tuple[str, ...]):
    rng, canvases = np.random.default_rng(2), [Canvas(opened(build())), Canvas(opened(build(*flags)))]
    for _ in range(500):
        scene, _arrays = garbage(rng)
        codes = [canvas.draw(scene) for canvas in canvases]
        assert codes[0] == codes[1]
        if codes[0] == OK:
            np.testing.assert_array_equal(canvases[0].picture, canvases[1].picture)


def test_a_new_canvas_draws_the_same_as_a_used_one(build: Build):
    """The contents of the memory before the start do not matter either."""
    rng, library = np.random.default_rng(3), opened(build())
    used, pictures = Canvas(library), 0
    for number in range(500):
        scene, _arrays = garbage(rng)
        code = used.draw(scene)
        if number % 5 == 0:
            new = Canvas(library, filling=int(rng.integers(256)))
            assert new.draw(scene) == code
            if code == OK:
                pictures += 1
                np.testing.assert_array_equal(new.picture, used.picture)
    assert pictures > 10


# --- sanitizers


def torment(path: Path, scenes: int, seconds: float, seed: int) -> dict[str, Any]:
    """Draw scenes of every kind until they are all drawn or the time is up; a sanitizer ends the process."""
    library, rng, codes = opened(path), np.random.default_rng(seed), Counter[int]()
    car_renderer.load_library = lambda: library  # type: ignore[assignment]
    canvas, renderer, states = Canvas(library), CRenderer(), real_states(rng)
    end = time.monotonic() + seconds
    while sum(codes.values()) < scenes and time.monotonic() < end:
        if rng.random() < 0.8:
            scene, _arrays = garbage(rng)
        else:
            renderer.draw(next(states))
            scene = renderer.scene
            if rng.random() < 0.7:
                spoiled(scene, rng)
        codes[canvas.draw(scene)] += 1
    return {"codes": codes, "longest_s": canvas.longest_s}


def test_no_numbers_make_the_library_fail_or_hang(build: Build, sanitized: dict[str, str]):
    """No access out of bounds, no undefined behaviour, only the three return codes, no endless call."""
    seed = random.randrange(2**32)
    done = subprocess.run(
        [sys.executable, __file__, build(*SANITIZE), str(2 * FRAMES), str(SECONDS), str(seed)],
        env=sanitized,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"seed {seed}: {done.stderr[-5000:]}"
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert set(found["codes"]) == {"0", "1", "2"} and found["longest_s"] < 0.5


if __name__ == "__main__":
    print(json.dumps(torment(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))))
