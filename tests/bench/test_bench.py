import contextlib
import json
import math
import sys
import time
import types
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import psutil
import pytest
import torch
from gymnasium.envs.box2d import car_racing

from world_models.bench import acting, command, digits, driving, measuring, result, sequences, stages
from world_models.data.rollouts import Rollouts
from world_models.data.sequences import LatentSequences
from world_models.runtime import executors
from world_models.runtime.errors import Stopped
from world_models.vae.config import VAEConfig
from world_models.vae.fast import forms
from world_models.vae.model import VAE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows(rollouts_dir, tmp_path_factory):
    """The JSON of a benchmark of the stages that do not drive."""
    path = tmp_path_factory.mktemp("bench") / "bench.json"
    stages = "read,load,train,encode,sequences,convert"
    argv = f"--stages {stages} --data {rollouts_dir} --repeats 1 --seconds 0.1 --json {path}"
    command.main(argv.split())
    return json.loads(path.read_text())


def test_every_row_has_the_agreed_keys(rows):
    agreed = {
        "stage",
        "variant",
        "default",
        "baseline",
        "frames_per_s",
        "baseline_frames_per_s",
        "ratio",
        "device",
        "quiet",
    }
    assert all(agreed <= row.keys() for row in rows)


def test_each_stage_has_one_default_variant(rows):
    defaults = [row["stage"] for row in rows if row["default"]]
    assert defaults == ["read", "load", "train", "encode", "sequences", "convert"]


def test_each_stage_has_its_documented_baseline(rows):
    names = {(row["stage"], row["baseline"]) for row in rows}
    assert names == {
        *[("read", "single_frames"), ("load", "frame_by_frame"), ("train", "plain"), ("encode", "whole_rollouts")],
        *[("sequences", "window_by_window")],
        *[("convert", "cv2_images"), ("convert", "cv2_video"), ("convert", "savez_compressed")],
    }


def test_rates_are_ascending_and_ratios_are_finite(rows):
    for row in rows:
        for low, middle, high in (row["frames_per_s"], row["baseline_frames_per_s"]):
            assert 0 < low <= middle <= high
        assert math.isfinite(row["ratio"])


def test_only_training_and_encoding_have_a_speed_limit(rows):
    assert {row["stage"] for row in rows if row["limit_fraction"] is not None} == {"train", "encode"}


def _busy_cores(monkeypatch, *cores):
    """Pretend that other processes use this many cores in each round."""
    rounds = iter(cores)
    monkeypatch.setattr(measuring, "others_busy", lambda: contextlib.nullcontext([next(rounds)]))


def test_work_and_baseline_take_turns_in_each_round(monkeypatch):
    _busy_cores(monkeypatch, 0, 0, 0)
    order = []

    def work(name):
        def run():
            order.append(name)
            time.sleep(0.001)
            return 1

        return run

    samples = measuring.interleave({"theirs": work("theirs"), "ours": work("ours")}, 3)
    assert order == ["theirs", "ours", "theirs", "ours", "ours", "theirs", "theirs", "ours"]
    assert list(samples) == ["ours"] and len(samples["ours"].pairs) == 3


def test_rounds_on_a_busy_machine_are_dropped_counted_and_repeated(monkeypatch):
    _busy_cores(monkeypatch, 0.9, 0, 0.5, 0)
    rates = iter([0, 0, 100, 100, 1, 2, 100, 100, 3, 4])  # a warm-up, then four rounds that take turns
    samples = measuring.interleave({"a": lambda: (next(rates), 1.0), "b": lambda: (next(rates), 1.0)}, 2)["b"]
    assert {(pair.ours, pair.theirs) for pair in samples.pairs} == {(1, 2), (3, 4)}
    assert samples.quiet and samples.dropped == 2


def test_a_machine_that_is_always_busy_is_measured_and_marked_as_busy(monkeypatch):
    _busy_cores(monkeypatch, *[0.9] * 6)
    samples = measuring.interleave({"a": lambda: (1, 1.0), "b": lambda: (2, 1.0)}, 2)["b"]
    assert len(samples.pairs) == 2 * measuring.MAX_ROUNDS
    assert not samples.quiet


def test_each_variant_is_compared_with_the_baseline_of_the_same_round(monkeypatch):
    _busy_cores(monkeypatch, 0)
    works = {"theirs": lambda: (6, 2.0), "a": lambda: (6, 1.0), "b": lambda: (6, 0.5)}
    (a,), (b,) = (samples.pairs for samples in measuring.interleave(works, 1).values())
    assert (a.ours, a.theirs, b.ours, b.theirs) == (6, 3, 12, 3)


