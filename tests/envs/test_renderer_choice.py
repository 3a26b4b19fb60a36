"""The fastest renderer with Gymnasium's pixels on this machine is chosen, and one line gives the reason."""

import ctypes
import importlib.util
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from typing import Any
from unittest.mock import Mock

import numpy as np
import pygame
import pytest
from gymnasium.envs.box2d import car_racing

from world_models.envs import car_renderer, renderer_choice
from world_models.envs.car_racing import CarRacing
from world_models.envs.car_renderer import CRenderer, GymnasiumRenderer, PygameRenderer, load_library
from world_models.envs.renderer_choice import TESTED, TRIAL_FRAMES, UNTESTED_CHECK_FACTOR, MismatchError, choose

pytestmark = pytest.mark.skipif(
    find_spec("world_models.envs._car_canvas") is None, reason="the C renderer is not built"
)

NOT_BUILT = "the C renderer was not built; install a C compiler, then the package again"
FASTEST = f"the fastest here, {TRIAL_FRAMES} trial frames like Gymnasium's"


def install(monkeypatch: pytest.MonkeyPatch, versions: Mapping[str, str]) -> None:
    """Let exactly these packages be installed, with these versions."""

    def version(package: str) -> str:
        if package not in versions:
            raise PackageNotFoundError(package)
        return versions[package]

    monkeypatch.setattr(renderer_choice.metadata, "version", version)


@pytest.fixture(autouse=True)
def chosen_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forgets earlier choices, and those of the test. All installed versions are tested ones."""
    caches: list[Any] = [choose, renderer_choice.problem_of, load_library]
    install(monkeypatch, {name: f"{found[0]}0" for name, found in TESTED.items()})
    for cache in caches:
        cache.cache_clear()
    yield
    monkeypatch.undo()
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a C compiler."""

    def load() -> ctypes.CDLL:
        raise ImportError(NOT_BUILT)

    monkeypatch.setattr(car_renderer, "load_library", load)


class WrongC(CRenderer):
    """Draws one pixel wrong, by the smallest difference."""

    def draw(self, env: car_racing.CarRacing) -> np.ndarray:
        return one_wrong(super().draw(env))


class WrongPygame(PygameRenderer):
    """Draws one pixel wrong as well."""

    def draw(self, env: car_racing.CarRacing) -> np.ndarray:
        return one_wrong(super().draw(env))


def one_wrong(frame: np.ndarray) -> np.ndarray:
    frame[95, 0, 2] ^= 1
    return frame


@pytest.fixture
def wrong_c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(renderer_choice.RENDERERS, "c", WrongC)


