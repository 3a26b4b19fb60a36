"""Frames as batches: one order whatever the memory, the split, the noise."""

import hashlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from world_models.batches import Batches, Resident
from world_models.frames import BLOCK_FRAMES, FrameSet, noise, split_episodes, torch_device
from world_models.rollouts import FRAME_BYTES, Rollouts

CPU = torch.device("cpu")
PLENTY = 1 << 40
LENGTHS = ([100, 3], [70, 80])  # steps; 257 frames in 10 blocks


@pytest.fixture
def data(make_rollouts: Callable[..., Path]) -> Rollouts:
    return Rollouts(make_rollouts(*LENGTHS))


@pytest.fixture
def frames(data: Rollouts) -> FrameSet:
    return FrameSet(data, range(4))


def _batches(frames: FrameSet, streamed: bool = False, **settings: Any) -> Batches:
    settings = {"batch_size": 20, "seed": 0, "shuffle_frames": 30} | settings
    need = 2 * (settings["shuffle_frames"] + BLOCK_FRAMES) * FRAME_BYTES
    return Batches(frames, memory_bytes=need if streamed else PLENTY, **settings)


def _take(batches: Batches, count: int, start_step: int = 0) -> list[Tensor]:
    return [batch.frames for batch in itertools.islice(batches(CPU, start_step), count)]


def _epoch(batches: Batches, epoch: int = 0) -> Tensor:
    return torch.cat(_take(batches, batches.steps_per_epoch, epoch * batches.steps_per_epoch))


def _names(frames: Tensor | np.ndarray) -> list[str]:
    return [hashlib.sha256(np.asarray(frame).tobytes()).hexdigest() for frame in frames]


def _same(left: list[Tensor], right: list[Tensor]) -> bool:
    return len(left) == len(right) and all(map(torch.equal, left, right))


# the split


def test_split_is_the_same_every_time():
    assert split_episodes(range(100), 0) == split_episodes(range(100), 0)


@pytest.mark.parametrize(("episodes", "held_out"), [(2, 1), (9, 1), (10, 1), (20, 2), (100, 10)])
def test_split_holds_out_a_tenth_and_at_least_one(episodes: int, held_out: int):
    assert len(split_episodes(range(episodes), 0).val) == held_out


@pytest.mark.parametrize("episodes", [2, 3, 57])
def test_split_puts_every_episode_on_one_side(episodes: int):
    split = split_episodes(range(episodes), 3)
    assert sorted(split.train + split.val) == list(range(episodes))


def test_split_holds_out_those_with_the_lowest_sha256_of_both_seeds():
    seeds = list(range(1000, 1040))
    ranked = sorted(seeds, key=lambda seed: hashlib.sha256(f"5,{seed}".encode()).hexdigest())
    assert {seeds[i] for i in split_episodes(seeds, 5).val} == set(ranked[:4])


def test_split_is_of_seeds_not_of_their_order():
    seeds = np.random.default_rng(0).permutation(np.arange(50, dtype=np.int64))
    held_out = {int(seeds[i]) for i in split_episodes(seeds, 0).val}
    assert held_out == set(split_episodes(range(50), 0).val)


def test_split_depends_on_its_seed():
    assert len({split_episodes(range(100), split_seed).val for split_seed in range(5)}) == 5


@pytest.mark.parametrize("episodes", [0, 1])
def test_fewer_than_two_episodes_cannot_be_split(episodes: int):
    with pytest.raises(ValueError, match=f"{episodes} episode cannot be split .* collect at least 2"):
        split_episodes(range(episodes), 0)


# frames by position


def test_frame_set_holds_final_frames_too(data: Rollouts, frames: FrameSet):
    assert len(frames) == data.num_rows == 257


def test_frame_set_knows_its_size(frames: FrameSet):
    assert frames.num_bytes == 257 * 64 * 64 * 3 == frames.read_all().nbytes


def test_all_frames_are_the_episodes_in_order(data: Rollouts, frames: FrameSet):
    assert np.array_equal(frames.read_all(), np.concatenate([episode.frames for episode in data]))


def test_frame_set_holds_only_the_chosen_episodes(data: Rollouts):
    chosen = FrameSet(data, (1, 3))
    expected = np.concatenate([data[1].frames, data[3].frames])
    assert np.array_equal(chosen.read_all(), expected)


