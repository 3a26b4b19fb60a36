"""`world_models/CarRacing-v3` equals CarRacing-v3, and obeys the rules of Gymnasium environments."""

import copy
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.box2d.car_racing import PLAYFIELD
from gymnasium.error import Error, InvalidAction
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv

import world_models
from world_models.envs import renderer_choice
from world_models.envs.car_racing import CarRacing

FAST, PLAIN = "world_models/CarRacing-v3", "CarRacing-v3"
OURS = ["c", "pygame"] if find_spec("world_models.envs._car_canvas") else ["pygame"]
STRAIGHT, LEFT = np.array([0, 1, 0], np.float32), np.array([-1, 0.3, 0.1], np.float32)
Make = Callable[..., Any]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes environments, and closes them."""
    made = []

    def make_one(env_id: str, **options: Any) -> Any:
        made.append(gymnasium.make(env_id, disable_env_checker=True, **options))
        return made[-1]

    yield make_one
    for env in made:
        env.close()


def seen(observation: np.ndarray, *rest: Any) -> tuple[Any, ...]:
    """The results of a step, as values that can be compared."""
    return observation.shape, observation.dtype, observation.tobytes(), *rest


def drive(env: Any, actions: Iterable[Any], seed: int | None = 0, **reset: Any) -> list[tuple[Any, ...]]:
    """Everything that a user gets of an episode, from its reset on."""
    return [seen(*env.reset(seed=seed, **reset)), *(seen(*env.step(action)) for action in actions)]


def random_actions(env: Any, steps: int = 25, seed: int = 0) -> list[Any]:
    """Some steps straight ahead if there is such an action, then random actions."""
    env.action_space.seed(seed)
    straight = 3 if isinstance(env.action_space, gymnasium.spaces.Discrete) else STRAIGHT
    return [*[straight] * 8, *(env.action_space.sample() for _ in range(steps - 8))]


def assert_same(first: Sequence[Any], second: Sequence[Any]) -> None:
    """Names the step at which two drives differ, instead of printing pictures."""
    assert [index for index, pair in enumerate(zip(first, second, strict=True)) if pair[0] != pair[1]] == []


def run_python(source: str, *args: str, **environment: str) -> Any:
    """Runs a program in its own process without a window, and reads the JSON in its last line."""
    env = {**os.environ, "SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy", **environment}
    done = subprocess.run([sys.executable, "-c", source, *args], capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# --- registered


def test_importing_the_package_registers_the_environment():
    assert world_models.__version__ and FAST in gymnasium.registry


def test_module_and_id_make_the_environment_without_an_import():
    source = """if True:
        import gymnasium, json
        env = gymnasium.make("world_models:world_models/CarRacing-v3")
        observation, _ = env.reset(seed=0)
        print(json.dumps([type(env.unwrapped).__module__, observation.shape, int(observation.sum())]))"""
    observation, _ = gymnasium.make(FAST).reset(seed=0)
    assert run_python(source) == ["world_models.envs.car_racing", [96, 96, 3], int(observation.sum())]


@pytest.mark.parametrize("field", ["max_episode_steps", "reward_threshold", "nondeterministic", "order_enforce"])
def test_the_registration_has_the_settings_of_gymnasiums(field: str):
    assert getattr(gymnasium.spec(FAST), field) == getattr(gymnasium.spec(PLAIN), field)


def test_an_episode_has_1000_steps_at_most():
    assert gymnasium.spec(FAST).max_episode_steps == 1000


def test_importing_the_package_imports_no_simulator():
    source = (
        "import json, sys, world_models; print(json.dumps([m for m in ('torch', 'Box2D', 'cv2') if m in sys.modules]))"
    )
    assert run_python(source) == []


# --- the same as Gymnasium's

OPTIONS: list[dict[str, Any]] = [{}, {"continuous": False}, {"domain_randomize": True}, {"lap_complete_percent": 0.5}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_step_equals_gymnasiums(make: Make, options: dict[str, Any]):
    fast, plain = make(FAST, **options), make(PLAIN, **options)
    actions = random_actions(plain)
    assert_same(drive(fast, actions, seed=3), drive(plain, actions, seed=3))


@pytest.mark.parametrize("renderer", [*OURS, "gymnasium"])
def test_every_step_equals_gymnasiums_with_each_renderer(make: Make, renderer: str):
    fast, plain = make(FAST, renderer=renderer, domain_randomize=True), make(PLAIN, domain_randomize=True)
    actions = random_actions(plain)
    assert_same(drive(fast, actions, seed=4), drive(plain, actions, seed=4))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_spaces_equal_gymnasiums(make: Make, options: dict[str, Any]):
    fast, plain = make(FAST, **options), make(PLAIN, **options)
    assert (fast.action_space, fast.observation_space) == (plain.action_space, plain.observation_space)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_as_many_random_numbers_are_drawn_as_in_gymnasium(make: Make, options: dict[str, Any]):
    envs = [make(FAST, **options), make(PLAIN, **options)]
    for env in envs:
        drive(env, random_actions(env, steps=10))
    assert envs[0].unwrapped.np_random.bit_generator.state == envs[1].unwrapped.np_random.bit_generator.state


def test_later_episodes_without_a_seed_equal_gymnasiums(make: Make):
    fast, plain = make(FAST), make(PLAIN)
    for seed in (1, None, None):
        assert_same(drive(fast, [STRAIGHT] * 4, seed), drive(plain, [STRAIGHT] * 4, seed))


def test_colours_stay_or_change_at_a_reset_as_in_gymnasium(make: Make):
    fast, plain = make(FAST, domain_randomize=True), make(PLAIN, domain_randomize=True)
    for options in (None, {"randomize": False}, {"randomize": True}, {"randomize": False}, {}):
        drives = [drive(env, [STRAIGHT] * 4, seed=None if options else 0, options=options) for env in (fast, plain)]
        assert_same(*drives)


def test_touched_tiles_get_the_same_colour_as_in_gymnasium(make: Make):
    drives = [drive(make(env_id, domain_randomize=True), [STRAIGHT] * 45) for env_id in (FAST, PLAIN)]
    assert_same(*drives)
    assert drives[0][-1][3] > 0  # a tile was reached by the last step


def test_a_finished_lap_ends_the_episode_as_in_gymnasium(make: Make):
    drives = [drive(make(env_id, lap_complete_percent=0.0), [STRAIGHT] * 3) for env_id in (FAST, PLAIN)]
    assert_same(*drives)
    assert drives[0][-1][4:] == (True, False, {"lap_finished": True})


def test_every_tile_visited_ends_the_episode_as_in_gymnasium(make: Make):
    envs = [make(env_id) for env_id in (FAST, PLAIN)]
    for env in envs:
        env.reset(seed=0)
        env.unwrapped.tile_visited_count = len(env.unwrapped.track)
    steps = [seen(*env.step(STRAIGHT)) for env in envs]
    assert steps[0] == steps[1] and steps[0][4:] == (True, False, {"lap_finished": True})


@pytest.mark.parametrize(("x", "y"), [(PLAYFIELD, 0), (-PLAYFIELD, 0), (0, PLAYFIELD), (0, -PLAYFIELD)])
def test_leaving_the_playfield_ends_the_episode_as_in_gymnasium(make: Make, x: float, y: float):
    drives = []
    for env in (make(FAST), make(PLAIN)):
        env.reset(seed=0)
        carry(env.unwrapped.car, x * 0.998, y * 0.998)
        push(env.unwrapped.car, x / 10, y / 10)
        drives.append([seen(*env.step(STRAIGHT)) for _ in range(5)])
    assert_same(*drives)
    ends = [step[3:] for step in drives[0]]
    assert ends[0][1] is False and (-100, True, False, {"lap_finished": False}) in ends


def carry(car: Any, x: float, y: float) -> None:
    """Puts the whole car somewhere else."""
    shift = np.array([x, y]) - car.hull.position
    for body in (car.hull, *car.wheels):
        body.position = tuple(np.array(body.position) + shift)


def push(car: Any, x: float, y: float) -> None:
    for body in (car.hull, *car.wheels):
        body.linearVelocity = (x, y)


def test_an_episode_is_truncated_at_its_limit(make: Make):
    env = make(FAST, max_episode_steps=3)
    ends = [step[5] for step in drive(env, [STRAIGHT] * 3)[1:]]
    assert ends == [False, False, True]


def test_an_invalid_discrete_action_is_refused_as_in_gymnasium(make: Make):
    env = make(FAST, continuous=False)
    env.reset(seed=0)
    with pytest.raises(InvalidAction):
        env.unwrapped.step(7)


def test_checking_a_frame_does_not_change_the_episode(make: Make):
    fast, plain = make(FAST), make(PLAIN)
    drives = [drive(env, [STRAIGHT] * 3) for env in (fast, plain)]
    for _ in range(3):
        fast.unwrapped.check_next_frame = True
        for env, steps in zip((fast, plain), drives, strict=True):
            steps.append(seen(*env.step(LEFT)))
    assert_same(*drives)
    assert fast.unwrapped.num_checked == 3


# --- what it draws


@pytest.mark.parametrize("renderer", OURS)
@pytest.mark.parametrize(("mode", "shape"), [("rgb_array", (400, 600, 3)), ("state_pixels", (96, 96, 3))])
def test_render_gives_the_same_pictures_as_gymnasium(make: Make, mode: str, shape: tuple[int, ...], renderer: str):
    envs = [make(FAST, render_mode=mode, renderer=renderer), make(PLAIN, render_mode=mode)]
    drives = [drive(env, [*[STRAIGHT] * 20, *[LEFT] * 8]) for env in envs]
    pictures = [env.render() for env in envs]
    np.testing.assert_array_equal(*pictures)
    assert pictures[0].shape == shape
    drives = [[seen(*env.step(LEFT)) for _ in range(2)] for env in envs]
    assert_same(*drives)


@pytest.mark.parametrize("mode", ["rgb_array", "state_pixels"])
def test_render_before_the_first_reset_gives_no_picture(mode: str):
    env = CarRacing(render_mode=mode)
    assert env.render() is None


def test_an_unknown_render_mode_raises_gymnasiums_error():
    with pytest.raises(AssertionError):
        env = CarRacing(render_mode="ascii")
        env.reset(seed=0)
        env.render()


WINDOW = """if True:
    import json, sys
    import gymnasium, numpy as np, pygame
    import world_models

    def drive(env, first, last):
        frames = [env.reset(seed=0)[0]] if first == 0 else []
        return frames + [env.step(np.array([0.1, 1, 0], np.float32))[0] for _ in range(first, last)]

    bystander = gymnasium.make("world_models/CarRacing-v3", renderer=sys.argv[1])
    watched = gymnasium.make("world_models/CarRacing-v3", renderer=sys.argv[1], render_mode="human")
    plain = gymnasium.make("CarRacing-v3")
    frames = drive(bystander, 0, 5)
    shown = drive(watched, 0, 3)
    opened = pygame.display.get_surface() is not None
    watched.close()
    closed = not pygame.display.get_init()
    frames += drive(bystander, 5, 40)  # the reward changes, and with it the text
    expected = drive(plain, 0, 40)
    print(json.dumps({
        "opened": opened, "closed": closed, "shown": bool(np.array_equal(shown, expected[:4])),
        "wrong": [i for i, pair in enumerate(zip(frames, expected, strict=True)) if not np.array_equal(*pair)]}))"""


@pytest.fixture(scope="module", params=OURS)
def window(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The state of a window, and of an environment without one in the same process."""
    return run_python(WINDOW, request.param)