def _samples(*pairs, dropped=0, quiet=True):
    return measuring.Samples(tuple(measuring.Sample(*map(float, pair)) for pair in pairs), dropped, quiet)


def test_the_ratio_is_the_median_of_the_ratios_of_all_pairs():
    rounds = _samples((10, 5), (30, 10), (8, 8))
    found = result.of_samples(("train", "default", "plain"), rounds, result.Limit("GEMM", 20.0), torch.device("cpu"))
    assert found.ratio == 2
    assert found.frames_per_s == (8, 10, 30)
    assert (found.limit, found.limit_fraction) == ("GEMM", 0.5)
    assert ", 50% of the GEMM limit" in found.line()
    assert found.gflop_per_s == pytest.approx(10 * result.GFLOP_PER_FRAME["train"])


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (_samples((10, 5)), ""),
        (_samples((10, 5), dropped=2), ", 2 busy rounds dropped"),
        (_samples((10, 5), quiet=False), ", machine was busy"),
    ],
)
def test_a_result_says_whether_the_machine_was_busy(samples, said):
    found = result.of_samples(("read", "blocks", "single_frames"), samples, None, torch.device("cpu"))
    assert found.quiet == samples.quiet and found.dropped == samples.dropped
    assert found.line().endswith(f"single_frames (5){said}")


def test_peak_memory_is_at_least_the_memory_in_use():
    found = result.of_samples(("read", "blocks", "single_frames"), _samples((10, 5)), None, torch.device("cpu"))
    assert found.peak_memory_gb * 1e9 >= psutil.Process().memory_info().rss * 0.9


def test_the_measured_work_does_not_count_as_a_busy_machine(monkeypatch):
    fields = iter(["cpu 0 0 0 0 0 0 0 0 0", "cpu 100 0 0 100 0 0 0 0 0"])  # one core busy, one idle, for a second
    times = iter([(0.0,) * 5, (1.0, 0.0, 0.0, 0.0, 0.0)])
    clock = iter([0.0, 1.0])
    monkeypatch.setattr(measuring.Path, "read_text", lambda self: next(fields))
    monkeypatch.setattr(measuring.os, "times", lambda: next(times))
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: next(clock))
    with measuring.others_busy() as busy:
        pass
    assert busy == [0.0]


def test_the_plain_vae_computes_the_same_as_the_fast_one(run_dir):
    from world_models import load_vae

    vae, plain = load_vae(run_dir), stages.PlainVAE(VAEConfig())
    plain.load_state_dict(vae.state_dict())
    z, images = torch.randn(4, 32), torch.rand(4, 3, 64, 64)
    assert torch.allclose(plain.logits(z), vae.logits(z), atol=1e-4)
    assert torch.allclose(plain.posterior(images).mu, vae.posterior(images).mu, atol=1e-4)


def test_the_training_baseline_does_not_use_the_fast_forms(monkeypatch):
    monkeypatch.setattr(forms, "encode", None)
    monkeypatch.setattr(forms, "decode", None)
    step = stages.plain_step(torch.device("cpu"))
    step(np.zeros((2, 64, 64, 3), np.uint8))


def test_resident_and_streamed_loading_give_the_same_number_of_frames(rollouts_dir, tmp_path):
    data = Rollouts(rollouts_dir)
    works = stages.load_works(data, tmp_path, torch.device("cpu"))
    assert works["resident"]() == works["streamed"]() == 2 * data.num_rows