@pytest.mark.parametrize("column", ["frames", "telemetry"])
@pytest.mark.parametrize("count", [1, 2, 16, 100, 257, 10_000])
def test_spread_rows_are_even_over_the_positions(data: Rollouts, frames: FrameSet, column: str, count: int):
    every = np.concatenate([getattr(episode, column) for episode in data])
    places = np.linspace(0, 256, min(count, 257)).round().astype(int)
    assert np.array_equal(frames.read_spread(count, column), every[places])


def test_spread_telemetry_is_that_of_the_spread_frames(data: Rollouts):
    chosen = FrameSet(data, (0, 2))
    telemetry = {
        name: row for episode in data for name, row in zip(_names(episode.frames), episode.telemetry, strict=True)
    }
    rows = [telemetry[name] for name in _names(chosen.read_spread(90))]
    assert np.array_equal(chosen.read_spread(90, "telemetry"), np.stack(rows))


def test_blocks_never_cross_an_episode_or_the_files_multiples_of_64(frames: FrameSet):
    assert frames.block_lengths.tolist() == [64, 37, 4, 64, 7, 57, 24]


# order


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("shuffle_frames", [1, 30, 60])
@pytest.mark.parametrize("batch_size", [20, 64, 257, 300])
def test_an_epoch_holds_every_frame_once(frames: FrameSet, streamed: bool, shuffle_frames: int, batch_size: int):
    batches = _batches(frames, streamed, shuffle_frames=shuffle_frames, batch_size=batch_size)
    assert batches.is_resident != streamed
    assert sorted(_names(_epoch(batches))) == sorted(_names(frames.read_all()))


@pytest.mark.parametrize("shuffle_frames", [1, 30, 60])
@pytest.mark.parametrize("batch_size", [7, 100])
def test_order_is_the_same_resident_and_streamed(frames: FrameSet, shuffle_frames: int, batch_size: int):
    resident, streamed = (
        _batches(frames, where, shuffle_frames=shuffle_frames, batch_size=batch_size) for where in (False, True)
    )
    steps = 2 * resident.steps_per_epoch + 3
    assert _same(_take(resident, steps), _take(streamed, steps))


def test_order_is_the_same_every_time(frames: FrameSet):
    assert torch.equal(_epoch(_batches(frames)), _epoch(_batches(frames)))


@pytest.mark.parametrize("changed", [{"seed": 1}, {"shuffle_frames": 60}])
def test_order_depends_on_seed_and_buffer(frames: FrameSet, changed: dict[str, Any]):
    assert not torch.equal(_epoch(_batches(frames)), _epoch(_batches(frames, **changed)))


def test_order_depends_on_the_epoch(frames: FrameSet):
    assert not torch.equal(_epoch(_batches(frames)), _epoch(_batches(frames), epoch=1))


@pytest.mark.parametrize("batch_size", [1, 33, 257])
def test_order_does_not_depend_on_the_batch_size(frames: FrameSet, batch_size: int):
    assert torch.equal(_epoch(_batches(frames)), _epoch(_batches(frames, batch_size=batch_size)))


def test_order_of_a_large_buffer_mixes_all_episodes(data: Rollouts, frames: FrameSet):
    names = {name: i for i, episode in enumerate(data) for name in _names(episode.frames)}
    first = _take(_batches(frames, shuffle_frames=10_000, batch_size=64), 1)[0]
    assert {names[name] for name in _names(first)} >= {0, 2, 3}


@pytest.mark.parametrize("shuffle_frames", [1, 30, 100])
def test_windows_are_no_larger_than_the_buffer_and_a_block(frames: FrameSet, shuffle_frames: int):
    lengths = [len(window.order) for window in frames.windows(0, 0, shuffle_frames)]
    assert sum(lengths) == 257
    assert max(lengths) < shuffle_frames + BLOCK_FRAMES


def test_window_hands_out_its_positions_in_its_order(frames: FrameSet):
    every = frames.read_all()
    for window in frames.windows(0, 0, 30):
        assert np.array_equal(frames.read_window(window), every[window.positions[window.order]])