def test_human_mode_opens_a_window_and_closes_it(window: dict[str, Any]):
    assert window["opened"] and window["closed"]


def test_observations_equal_gymnasiums_while_a_window_is_open(window: dict[str, Any]):
    assert window["shown"]


def test_another_environment_keeps_drawing_after_a_window_was_closed(window: dict[str, Any]):
    assert window["wrong"] == []


# --- an environment like any other


@pytest.mark.filterwarnings("ignore:.*Box action space.*:UserWarning", "ignore:.*render.*:UserWarning")
@pytest.mark.parametrize("continuous", [True, False])
def test_our_environment_passes_gymnasiums_checker(continuous: bool):
    check_env(CarRacing(continuous=continuous), skip_render_check=True)


def factory(seed: int) -> Callable[[], gymnasium.Env]:
    return lambda: gymnasium.make(FAST, disable_env_checker=True, domain_randomize=bool(seed % 2))


@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
def test_environments_of_a_vector_drive_as_single_ones(kind: type[VectorEnv]):
    seeds = [0, 1, 2]
    together: Any = kind([factory(seed) for seed in seeds])  # type: ignore[call-arg]
    alone = [factory(seed)() for seed in seeds]
    try:
        frames = [together.reset(seed=seeds)[0]]
        expected = [[env.reset(seed=seed)[0] for env, seed in zip(alone, seeds, strict=True)]]
        for action in random_actions(alone[0], steps=12):
            frames.append(together.step(np.stack([action] * len(seeds)))[0])
            expected.append([env.step(action)[0] for env in alone])
        np.testing.assert_array_equal(frames, expected)
    finally:
        together.close()