@pytest.fixture
def wrong_pygame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(renderer_choice.RENDERERS, "pygame", WrongPygame)


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Counts the comparisons instead of making them."""
    calls: list[Any] = []
    monkeypatch.setattr(renderer_choice, "compare", lambda *args: calls.append(args))
    return calls


# --- auto


def test_auto_chooses_c():
    assert choose("auto") == ("c", FASTEST)


def test_without_the_c_library_auto_chooses_pygame_and_gives_the_reason(no_library: None):
    assert choose("auto") == ("pygame", f"{FASTEST}; not c: {NOT_BUILT}")


def test_auto_passes_over_a_renderer_with_a_wrong_pixel(wrong_c: None):
    name, reason = choose("auto")
    assert name == "pygame"
    assert reason.startswith(f"{FASTEST}; not c: renderer c drew 1 of 9216 pixels unlike Gymnasium; please report it")


def test_auto_chooses_gymnasium_if_all_others_fail(no_library: None, wrong_pygame: None):
    name, reason = choose("auto")
    assert name == "gymnasium"
    assert reason.startswith(f"the fastest here; not c: {NOT_BUILT}; not pygame: renderer pygame drew 1 of 9216")


def test_the_reason_is_one_line(wrong_c: None, wrong_pygame: None):
    assert len(choose("auto")[1].splitlines()) == 1


@pytest.mark.parametrize(
    "error", [ImportError, OSError, AttributeError, ValueError, TypeError, IndexError, KeyError, pygame.error]
)
def test_a_renderer_that_fails_in_any_way_is_passed_over(monkeypatch: pytest.MonkeyPatch, error: type[Exception]):
    monkeypatch.setattr(CRenderer, "draw", failing(error("another version of Gymnasium")))
    name, reason = choose("auto")
    assert name == "pygame" and "another version of Gymnasium" in reason


def test_the_reason_is_one_line_whatever_the_error_says(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(CRenderer, "draw", failing(OSError("two\nlines")))
    assert choose("auto") == ("pygame", f"{FASTEST}; not c: two lines")


def failing(error: Exception) -> Any:
    def draw(self: Any, env: Any) -> Any:
        raise error

    return draw


def test_the_trial_is_made_once(compared: list[Any]):
    for _ in range(3):
        choose("auto")
    assert len(compared) == TRIAL_FRAMES


def test_gymnasiums_own_renderer_needs_no_trial(compared: list[Any]):
    choose("gymnasium")
    assert compared == []


def test_an_environment_uses_the_renderer_that_auto_chooses(no_library: None):
    env = CarRacing()
    assert (env.renderer.name, env.renderer_reason) == choose("auto")
    assert env.renderer.name == "pygame"


def test_pictures_equal_gymnasiums_with_the_renderer_that_auto_chooses(wrong_c: None):
    env, plain = CarRacing(), car_racing.CarRacing()
    np.testing.assert_array_equal(env.reset(seed=0)[0], plain.reset(seed=0)[0])


# --- by name


@pytest.mark.parametrize("name", ["c", "pygame", "gymnasium"])
def test_a_named_renderer_is_used(name: Any):
    assert choose(name) == (name, "as asked")


def test_a_renderer_without_its_library_is_refused(no_library: None):
    with pytest.raises(ValueError, match=f"^renderer c cannot be used: {NOT_BUILT}; choose auto or another renderer$"):
        choose("c")


def test_a_renderer_that_draws_a_wrong_pixel_is_refused_by_name_with_versions(wrong_pygame: None):
    with pytest.raises(
        ValueError, match=r"^renderer pygame cannot be used: .*1 of 9216 .*gymnasium .*pygame-ce .*SDL "
    ):
        choose("pygame")


def test_a_named_renderer_is_used_although_another_one_is_wrong(wrong_c: None):
    assert choose("pygame") == ("pygame", "as asked")


# --- the C library


def test_a_library_that_was_not_built_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=NOT_BUILT):
        load_library()


def test_a_library_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda path: Mock(scene_size=Mock(return_value=1)))
    with pytest.raises(ImportError, match="belongs to another version; install the package again"):
        load_library()


def test_a_damaged_library_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Any):
    (tmp_path / "damaged.so").write_bytes(b"no library")
    spec = importlib.util.spec_from_file_location("damaged", tmp_path / "damaged.so")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    name, reason = choose("auto")
    assert name == "pygame" and "damaged.so" in reason


# --- versions


@pytest.mark.parametrize("version", ["99.0", None])
@pytest.mark.parametrize("package", TESTED)
def test_versions_that_were_never_tested_are_compared_on_more_frames(
    monkeypatch: pytest.MonkeyPatch, compared: list[Any], package: str, version: str | None
):
    others = {name: f"{found[0]}0" for name, found in TESTED.items() if name != package}
    install(monkeypatch, others | ({package: version} if version else {}))
    assert choose("auto") == (
        "c",
        f"the fastest here, {TRIAL_FRAMES * UNTESTED_CHECK_FACTOR} trial frames like Gymnasium's",
    )
    assert len(compared) == TRIAL_FRAMES * UNTESTED_CHECK_FACTOR


def test_tested_versions_are_compared_on_the_usual_number_of_frames():
    assert renderer_choice.check_factor() == 1


def test_versions_lists_the_packages_on_which_frames_depend(monkeypatch: pytest.MonkeyPatch):
    install(monkeypatch, {"gymnasium": "7.0", "pygame-ce": "8.1"})
    sdl = ".".join(map(str, pygame.get_sdl_version()))
    assert renderer_choice.versions().startswith(f"gymnasium 7.0, pygame-ce 8.1, SDL {sdl}, smoothscale ")


# --- comparing


@pytest.fixture
def plain() -> car_racing.CarRacing:
    env = car_racing.CarRacing()
    env.reset(seed=0)
    return env


def test_a_frame_that_equals_gymnasiums_passes(plain: car_racing.CarRacing):
    renderer_choice.compare(CRenderer(), GymnasiumRenderer().draw(plain), plain)


@pytest.mark.parametrize("pixels", [1, 3, 9216])
def test_a_mismatch_counts_the_pixels_that_differ_from_gymnasiums(plain: car_racing.CarRacing, pixels: int):
    frame = GymnasiumRenderer().draw(plain)
    frame.reshape(-1, 3)[:pixels] ^= 255  # a pixel counts once if several channels are wrong
    said = f"^renderer pygame drew {pixels} of 9216 pixels unlike Gymnasium; please report it with these versions: "
    with pytest.raises(MismatchError, match=f"{said}.*gymnasium .*SDL "):
        renderer_choice.compare(PygameRenderer(), frame, plain)


def test_a_mismatch_is_raised_by_the_step_whose_frame_is_checked(
    wrong_c: None, compared: list[Any], monkeypatch: pytest.MonkeyPatch
):
    env = CarRacing(renderer="c")  # as if the trial had not found it
    monkeypatch.undo()
    env.reset(seed=0)
    env.check_next_frame = True
    with pytest.raises(MismatchError, match="renderer c drew 1 of 9216"):
        env.step(np.zeros(3, np.float32))


def test_one_request_checks_one_frame(compared: list[Any]):
    env = CarRacing(renderer="gymnasium")
    env.check_next_frame = True
    env.reset(seed=0)
    env.step(np.zeros(3, np.float32))
    assert (len(compared), env.num_checked) == (1, 1)


def test_trial_frames_differ_from_one_another(plain: car_racing.CarRacing):
    rng, frames = np.random.default_rng(0), set()
    for _ in range(TRIAL_FRAMES):
        renderer_choice.scatter(plain, rng)
        frames.add(GymnasiumRenderer().draw(plain).tobytes())
    assert len(frames) == TRIAL_FRAMES


def test_a_scattered_car_keeps_its_wheels_in_place(plain: car_racing.CarRacing):
    car: Any = plain.car
    apart = [(wheel.position - car.hull.position).length for wheel in car.wheels]
    for seed in range(5):
        renderer_choice.scatter(plain, np.random.default_rng(seed))
        assert [(wheel.position - car.hull.position).length for wheel in car.wheels] == pytest.approx(apart, abs=1e-3)
