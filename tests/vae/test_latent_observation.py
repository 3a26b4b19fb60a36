"""Environments that observe z: z of the right frame, Gymnasium's rules, and refusals in one line."""

import copy
import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import jaxtyping
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import Autoreset

from world_models import LatentObservation, Latents, LatentSequences, TelemetryInfo, load_vae, preprocess
from world_models.envs.car_racing import CarTelemetry
from world_models.vae.config import VAEConfig
from world_models.vae.latent_observation import LatentVectorObservation
from world_models.vae.model import VAE

pytestmark = pytest.mark.usefixtures("one_thread")

SPEC = {"crop": [0, 84], "size": 64, "interpolation": "INTER_AREA"}
STEPS = 3


class Pictures(gymnasium.Env[np.ndarray, np.int64]):
    """Shows other random pictures at each step, for STEPS steps."""

    metadata: dict[str, Any] = {"render_modes": []}  # type: ignore[misc]  # noqa: RUF012

    def __init__(self, shape: tuple[int, ...] = (96, 96, 3), dtype: Any = np.uint8, high: int = 255):
        self.observation_space = spaces.Box(0, high, shape, dtype)
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = STEPS
        return self._picture(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        return self._picture(), 0.0, self.left == 0, False, {}

    def _picture(self) -> np.ndarray:
        self.shown = self.np_random.integers(0, 256, self.observation_space.shape, np.uint8)
        return self.shown


class DictOfPicture(Pictures):
    """Shows the same pictures as one entry of a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.picture_space = self.observation_space
        health = spaces.Box(0, 100, (1,), np.float32)
        self.observation_space = spaces.Dict(health=health, screen=self.picture_space)  # type: ignore[assignment]

    def _picture(self) -> Any:
        self.shown = self.np_random.integers(0, 256, self.picture_space.shape, np.uint8)  # type: ignore[arg-type]
        return {"health": np.zeros(1, np.float32), "screen": self.shown}


gymnasium.register("LatentPictures-v0", Pictures)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def vae() -> VAE:
    torch.manual_seed(0)
    return VAE(VAEConfig(z_dim=4), SPEC)


def _mu(vae: VAE, pictures: np.ndarray) -> np.ndarray:
    return vae.encode(preprocess(pictures, SPEC)).mu.numpy()


def _vector(num_envs: int = 2, mode: AutoresetMode = AutoresetMode.NEXT_STEP, **options: Any) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: Pictures(**options)] * num_envs, autoreset_mode=mode)


# the observation


def test_the_observation_is_mu_of_the_current_frame(vae: VAE):
    env = Pictures()
    seen = LatentObservation(env, vae)
    first, _ = seen.reset(seed=0)
    np.testing.assert_allclose(first, _mu(vae, env.shown[None])[0], atol=1e-6)
    second, *_ = seen.step(np.int64(0))
    np.testing.assert_allclose(second, _mu(vae, env.shown[None])[0], atol=1e-6)


def test_the_observation_is_in_the_observation_space(vae: VAE):
    env = LatentObservation(Pictures(), vae)
    assert env.observation_space == spaces.Box(-np.inf, np.inf, (4,), np.float32)
    assert env.observation_space.contains(env.reset(seed=0)[0])


@pytest.mark.parametrize("shape", [(96, 96), (96, 96, 1)])
def test_grey_pictures_are_accepted(vae: VAE, shape: tuple[int, ...]):
    env = Pictures(shape)
    z, _ = LatentObservation(env, vae).reset(seed=0)
    np.testing.assert_allclose(z, _mu(vae, env.shown.reshape(1, 96, 96, 1))[0], atol=1e-6)


def test_grey_pictures_of_several_environments_are_encoded_separately(vae: VAE):
    z, _ = LatentObservation(_vector(shape=(96, 96)), vae).reset(seed=0)
    alone, _ = LatentObservation(Pictures((96, 96)), vae).reset(seed=1)
    np.testing.assert_allclose(z[1], alone, atol=1e-6)


def test_a_vector_environment_is_wrapped_as_one(vae: VAE):
    env = LatentObservation(_vector(3), vae)
    assert isinstance(env, LatentVectorObservation)
    assert env.single_observation_space.shape == (4,) and env.observation_space.shape == (3, 4)
    z, _ = env.reset(seed=0)
    assert env.observation_space.contains(z)


def test_several_environments_give_the_same_latents_as_single_ones(vae: VAE):
    together = LatentObservation(_vector(), vae)
    alone = [LatentObservation(Pictures(), vae) for _ in range(2)]
    z = together.reset(seed=5)[0]
    np.testing.assert_allclose(z, [env.reset(seed=5 + i)[0] for i, env in enumerate(alone)], atol=1e-6)
    z = together.step(np.zeros(2, np.int64))[0]
    np.testing.assert_allclose(z, [env.step(np.int64(0))[0] for env in alone], atol=1e-6)


def test_the_last_observations_of_episodes_are_latents_too(vae: VAE):
    env = LatentObservation(_vector(mode=AutoresetMode.SAME_STEP), vae)
    alone = LatentObservation(Pictures(), vae)
    env.reset(seed=5)
    alone.reset(seed=6)
    for _ in range(STEPS - 1):
        env.step(np.zeros(2, np.int64))
        alone.step(np.int64(0))
    z, _, terminated, _, infos = env.step(np.zeros(2, np.int64))
    last = alone.step(np.int64(0))[0]
    assert terminated.all()
    np.testing.assert_allclose(infos["final_obs"][1], last, atol=1e-6)
    assert not np.allclose(z[1], last)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_dicts_with_a_picture_give_the_latents_of_the_picture(vae: VAE, mode: AutoresetMode):
    def made(kind: type[Pictures]) -> list[gymnasium.Env | gymnasium.vector.VectorEnv]:
        return [kind(), SyncVectorEnv([kind] * 2, autoreset_mode=mode)]

    for plain, in_dicts in zip(made(Pictures), made(DictOfPicture), strict=True):
        envs = [LatentObservation(env, vae) for env in (plain, in_dicts)]
        np.testing.assert_array_equal(*(env.reset(seed=5)[0] for env in envs))
        action = np.zeros(2, np.int64) if isinstance(in_dicts, SyncVectorEnv) else np.int64(0)
        for _ in range(STEPS):
            (z, *_, infos), (again, *_, infos_again) = (env.step(action) for env in envs)
            np.testing.assert_array_equal(z, again)
            last, last_again = (np.stack(each.get("final_obs", np.zeros(1))) for each in (infos, infos_again))
            np.testing.assert_array_equal(last, last_again)


# normalised, and sampled


def test_z_is_normalised_as_in_the_training_of_memory_models(vae: VAE, run_dir: Path, latents_dir: Path):
    vae, latents = load_vae(run_dir), Latents(latents_dir)
    plain, _ = LatentObservation(Pictures(), vae).reset(seed=0)
    z, _ = LatentObservation(Pictures(), vae, latents).reset(seed=0)
    np.testing.assert_allclose(z, (plain - latents.z_mean) / latents.z_std, rtol=1e-4, atol=1e-5)
    assert z.dtype == np.float32


def test_sequences_normalise_like_their_latents(run_dir: Path, latents_dir: Path):
    vae = load_vae(run_dir)
    ways = Latents(latents_dir), LatentSequences(latents_dir, 5)
    assert np.array_equal(*(LatentObservation(Pictures(), vae, way).reset(seed=0)[0] for way in ways))


def test_mean_and_std_are_read_from_the_summary(latents_dir: Path):
    summary = json.loads((latents_dir / "latents.json").read_text())
    for latents in (Latents(latents_dir), LatentSequences(latents_dir, 5)):
        np.testing.assert_allclose(latents.z_mean, summary["z_mean"])
        np.testing.assert_allclose(np.square(latents.z_std), summary["z_variance"])


def test_z_mean_and_z_std_of_normalised_sequences_are_those_before_normalising(latents_dir: Path):
    plain, normalised = (LatentSequences(latents_dir, 5, normalise=on) for on in (False, True))
    expected = (plain[0]["z"].numpy() - plain.z_mean) / plain.z_std
    np.testing.assert_allclose(normalised[0]["z"].numpy(), expected, rtol=1e-4, atol=1e-4)


def test_samples_have_the_posteriors_moments(vae: VAE):
    env = Pictures()
    seen = LatentObservation(env, vae, sample=True)
    seen.reset(seed=0)
    samples = np.stack([seen.observation(env.shown) for _ in range(500)])
    posterior = vae.encode(preprocess(env.shown[None], SPEC))
    sigma = (posterior.logvar / 2).exp().numpy()[0]
    assert (np.abs(samples.mean(0) - posterior.mu.numpy()[0]) < 5 * sigma / np.sqrt(500)).all()
    np.testing.assert_allclose(samples.std(0), sigma, rtol=0.2)


@pytest.mark.parametrize("make", [Pictures, _vector])
def test_samples_follow_from_the_seed(vae: VAE, make: Any):
    env = LatentObservation(make(), vae, sample=True)
    first, again, other = (env.reset(seed=seed)[0] for seed in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_a_reset_without_a_seed_continues_the_noise(vae: VAE):
    env = LatentObservation(Pictures(), vae, sample=True)
    env.reset(seed=3)
    picture = np.zeros((96, 96, 3), np.uint8)
    before = env.observation(picture)
    env.reset()
    assert not np.array_equal(env.observation(picture), before)


@pytest.mark.parametrize("seed", [[3, 4], [3, None]])
def test_a_list_of_seeds_is_accepted(vae: VAE, seed: Any):
    z, _ = LatentObservation(_vector(), vae, sample=True).reset(seed=seed)
    assert z.shape == (2, 4)


# Gymnasium's rules


@pytest.mark.parametrize("sample", [False, True])
def test_gymnasiums_checker_passes(vae: VAE, sample: bool):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about the bounds of a Box, and about wrappers
        check_env(LatentObservation(gymnasium.make("LatentPictures-v0"), vae, sample=sample))


def test_gymnasiums_checker_passes_on_the_car(vae: VAE):
    car = gymnasium.make("world_models/CarRacing-v3", render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(TelemetryInfo(LatentObservation(car, vae)), skip_render_check=True)
    car.close()


def test_a_copy_gives_the_same_observations(vae: VAE):
    env = LatentObservation(Pictures(), vae)
    assert np.array_equal(copy.deepcopy(env).reset(seed=0)[0], env.reset(seed=0)[0])


# bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (4,)}, "observes 4 numbers"),
        ({"dtype": np.float32}, "observes float32 96x96x3, not uint8"),
        ({"shape": (3, 96, 96)}, "observes uint8 3x96x96: channels first or stacked frames"),
        ({"shape": (64, 64, 3)}, r"have 64 rows, and the model's preprocess keeps rows 0:84"),
    ],
)
@pytest.mark.parametrize("make", [Pictures, _vector])
def test_observations_that_do_not_fit_are_refused(vae: VAE, make: Any, options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message) as refused:
        LatentObservation(make(**options), vae)
    assert "\n" not in str(refused.value) and "give" in str(refused.value)


def test_stacked_frames_are_refused(vae: VAE):
    env = gymnasium.wrappers.FrameStackObservation(Pictures((96, 96)), 3)
    with pytest.raises(ValueError, match="the environment observes uint8 3x96x96"):
        LatentObservation(env, vae)


def test_a_model_of_digits_is_refused():
    with pytest.raises(ValueError, match=r"the model takes digits \(vae.network mlp\); give one trained on rollouts"):
        LatentObservation(Pictures(), VAE(VAEConfig(2, network="mlp", hidden=(4,))))


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switches off the type checks of the tests, so that only the code itself checks types, as for users."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def test_a_path_is_refused_as_the_model(unchecked: None):
    with pytest.raises(ValueError, match=r"vae is a str; give a V model, by world_models.load_vae\(run\)"):
        LatentObservation(Pictures(), "runs/vae")  # type: ignore[arg-type]


def test_a_model_without_a_preprocess_is_refused():
    with pytest.raises(ValueError, match="is no preprocess"):
        LatentObservation(Pictures(), VAE(VAEConfig(2)))


def test_latents_of_another_z_dim_are_refused(vae: VAE, latents_dir: Path):
    with pytest.raises(ValueError, match="normalise holds latents of z_dim 32, the model has 4; give those it encoded"):
        LatentObservation(Pictures(), vae, Latents(latents_dir))


def test_a_value_that_is_no_latents_is_refused(unchecked: None, vae: VAE):
    with pytest.raises(ValueError, match="normalise is a bool; give Latents, LatentSequences or None"):
        LatentObservation(Pictures(), vae, True)  # type: ignore[arg-type]


def test_latents_without_a_summary_are_refused(vae: VAE, latents_dir: Path, tmp_path: Path):
    for path in latents_dir.glob("*.h5"):
        (tmp_path / path.name).symlink_to(path)
    wide = VAE(dataclasses.replace(vae.config, z_dim=32), SPEC)
    with pytest.raises(ValueError, match=r"latents.json: no such file"):
        LatentObservation(Pictures(), wide, Latents(tmp_path))


# telemetry


@pytest.fixture(scope="module")
def car():
    env = TelemetryInfo(gymnasium.make("world_models/CarRacing-v3"))
    yield env
    env.close()


def test_info_holds_the_state_at_the_time_of_the_observation(car: TelemetryInfo):
    _, first = car.reset(seed=1)
    assert first.keys() >= set(CarTelemetry.NAMES)
    *_, second = car.step(np.array([0, 1, 0], np.float32))
    expected = CarTelemetry(car.unwrapped)()
    assert [second[name] for name in CarTelemetry.NAMES] == expected.tolist()
    assert second["velocity_along_m_per_s"] > first["velocity_along_m_per_s"]


def test_the_state_is_that_of_the_new_track_after_a_reset(car: TelemetryInfo):
    car.reset(seed=1)
    _, info = car.reset(seed=2)
    assert info["center_distance_m"] == CarTelemetry(car.unwrapped)()[CarTelemetry.NAMES.index("center_distance_m")]


def test_the_state_is_that_of_the_new_track_if_a_wrapper_resets_by_itself():
    car = TelemetryInfo(Autoreset(gymnasium.make("world_models/CarRacing-v3", max_episode_steps=2)))
    car.reset(seed=1)
    still = np.zeros(3, np.float32)
    ended = [car.step(still)[3] for _ in range(3)]
    assert ended == [False, True, False]  # the third step was a reset
    *_, info = car.step(still)
    assert [info[name] for name in CarTelemetry.NAMES] == CarTelemetry(car.unwrapped)().tolist()
    car.close()


@pytest.mark.parametrize("make", [Pictures, _vector])
def test_an_environment_whose_state_is_not_known_is_refused(unchecked: None, make: Any):
    with pytest.raises(ValueError, match="whose state is not known here; give one CarRacing"):
        TelemetryInfo(make())