def test_make_vec_makes_a_vector_of_our_environments():
    vector = gymnasium.make_vec(FAST, num_envs=2, vectorization_mode="sync")
    observations, _ = vector.reset(seed=5)
    vector.close()
    assert observations.shape == (2, 96, 96, 3) and not np.array_equal(observations[0], observations[1])


def test_environments_that_take_turns_drive_as_single_ones(make: Make):
    kinds: list[dict[str, Any]] = [*({"renderer": name} for name in (*OURS, OURS[0])), {"continuous": False}]
    actions = [random_actions(make(FAST, **kind), steps=15) for kind in kinds]
    alone = [drive(make(FAST, **kind), actions[index], seed=index) for index, kind in enumerate(kinds)]
    envs = [make(FAST, **kind) for kind in kinds]
    turns = [[seen(*env.reset(seed=index))] for index, env in enumerate(envs)]
    for step in range(15):
        for index, env in enumerate(envs):
            turns[index].append(seen(*env.step(actions[index][step])))
    for taken, expected in zip(turns, alone, strict=True):
        assert_same(taken, expected)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_is_made_with_the_same_arguments(duplicate: Callable[[Any], Any]):
    env = CarRacing("rgb_array", False, 0.5, True, False, "pygame")
    env.reset(seed=0)
    double = duplicate(env)
    assert double.renderer.name == "pygame"
    assert [getattr(double, name) for name in ("render_mode", "lap_complete_percent", "domain_randomize")] == [
        "rgb_array",
        0.5,
        True,
    ]
    assert double.action_space == env.action_space