def test_the_baseline_of_sequences_gives_the_same_windows(rollouts_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(sequences, "LENGTH", 10)
    path = sequences.write(Rollouts(rollouts_dir), tmp_path)
    theirs, ours = sequences.WindowByWindow(path), LatentSequences(path, 10)
    shared = [index for index in range(len(ours)) if index < len(theirs)]
    assert len(shared) == len(theirs) == len(ours)  # episodes of 40 steps
    for one, other in zip(map(theirs.__getitem__, shared), map(ours.__getitem__, shared), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in ("actions", "rewards", "terminated", "truncated"))


def test_frames_in_the_hosts_memory_are_all_encoded(monkeypatch):
    monkeypatch.setattr(stages.encode, "GPU_BATCH", 3)
    work = stages.through_ring(VAE(VAEConfig()), np.zeros((7, 64, 64, 3), np.uint8))
    assert work() == work() == 8 * 7


@pytest.fixture
def short(monkeypatch):
    """Episodes of five steps, and the renderers that every machine has."""
    monkeypatch.setattr(driving, "STEPS", 5)
    monkeypatch.setattr(driving, "available_renderers", lambda: ["pygame", "gymnasium"])


def test_collecting_is_measured_in_stored_steps(tmp_path, short):
    works = driving.whole_collections(tmp_path, 1, "_one_process")
    assert list(works) == ["gymnasium_loop_one_process", "pygame_one_process", "gymnasium_one_process"]
    assert works["pygame_one_process"]() == driving.EPISODES_PER_CORE["pygame"] * 5
    assert len(Rollouts(tmp_path / "collect_one_process_pygame_0")) == driving.EPISODES_PER_CORE["pygame"]


def test_the_plain_loop_drives_one_episode_per_process(short):
    done = driving.whole_collections(Path(), 1, "")["gymnasium_loop"]()
    assert isinstance(done, tuple)
    steps, seconds = done
    assert steps == 5 and seconds > 0


def test_the_plain_loop_drives_the_given_number_of_steps(monkeypatch):
    taken = []
    step, actions = car_racing.CarRacing.step, driving.brownian_actions(0, 3)
    monkeypatch.setattr(driving, "brownian_actions", lambda seed, steps: actions)
    monkeypatch.setattr(car_racing.CarRacing, "step", lambda *args: taken.append(1) or step(*args))
    driving.plain_loop((0, 3), lambda units: None)
    assert len(taken) == 1 + 3  # the reset has a step of its own


def steps_of(work: measuring.Work) -> int:
    done = work()
    assert isinstance(done, tuple)  # resets do not count
    return done[0]


def test_steps_of_environments_are_timed_without_the_reset(short, monkeypatch):
    monkeypatch.setattr(driving.importlib.util, "find_spec", lambda name: None)
    works = driving.env_steps()
    assert list(works) == ["gymnasium_step", "pygame_step"]
    assert all(steps_of(work) == 5 for work in works.values())


class StandInPool:
    """Accepts a batch of one action, as EnvPool does."""

    def reset(self):
        self.steps = 0

    def step(self, actions):
        assert actions.shape == (1, 3)
        self.steps += 1


def test_envpool_is_measured_if_it_is_installed(short, monkeypatch):
    pool, stand_in = StandInPool(), types.ModuleType("envpool")
    stand_in.make_gymnasium = lambda env_id, **options: pool  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "envpool", stand_in)
    monkeypatch.setattr(driving.importlib.util, "find_spec", lambda name: name == "envpool")
    assert steps_of(driving.env_steps()["envpool_step"]) == 5 == pool.steps


def test_the_time_of_each_part_of_a_step_is_measured(tmp_path, short):
    parts = driving.parts_us(tmp_path)
    assert parts.keys() == {"rendering", "physics", "resize", "telemetry", "policy", "write", "reset"}
    assert all(us > 0 for us in parts.values())


def test_available_renderers_include_gymnasiums():
    assert (
        set(driving.available_renderers()) <= {"c", "pygame", "gymnasium"}
        and "gymnasium" in driving.available_renderers()
    )


