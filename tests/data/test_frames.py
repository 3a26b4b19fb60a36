"""Frames by position: their values, their split, and the order of an epoch."""

import hashlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from world_models.data.frames import BLOCK_FRAMES, FrameSet, ImageSet
from world_models.data.rollouts import FRAME_SHAPE, Rollouts
from world_models.data.shards.reader import Shard
from world_models.data.split import split_episodes
from world_models.runtime.distributed import torch_device
from world_models.vae.noise import binarised, noise

CPU = torch.device("cpu")
LENGTHS = ([100, 3], [70, 80])  # steps; 257 frames in 7 blocks


@pytest.fixture
def data(make_rollouts: Callable[..., Path]) -> Rollouts:
    return Rollouts(make_rollouts(*LENGTHS))


@pytest.fixture
def frames(data: Rollouts) -> FrameSet:
    return FrameSet(data, range(4))


def _names(frames: Tensor | np.ndarray) -> list[str]:
    return [hashlib.sha256(np.asarray(frame).tobytes()).hexdigest() for frame in frames]


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


def test_frame_set_has_the_right_size(frames: FrameSet):
    assert frames.num_bytes == 257 * 64 * 64 * 3 == frames.read_all().nbytes


def test_all_frames_are_the_episodes_in_order(data: Rollouts, frames: FrameSet):
    assert np.array_equal(frames.read_all(), np.concatenate([episode.frames for episode in data]))


def test_frame_set_holds_only_the_chosen_episodes(data: Rollouts):
    chosen = FrameSet(data, (1, 3))
    expected = np.concatenate([data[1].frames, data[3].frames])
    assert np.array_equal(chosen.read_all(), expected)


@pytest.mark.parametrize("column", ["frames", "telemetry"])
@pytest.mark.parametrize("count", [1, 2, 16, 100, 257, 10_000])
def test_spread_rows_are_evenly_spaced_over_the_positions(data: Rollouts, frames: FrameSet, column: str, count: int):
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


def _into(frames: FrameSet, blocks: list[int], places: np.ndarray) -> np.ndarray:
    rows = np.zeros((int(places.max()) + 1, *FRAME_SHAPE), np.uint8)
    frames.read_into(rows, np.array(blocks, np.int64), places)
    return rows


@pytest.mark.parametrize("blocks", [[0], [6, 2], [3, 0, 5, 1], list(range(7))])
def test_blocks_are_read_into_the_given_places(frames: FrameSet, blocks: list[int]):
    expected = np.concatenate([frames.read_block(block) for block in blocks])
    places = np.random.default_rng(0).permutation(len(expected))
    assert np.array_equal(_into(frames, blocks, places)[places], expected)


def test_reading_blocks_does_not_change_other_places(frames: FrameSet):
    rows = _into(frames, [2], np.array([9, 3, 5, 7]))
    assert not rows[[0, 1, 2, 4, 6, 8]].any()


def test_reading_no_blocks_changes_nothing(frames: FrameSet):
    rows = np.zeros((3, *FRAME_SHAPE), np.uint8)
    frames.read_into(rows, np.empty(0, np.int64), np.empty(0, np.int64))
    assert not rows.any()


def test_a_block_that_cannot_be_read_is_an_error(frames: FrameSet, monkeypatch: pytest.MonkeyPatch):
    def broken(self: Shard, column: str, start: int, stop: int) -> Iterator[Any]:
        raise OSError(f"{self.path}: no disk")

    monkeypatch.setattr(Shard, "pieces", broken)
    with pytest.raises(OSError, match="no disk"):
        frames.read_all()


# the order of an epoch


@pytest.mark.parametrize("shuffle_frames", [1, 30, 100])
def test_windows_are_no_larger_than_the_buffer_and_a_block(frames: FrameSet, shuffle_frames: int):
    lengths = [len(window.order) for window in frames.windows(0, 0, shuffle_frames)]
    assert sum(lengths) == 257
    assert max(lengths) < shuffle_frames + BLOCK_FRAMES


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("shuffle_frames", [1, 30, 100, 1000])
def test_windows_of_an_epoch_hold_every_position_once(frames: FrameSet, epoch: int, shuffle_frames: int):
    windows = list(frames.windows(0, epoch, shuffle_frames))
    given = np.concatenate([window.positions[window.order] for window in windows])
    assert np.array_equal(np.sort(given), np.arange(257))


@pytest.mark.parametrize("shuffle_frames", [1, 30, 1000])
def test_only_the_last_window_ends_the_epoch(frames: FrameSet, shuffle_frames: int):
    ends = [window.ends_epoch for window in frames.windows(0, 0, shuffle_frames)]
    assert ends == [False] * (len(ends) - 1) + [True]