# steps


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("start", [1, 5, 12, 13, 14, 20, 26])
def test_starting_at_any_step_gives_the_batches_of_running_on(frames: FrameSet, streamed: bool, start: int):
    batches = _batches(frames, streamed)
    assert _same(_take(batches, 4, start), _take(batches, start + 4)[start:])


def test_last_batch_of_an_epoch_is_smaller(frames: FrameSet):
    assert [len(batch) for batch in _take(_batches(frames), 14)] == [20] * 12 + [17] + [20]


@pytest.mark.parametrize(("batch_size", "steps"), [(1, 257), (20, 13), (257, 1), (300, 1)])
def test_steps_per_epoch_count_the_partial_batch(frames: FrameSet, batch_size: int, steps: int):
    assert _batches(frames, batch_size=batch_size).steps_per_epoch == steps


@pytest.mark.parametrize("step", [0, 1, 12, 13, 14, 26, 30])
def test_frames_at_counts_what_the_batches_held(frames: FrameSet, step: int):
    batches = _batches(frames)
    assert batches.frames_at(step) == sum(map(len, _take(batches, step)))


def test_steps_before_the_start_are_not_read(frames: FrameSet, monkeypatch: pytest.MonkeyPatch):
    batches, read = _batches(frames, streamed=True, shuffle_frames=1), []
    monkeypatch.setattr(
        frames, "read_window", lambda window: read.append(window) or FrameSet.read_window(frames, window)
    )
    _take(batches, 1, start_step=12)
    assert len(read) == 1


# memory


def test_frames_that_fit_are_resident_and_others_are_not(frames: FrameSet):
    settings = {"batch_size": 20, "seed": 0, "shuffle_frames": 1}
    assert Batches(frames, memory_bytes=frames.num_bytes, **settings).is_resident
    assert not Batches(frames, memory_bytes=frames.num_bytes - 1, **settings).is_resident


def test_too_little_memory_for_two_buffers_is_refused_by_its_flag(frames: FrameSet):
    with pytest.raises(ValueError, match=r"memory_gb 0\.001 holds neither .* raise --memory_gb or lower --shuffle_fra"):
        Batches(frames, 20, 0, 16_384, 1_000_000)


def test_streaming_holds_at_most_two_windows(frames: FrameSet, monkeypatch: pytest.MonkeyPatch):
    batches, read = _batches(frames, streamed=True, batch_size=1), []
    monkeypatch.setattr(
        frames, "read_window", lambda window: read.append(window) or FrameSet.read_window(frames, window)
    )
    _take(batches, 1)
    assert len(read) <= 2


# device and noise


def test_auto_takes_the_cpu_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert torch_device("auto") == CPU


@pytest.mark.parametrize(("name", "found"), [("auto", "cuda"), ("cuda", "cuda"), ("cpu", "cpu")])
def test_device_is_the_one_asked_for_where_there_is_a_gpu(name: Any, found: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert torch_device(name).type == found


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device is cuda, and torch finds no GPU; give cpu or auto"):
        torch_device("cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("free", [PLENTY, 0])
def test_gpu_gets_the_batches_that_the_cpu_gets(frames: FrameSet, free: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, PLENTY))
    on_gpu = [batch.cpu() for batch in itertools.islice(_batches(frames)(torch.device("cuda")), 15)]
    assert _same(on_gpu, _take(_batches(frames), 15))


def test_frames_too_many_for_the_gpu_stay_on_the_host(frames: FrameSet, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 0))
    assert Resident(frames, torch.device("cuda"))._frames.device == CPU


def test_noise_of_a_step_is_the_same_every_time():
    assert torch.equal(noise(0, 5, 50, 32), noise(0, 5, 50, 32))


@pytest.mark.parametrize("other", [(1, 5), (0, 6), (5, 0)])
def test_noise_depends_on_seed_and_step(other: tuple[int, int]):
    assert not torch.equal(noise(0, 5, 50, 32), noise(*other, 50, 32))


def test_noise_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    noise(0, 0, 10, 4)
    assert torch.equal(before, torch.get_rng_state())


def test_noise_is_standard_normal():
    values = noise(3, 1, 2000, 32)
    assert float(values.mean()) == pytest.approx(0, abs=0.02)
    assert float(values.std()) == pytest.approx(1, abs=0.02)