def test_the_collect_stage_prints_the_time_of_each_part(short, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(
        driving, "comparisons", lambda folder: iter([{"slow": lambda: (1, 2.0), "fast": lambda: (1, 1.0)}])
    )
    (found,) = command.bench(command.prepare(command.BenchConfig(stages="collect", repeats=1)))
    assert found.default and found.ratio == 2 and found.parts_us and found.parts_us["rendering"] > 0
    assert "rendering" in capsys.readouterr().out


def test_only_the_first_comparison_of_a_stage_has_a_default(short, monkeypatch):
    pair = {"slow": lambda: (1, 2.0), "fast": lambda: (1, 1.0)}
    monkeypatch.setattr(driving, "comparisons", lambda folder: iter([pair, pair]))
    results = command.bench(command.prepare(command.BenchConfig(stages="collect", repeats=1)))
    assert [found.default for found in results] == [True, False]
    assert ["parts_us" in found.as_json() for found in results] == [True, False]


def test_a_benchmark_without_data_collects_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(driving, "STEPS", 40)
    results = command.bench(command.prepare(command.BenchConfig(stages="read", repeats=1)))
    assert [found.stage for found in results] == ["read"]
    assert "collecting" in capsys.readouterr().out


def test_digits_are_measured_only_if_asked_for_and_need_no_rollouts(tmp_path: Path):
    path = tmp_path / "bench.json"
    command.main(f"--stages digits --repeats 1 --seconds 0.1 --json {path}".split())
    (row,) = json.loads(path.read_text())
    assert (row["stage"], row["variant"], row["baseline"], row["default"]) == ("digits", "mlp", "tutorial", True)
    assert row["ratio"] > 0 and "digits" not in command.BenchConfig().stages


def test_the_tutorials_loss_equals_ours():
    """With the same loss, the comparison measures only speed."""
    vae = VAE(VAEConfig(20, kl_tolerance=0.0, likelihood="bernoulli", network="mlp"))
    weights = vae.state_dict()
    ours = ("encoder.layers.0", "encoder.mu", "encoder.logvar", "decoder.layers.0", "decoder.pixels")
    theirs = ("hidden", "mu", "logvar", "up", "out")
    tutorial = digits.Tutorial()
    tutorial.load_state_dict(
        {
            f"{b}.{kind}": weights[f"{a}.{kind}"]
            for a, b in zip(ours, theirs, strict=True)
            for kind in ("weight", "bias")
        }
    )
    pixels = torch.rand(4, 784)
    torch.manual_seed(0)
    noise = torch.randn(4, 20)
    torch.manual_seed(0)
    found = tutorial.loss(pixels)
    torch.testing.assert_close(found, vae.objective(pixels.reshape(4, 1, 28, 28), noise).loss_nats.sum())


@pytest.mark.parametrize("text", ["notes", "{}", '[{"a": 1}]', "[1]", "[" * 100_000])
def test_a_file_without_results_is_not_overwritten(tmp_path: Path, text: str):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match="holds no results of bench; choose another --json"):
        command.prepare(command.BenchConfig(json=str(tmp_path / "a.json")))


def test_a_folder_is_refused_as_the_file_of_results(tmp_path: Path):
    with pytest.raises(ValueError, match="holds no results of bench"):
        command.prepare(command.BenchConfig(json=str(tmp_path)))


@pytest.mark.parametrize("text", ["", '[{"stage": "train"}]'])
def test_older_results_are_overwritten(tmp_path: Path, text: str):
    (tmp_path / "a.json").write_text(text)
    command.prepare(command.BenchConfig(json=str(tmp_path / "a.json")))


def test_a_stopped_benchmark_keeps_the_results_of_finished_stages(
    rollouts_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = executors.run

    def stop_at_load(work: Any, tasks: list[Any], *more: Any) -> Any:
        if tasks[0][0] == "load":
            raise Stopped("the disk is full")
        return run(work, tasks, *more)

    monkeypatch.setattr(executors, "run", stop_at_load)
    path = tmp_path / "bench.json"
    argv = f"--stages read,load --data {rollouts_dir} --repeats 1 --seconds 0.1 --json {path}"
    with pytest.raises(Stopped):
        command.main(argv.split())
    assert {row["stage"] for row in json.loads(path.read_text())} == {"read"}


def test_acting_is_compared_with_the_plain_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(acting, "NUM_ENVS", 2)
    path = tmp_path / "bench.json"
    command.main(f"--stages act --repeats 1 --seconds 0.05 --json {path}".split())
    rows = json.loads(path.read_text())
    suffixes = ["", "_2_envs", "_no_env", "_2_frames_no_env"]
    assert [row["variant"] for row in rows] == [f"encode{suffix}" for suffix in suffixes]
    assert [row["baseline"] for row in rows] == [f"plain_encoder{suffix}" for suffix in suffixes]
    assert [row["default"] for row in rows] == [True, False, False, False]


class CountedResets(gymnasium.Wrapper):
    """Counts its resets."""

    count = 0

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        CountedResets.count += 1
        return super().reset(**options)


def test_a_car_starts_again_when_its_episode_ends(monkeypatch: pytest.MonkeyPatch):
    make = gymnasium.make
    monkeypatch.setattr(gymnasium, "make", lambda name: CountedResets(make(name, max_episode_steps=2)))
    steps = next(acting.comparisons(torch.device("cpu"), 0.5))["encode"]()
    assert isinstance(steps, int) and CountedResets.count == 1 + steps // 2 > 1