def test_positions_of_a_window_are_those_of_its_blocks(frames: FrameSet):
    every = frames.read_all()
    for window in frames.windows(0, 0, 100):
        expected = np.concatenate([frames.read_block(int(block)) for block in window.blocks])
        assert np.array_equal(every[window.positions], expected)


def test_windows_shuffle_their_frames(frames: FrameSet):
    (window,) = frames.windows(0, 0, 1000)
    assert not np.array_equal(window.order, np.sort(window.order))


# device and noise


def test_auto_chooses_the_cpu_if_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert torch_device("auto") == CPU


@pytest.mark.parametrize(("name", "found"), [("auto", "cuda"), ("cuda", "cuda"), ("cpu", "cpu")])
def test_the_requested_device_is_used_if_there_is_a_gpu(name: Any, found: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert torch_device(name).type == found


def test_a_gpu_is_refused_if_there_is_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device is cuda, and torch finds no GPU; give cpu or auto"):
        torch_device("cuda")


def test_noise_of_a_step_is_the_same_every_time():
    assert torch.equal(noise(0, 5, 50, 32), noise(0, 5, 50, 32))


@pytest.mark.parametrize("other", [(1, 5), (0, 6), (5, 0)])
def test_noise_depends_on_seed_and_step(other: tuple[int, int]):
    assert not torch.equal(noise(0, 5, 50, 32), noise(*other, 50, 32))


def test_noise_does_not_change_the_global_generator():
    before = torch.get_rng_state()
    noise(0, 0, 10, 4)
    assert torch.equal(before, torch.get_rng_state())


def test_noise_is_standard_normal():
    values = noise(3, 1, 2000, 32)
    assert float(values.mean()) == pytest.approx(0, abs=0.02)
    assert float(values.std()) == pytest.approx(1, abs=0.02)


# images in memory


@pytest.fixture
def digits() -> ImageSet:
    rng = np.random.default_rng(0)
    return ImageSet(rng.integers(0, 256, (150, 28, 28, 1), np.uint8), rng.integers(0, 10, 150))


def test_image_set_is_cut_into_blocks(digits: ImageSet):
    assert digits.block_lengths.tolist() == [64, 64, 22] and len(digits) == 150
    assert digits.num_bytes == 150 * 28 * 28


def test_images_are_read_by_position(digits: ImageSet):
    frames = digits.read_all()
    for position in (0, 63, 64, 149):
        block, row = divmod(position, 64)
        assert np.array_equal(digits.read_block(block)[row], frames[position])
    assert np.array_equal(digits.read_spread(150), frames)


def test_evenly_spread_frames_are_those_at_the_spread_positions(digits: ImageSet):
    assert np.array_equal(digits.spread_positions(7), np.linspace(0, 149, 7).round().astype(int))
    assert np.array_equal(digits.read_spread(7), digits.read_all()[digits.spread_positions(7)])


def test_images_are_read_into_the_given_places(digits: ImageSet):
    frames = np.zeros((86, 28, 28, 1), np.uint8)
    digits.read_into(frames, np.array([2, 0]), np.arange(86)[::-1])
    assert np.array_equal(frames[::-1], np.concatenate([digits.read_block(2), digits.read_block(0)]))


# black and white


def test_binarised_pixels_are_black_or_white():
    frames = torch.randint(0, 256, (8, 28, 28, 1), dtype=torch.uint8)
    assert set(binarised(frames, 0, 0).unique().tolist()) == {0, 255}


@pytest.mark.parametrize("grey", [0, 1, 100, 254, 255])
def test_a_pixel_is_white_with_the_probability_of_its_grey_value(grey: int):
    frames = torch.full((100, 28, 28, 1), grey, dtype=torch.uint8)
    share = (binarised(frames, 0, 0) == 255).double().mean().item()
    assert abs(share - grey / 255) < 4 * math.sqrt(grey / 255 * (1 - grey / 255) / frames.numel()) + 1e-9


def test_binarised_pixels_differ_between_steps_and_repeat_for_the_same_step():
    frames = torch.full((4, 28, 28, 1), 128, dtype=torch.uint8)
    assert torch.equal(binarised(frames, 0, 1), binarised(frames, 0, 1))
    assert not torch.equal(binarised(frames, 0, 1), binarised(frames, 0, 2))
    assert not torch.equal(binarised(frames, 0, 1), binarised(frames, 1, 1))


def test_a_part_of_a_batch_is_binarised_as_in_the_whole_batch():
    frames, rows = torch.randint(0, 256, (6, 28, 28, 1), dtype=torch.uint8), torch.tensor([1, 4, 5])
    assert torch.equal(binarised(frames[rows], 3, 7, rows, 6), binarised(frames, 3, 7)[rows])
