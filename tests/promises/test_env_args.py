"""The environment's arguments are part of a data set: they are stored, compared, and needed to extend it."""

import dataclasses
import json
import re
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium import spaces

from world_models.collect import command
from world_models.collect.command import CollectConfig, prepare
from world_models.compare import table
from world_models.data.rollouts import Rollouts
from world_models.envs import simulators
from world_models.runs import provenance, records
from world_models.runs.provenance import SetRecord
from world_models.runtime.cli import parse


class Shades(gymnasium.Env):
    """Shows one shade of grey."""

    observation_space = spaces.Box(0, 255, (96, 96, 3), np.uint8)
    action_space = spaces.Discrete(2)

    def __init__(self, shade: int = 0, names: Any = None):
        self.picture = np.full((96, 96, 3), shade, np.uint8)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        return self.picture, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        return self.picture, 0.0, False, False, {}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    gymnasium.register("Shades-v0", Shades)  # pyright: ignore[reportArgumentType]: a class makes environments too
    yield
    del gymnasium.registry["Shades-v0"]


class Brightness:
    """Reads the brightness of the picture."""

    def __init__(self, env: Any):
        self.env = env

    def is_of_this_episode(self) -> bool:
        return True

    def __call__(self) -> np.ndarray:
        return np.array([self.env.picture[0, 0, 0]], np.float32)


class ShadesSimulator(simulators.Simulator):
    """Knows how bright the picture is."""

    telemetry_names = ("brightness",)

    def telemetry(self) -> Brightness:
        return Brightness(self.env.unwrapped)


@pytest.fixture
def asked(tmp_path: Path) -> CollectConfig:
    """Two episodes of two shards, of one shade."""
    return CollectConfig(
        str(tmp_path / "shades"), 2, 3, "Shades-v0", {"shade": 90}, "random", executor="serial", episodes_per_shard=1
    )


def collected(config: CollectConfig) -> Rollouts:
    command.collect(prepare(config))
    return Rollouts(config.out)


def made_earlier(config: CollectConfig) -> Rollouts:
    """A data set as it was collected before there were arguments."""
    found = collected(dataclasses.replace(config, env_args={}))
    for shard in found.shards:
        with h5py.File(shard.path, "r+") as file:
            del file.attrs["env_args"]
            kept, count = re.subn("env_args: {}\n", "", str(shard.attributes["config"]))
            assert count == 1
            file.attrs["config"] = kept
    return Rollouts(config.out)


# --- asked for


@pytest.mark.parametrize(
    "flags",
    [
        ["--env_args", '{"domain_randomize": true}'],
        ["--env_args.domain_randomize", "true"],
        ["--env_args.domain_randomize=True"],
        ["--config", "FILE"],
    ],
    ids=str,
)
def test_arguments_are_read_from_flags_and_yaml(tmp_path: Path, flags: list[str]):
    (tmp_path / "colours.yaml").write_text("env_args:\n  domain_randomize: true\n")
    given = [str(tmp_path / "colours.yaml") if flag == "FILE" else flag for flag in flags]
    assert parse(CollectConfig, given, prog="collect").env_args == {"domain_randomize": True}


@pytest.mark.parametrize(
    ("flags", "instead"),
    [
        (["--env_args.size.rows", "3"], """--env_args.size '{"rows": ...}'"""),
        (["--env_args.size.rows=3"], """--env_args.size '{"rows": 3}'"""),
    ],
)
def test_a_flag_that_is_nested_too_deeply_is_refused_with_the_right_form(flags: list[str], instead: str):
    with pytest.raises(ValueError, match=rf"is nested too deeply for a flag; give {re.escape(instead)}$"):
        parse(CollectConfig, flags, prog="collect")


def test_the_right_form_of_a_nested_flag_gives_a_number():
    assert parse(CollectConfig, ["--env_args.size", '{"rows": 3}'], prog="collect").env_args == {"size": {"rows": 3}}


def test_bad_arguments_are_refused_before_work_begins(asked: CollectConfig):
    with pytest.raises(ValueError, match="env_args holds shadow; Shades-v0 takes names, shade; did you mean shade"):
        prepare(dataclasses.replace(asked, env_args={"shadow": 1}))
    with pytest.raises(ValueError, match="env_args holds render_mode"):
        dataclasses.replace(asked, env_args={"render_mode": "human"})
    assert not Path(asked.out).exists()


# --- stored


def test_arguments_reach_the_frames(asked: CollectConfig):
    assert np.unique(collected(asked)[1].frames).tolist() == [90]


def test_arguments_are_stored_as_json_with_sorted_names(asked: CollectConfig):
    data = collected(dataclasses.replace(asked, env_args={"shade": 90, "names": {"b": 1, "a": None}}))
    stored = [shard.attributes["env_args"] for shard in data.shards]
    assert stored == ['{"names": {"a": null, "b": 1}, "shade": 90}'] * 2
    assert data.env_args == {"names": {"a": None, "b": 1}, "shade": 90}


