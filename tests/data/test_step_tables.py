import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from world_models.data.latents import Latents, write_latents
from world_models.data.rollouts import Rollouts

pd = pytest.importorskip("pandas")

Make = Callable[..., Path]


def test_rollouts_become_a_line_for_each_row(make_rollouts: Make):
    rollouts = Rollouts(make_rollouts([3, 4], [2]))
    lines = rollouts.to_pandas()
    assert len(lines) == rollouts.num_rows
    for number, episode in enumerate(rollouts):
        of_episode = lines[lines.episode == number]
        steps = of_episode.query("not is_final")
        assert of_episode.step.tolist() == list(range(len(episode) + 1))
        assert (set(of_episode.seed), set(of_episode.policy)) == ({episode.seed}, {episode.policy})
        np.testing.assert_array_equal(steps[["action_0", "action_1", "action_2"]], episode.actions)
        np.testing.assert_array_equal(steps.reward, episode.rewards)
        np.testing.assert_array_equal(steps.terminated, episode.terminated)
        np.testing.assert_array_equal(steps.truncated, episode.truncated)
        telemetry = of_episode[["telemetry_speed_m_per_s", "telemetry_heading_rad"]]
        np.testing.assert_array_equal(telemetry, episode.telemetry)


def test_dtypes_are_those_of_the_columns(make_rollouts: Make):
    lines = Rollouts(make_rollouts([3, 4])).to_pandas()
    assert {name: str(kind) for name, kind in lines.dtypes.items()} == {
        **{"episode": "int32", "step": "int32", "is_final": "bool", "seed": "int64", "policy": "category"},
        **{"reward": "float32", "terminated": "bool", "truncated": "bool"},
        **dict.fromkeys(["action_0", "action_1", "action_2"], "float32"),
        **dict.fromkeys(["telemetry_speed_m_per_s", "telemetry_heading_rad"], "float32"),
    }


def test_latents_become_a_column_for_each_dimension(make_rollouts: Make, tmp_path: Path):
    source = Rollouts(make_rollouts([3, 4])).shards[0]
    mu = np.arange(2 * source.num_rows, dtype=np.float16).reshape(-1, 2)
    attributes = {"vae_sha256": "ab" * 32, "config": ""}
    with write_latents(tmp_path / "latents.h5", source, 2, "float16", attributes) as writer:
        writer.append(mu, -mu)
    lines = Latents(tmp_path / "latents.h5").to_pandas()
    np.testing.assert_array_equal(lines[["mu_0", "mu_1"]], mu)
    np.testing.assert_array_equal(lines[["logvar_0", "logvar_1"]], -mu)
    assert list(lines)[8:] == ["action_0", "action_1", "action_2", "mu_0", "mu_1", "logvar_0", "logvar_1"]


def test_without_pandas_it_says_what_to_install(make_rollouts: Make, monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.partition(".")[0] == "pandas":
            raise ImportError(name)
        return real(name, *rest, **named)

    rollouts = Rollouts(make_rollouts([3]))
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"^to_pandas needs pandas; install it: pip install pandas$"):
        rollouts.to_pandas()