def test_a_pickled_environment_drives_as_the_original():
    env = CarRacing(continuous=False, renderer="pygame")
    double = pickle.loads(pickle.dumps(env))
    actions = [3, 3, 3, 1, 2, 4, 0]
    assert_same(drive(double, actions), drive(env, actions))


def test_a_pickled_environment_with_auto_chooses_its_renderer_again(monkeypatch: pytest.MonkeyPatch):
    pickled = pickle.dumps(CarRacing())
    asked, choose = [], renderer_choice.choose
    monkeypatch.setattr(renderer_choice, "choose", lambda name: asked.append(name) or choose(name))
    pickle.loads(pickled)
    assert asked == ["auto"]


@pytest.mark.parametrize("renderer", [*OURS, "gymnasium"])
def test_an_environment_can_be_reset_after_it_was_closed(make: Make, renderer: str):
    env = make(FAST, renderer=renderer)
    before = drive(env, [STRAIGHT] * 5)
    env.close()
    assert_same(drive(env, [STRAIGHT] * 5), before)


@pytest.mark.parametrize("resets", [0, 1])
def test_closing_twice_is_no_error(resets: int):
    env = CarRacing()
    for _ in range(resets):
        env.reset(seed=0)
    env.close()
    env.close()


@pytest.mark.slow
def test_closed_environments_free_their_memory():
    source = """if True:
        import gymnasium, json, psutil, world_models

        def live(count):
            for index in range(count):
                env = gymnasium.make("world_models/CarRacing-v3")
                env.reset(seed=index % 5)
                env.close()
            return psutil.Process().memory_info().rss / 2**20

        warm = live(20)
        print(json.dumps(live(100) - warm))"""
    assert run_python(source) < 8


# --- renderers that cannot be used

REFUSED = """if True:
    import json, sys
    import gymnasium, world_models
    from world_models.envs import car_renderer

    def load_library():
        raise ImportError("the C renderer was not built; install a C compiler, then the package again")

    car_renderer.load_library = load_library
    try:
        gymnasium.make("world_models/CarRacing-v3", renderer=sys.argv[1])
    except Exception as error:
        print(json.dumps([type(error).__name__, str(error)]))"""


def test_an_unknown_renderer_is_a_value_error_of_one_line():
    kind, said = run_python(REFUSED, "fast")
    assert (kind, len(said.splitlines())) == ("ValueError", 1)
    assert all(word in said for word in ("fast", "auto", "c", "pygame", "gymnasium"))


def test_a_renderer_that_was_not_built_is_a_value_error_of_one_line():
    assert run_python(REFUSED, "c") == [
        "ValueError",
        "renderer c cannot be used: the C renderer was not built; install a C compiler, then the package again; "
        "choose auto or another renderer",
    ]


def test_an_environment_names_its_renderer_and_the_reason(make: Make):
    env = make(FAST).unwrapped
    assert (env.renderer.name, env.renderer_reason) == renderer_choice.choose("auto")


def test_a_step_before_the_first_reset_raises_gymnasiums_error(make: Make):
    with pytest.raises(Error, match=r"Cannot call env\.step"):
        make(FAST).step(STRAIGHT)
