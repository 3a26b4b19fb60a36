"""The expert: its actions in each kind of state, its finished laps, and the environments that it refuses."""

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.box2d import car_racing

from world_models import collect, envs
from world_models.envs import policies
from world_models.envs.expert import Expert, Skill

CAR_ACTIONS = spaces.Box(np.array([-1, 0, 0], np.float32), np.ones(3, np.float32))


class Stub:
    """An environment whose state the test gives."""

    def __init__(
        self, action_space: spaces.Space = CAR_ACTIONS, names: tuple[str, ...] = Expert.NEEDED_COLUMNS, **state: float
    ):
        self.action_space, self.telemetry_names = action_space, names
        self._state = dict.fromkeys(names, 0.0) | state

    def telemetry(self) -> np.ndarray:
        return np.array([self._state[name] for name in self.telemetry_names], np.float32)


def act(**state: float) -> tuple[float, float, float]:
    """Steering, gas and brake in a state; values that are not given are 0."""
    steer, gas, brake = Expert(Stub(CAR_ACTIONS, Expert.NEEDED_COLUMNS, **state), 0)(None).tolist()
    return steer, gas, brake


def drive(seed: int) -> tuple[float, bool]:
    """The sum of rewards over an episode of 1,000 steps, and whether it terminated."""
    env = envs.make_env("CarRacing-v3", renderer="gymnasium")
    frame, earned, terminated = env.reset(seed), 0.0, False
    policy = policies.load_policy("expert")(env, seed)
    for _ in range(1000):
        frame, reward, terminated, _ = env.step(policy(frame))
        earned += reward
        if terminated:
            break
    env.close()
    return earned, terminated


def test_expert_finishes_a_lap_with_more_than_890(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(car_racing.CarRacing, "_render", lambda self, mode: np.zeros((96, 96, 3), np.uint8))
    earned, terminated = drive(6_000_000)
    assert terminated and earned > 890


def test_expert_gives_full_gas_from_rest_on_a_straight_road():
    assert act() == (0.0, 1.0, 0.0)


def test_expert_neither_steers_nor_accelerates_at_its_top_speed_on_a_straight_road():
    assert act(velocity_along_m_per_s=Skill().top_speed_m_per_s) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    "state",
    [{"center_distance_m": 2.0}, {"relative_heading_rad": 0.2}, {"curvature_ahead_10m_per_m": -0.05}],
    ids=["left of the road's middle", "pointing left", "before a right curve"],
)
def test_expert_steers_right(state: dict[str, float]):
    assert act(**state)[0] > 0


def test_expert_steers_to_both_sides_in_the_same_way():
    state = {"center_distance_m": 1.5, "relative_heading_rad": -0.3, "curvature_ahead_10m_per_m": 0.04}
    mirrored = {name: -value for name, value in state.items()}
    left, right = act(**state), act(**mirrored)
    assert left == (-right[0], right[1], right[2])


def test_expert_brakes_harder_the_nearer_the_curve():
    ahead = [
        act(velocity_along_m_per_s=75.0, **{f"curvature_ahead_{distance}m_per_m": 0.09})[2] for distance in (10, 25, 50)
    ]
    assert ahead == sorted(ahead, reverse=True)
    assert ahead[0] > ahead[1] > 0


def test_expert_never_blocks_the_wheels():
    assert act(velocity_along_m_per_s=500.0, curvature_ahead_10m_per_m=0.1)[2] == pytest.approx(Skill().max_brake)


@pytest.mark.parametrize(
    "state", [{"relative_heading_rad": 2.0}, {"yaw_rate_rad_per_s": 8.0}], ids=["lost", "spinning"]
)
def test_expert_gives_little_gas_until_the_car_is_under_control(state: dict[str, float]):
    assert act(**state)[1] < 0.25


def test_expert_steering_does_not_grow_with_the_distance_far_off_the_road():
    assert act(center_distance_m=20.0) == act(center_distance_m=100.0)


def test_skill_limits_the_top_speed_of_the_expert():
    slow = Expert(Stub(velocity_along_m_per_s=30.0), 0, Skill(top_speed_m_per_s=20.0))(None)
    assert (slow[1], slow[2] > 0) == (0.0, True)


@pytest.mark.parametrize(
    "env", [Stub(names=()), Stub(spaces.Discrete(5)), Stub(spaces.Box(-1.0, 1.0, (2,)))], ids=["none", "keys", "two"]
)
def test_expert_is_refused_for_an_environment_without_one(env: Stub):
    with pytest.raises(ValueError, match=r"no expert for this environment.*use random or repeated"):
        Expert(env, 0)


def test_collecting_an_environment_without_an_expert_is_refused_before_work(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="no expert for this environment"):
        collect.main(["--out", str(out), "--env", "CartPole-v1", "--policy", "expert"])
    assert not out.exists()


@pytest.mark.parametrize("wrong", [{"grip_m_per_s2": -1.0}, {"max_brake": 0.95}, {"top_speed_m_per_s": float("inf")}])
def test_skill_out_of_bounds_is_refused(wrong: dict[str, float]):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is"):
        Skill(**wrong)