def test_a_shard_without_the_attribute_has_no_arguments(asked: CollectConfig):
    assert made_earlier(asked).env_args == {}


def test_shards_with_different_arguments_are_refused_as_one_data_set(asked: CollectConfig):
    data = collected(asked)
    with h5py.File(data.shards[1].path, "r+") as file:
        del file.attrs["env_args"]
    with pytest.raises(ValueError, match=r'its env_args is {}, that of shard-00000.h5 is {"shade": 90}'):
        Rollouts(asked.out)


@pytest.mark.parametrize("wrong", ["[1]", "5", "{"])
def test_an_attribute_that_is_no_json_object_is_refused(asked: CollectConfig, wrong: str):
    with h5py.File(collected(asked).shards[0].path, "r+") as file:
        file.attrs["env_args"] = wrong
    with pytest.raises(ValueError, match=r"shard-00000.h5: attribute env_args is n"):
        Rollouts(asked.out)


# --- asked for again


def test_a_data_set_with_arguments_is_extended(asked: CollectConfig):
    before = [shard.digest() for shard in collected(asked).shards]
    after = collected(dataclasses.replace(asked, num_episodes=3, env_args={"shade": 90}))
    assert len(after) == 3 and [shard.digest() for shard in after.shards[:2]] == before


@pytest.mark.parametrize("other", [{}, {"shade": 80}, {"shade": 90, "names": []}, {"shade": 90.0}], ids=str)
def test_a_data_set_is_not_extended_with_other_arguments(asked: CollectConfig, other: dict[str, Any]):
    collected(asked)
    said = re.escape(f'holds a data set of env_args {{"shade": 90}}, not {json.dumps(dict(sorted(other.items())))}')
    with pytest.raises(ValueError, match=said):
        prepare(dataclasses.replace(asked, env_args=other))


def test_a_data_set_of_an_older_version_without_arguments_is_extended(asked: CollectConfig):
    old = made_earlier(asked)
    data = collected(dataclasses.replace(asked, env_args={}, num_episodes=3))
    assert len(data) == 3 and [shard.digest() for shard in data.shards[:2]] == [shard.digest() for shard in old.shards]


def test_a_data_set_whose_crop_auto_no_longer_gives_is_extended_with_its_own_crop(asked: CollectConfig):
    was = dataclasses.replace(asked, crop="0:84")
    for shard in collected(was).shards:
        with h5py.File(shard.path, "r+") as file:
            file.attrs["config"] = str(shard.attributes["config"]).replace("crop: 0:84", "crop: auto")
    with pytest.raises(ValueError, match=r"holds a data set of preprocess {'crop': \[0, 84\]"):
        prepare(dataclasses.replace(asked, num_episodes=3))
    assert len(collected(dataclasses.replace(was, num_episodes=3))) == 3


def test_a_data_set_with_fewer_columns_of_telemetry_is_not_extended(
    asked: CollectConfig, monkeypatch: pytest.MonkeyPatch
):
    collected(asked)  # at this time nothing was known of the environment
    module: Any = types.ModuleType("shades_simulator")
    module.simulator = ShadesSimulator
    monkeypatch.setitem(sys.modules, "shades_simulator", module)
    monkeypatch.setitem(simulators.KNOWN, "Shades", "shades_simulator")
    with pytest.raises(ValueError, match="has 0 columns of telemetry, and Shades-v0 now gives 1; choose another --out"):
        prepare(dataclasses.replace(asked, num_episodes=3))


# --- never trained on and scored


def record(**facts: Any) -> SetRecord:
    return SetRecord(**{"data": "", "data_digest": "", "seeds": frozenset({0, 5})} | facts)


@pytest.mark.parametrize("env", ["Shades-v0", "Shades-v7", "Shades"])
@pytest.mark.parametrize("env_args", [{}, {"shade": 90}, {"shade": 1}], ids=str)
def test_trained_episodes_are_recognised_under_other_arguments_and_versions(
    asked: CollectConfig, env: str, env_args: dict[str, Any]
):
    assert record(env=env, env_args=env_args).trained_seeds(collected(asked)) == {0}


def test_an_episode_of_another_environment_was_not_trained_on(asked: CollectConfig):
    assert record(env="Shades2-v0").trained_seeds(collected(asked)) == set()


def test_the_description_of_a_model_has_the_arguments_of_its_training_data(run_dir: Path):
    assert json.loads((run_dir / "model.json").read_text())["env_args"] == {}
    assert [each.env_args for each in provenance.load(run_dir).sets] == [{}]


def test_a_comparison_shows_the_arguments(make_run: Callable[..., Path]):
    run = records.read_run(make_run("a", description={"env": "Shades-v0", "env_args": {"shade": 90}}))
    assert ("its arguments", '{"shade": 90}') in table.provenance(run)
