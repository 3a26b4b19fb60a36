"""Frames drawn by weight: the shares of an epoch, and an order that depends on nothing but the seed and the epoch."""

import collections
import hashlib
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from world_models.data.batches import Batch, Batches
from world_models.data.frames import BLOCK_FRAMES, FrameSet
from world_models.data.rollouts import FRAME_BYTES, Rollouts
from world_models.data.several import open_rollouts
from world_models.data.weighted import WeightedFrameSet, shares

CPU = torch.device("cpu")
FEW, MANY = 105, 152  # frames of the two sets

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def data(make_rollouts: Callable[..., Path]) -> Rollouts:
    return open_rollouts([make_rollouts([100, 3], name="few"), make_rollouts([70], [80], name="many", seed=100)])


def _frames(data: Rollouts, weights: Sequence[float]) -> WeightedFrameSet:
    return WeightedFrameSet(data, range(len(data)), [*map(float, weights)])


def _batches(frames: FrameSet, streamed: bool = False, **settings: Any) -> Batches:
    settings = {"batch_size": 20, "seed": 0, "shuffle_frames": 30} | settings
    need = 2 * (settings["shuffle_frames"] + BLOCK_FRAMES) * FRAME_BYTES
    return Batches(frames, memory_bytes=need if streamed else 1 << 40, **settings)


def _take(batches: Batches, count: int, start_step: int = 0) -> list[Tensor]:
    return [batch.frames.clone() for batch in itertools.islice(batches(CPU, start_step), count)]


def _names(frames: Tensor | np.ndarray) -> list[str]:
    return [hashlib.sha256(np.asarray(frame).tobytes()).hexdigest() for frame in frames]


def _epochs(batches: Batches, count: int) -> list[collections.Counter[str]]:
    """How often each frame is in each of the first epochs."""
    steps = batches.steps_per_epoch
    return [collections.Counter(_names(torch.cat(_take(batches, steps, steps * epoch)))) for epoch in range(count)]


def _of(data: Rollouts, number: int) -> set[str]:
    each = data.sets[number]
    return set(_names(FrameSet(each, range(len(each))).read_all()))


# shares


@pytest.mark.parametrize(
    ("total", "weights", "expected"),
    [(100, [1.0, 3.0], [25, 75]), (10, [1.0, 3.0], [3, 7]), (10, [1.0] * 3, [4, 3, 3]), (7, [0.5, 0.5], [4, 3])],
)
def test_shares_are_whole_and_proportional(total: int, weights: list[float], expected: list[int]):
    assert shares(total, weights) == expected


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("weights", [(1, 3), (9, 1), (1, 1), (0.02, 1)])
def test_each_epoch_draws_the_share_of_each_set(data: Rollouts, weights: tuple[float, float], streamed: bool):
    frames, few = _frames(data, weights), _of(data, 0)
    assert len(frames) == FEW + MANY
    wanted = (FEW + MANY) * weights[0] / sum(weights)
    for seen in _epochs(_batches(frames, streamed), 3):
        assert sum(count for name, count in seen.items() if name in few) == frames.num_drawn[0]
        assert abs(frames.num_drawn[0] - wanted) < 1
        assert sum(seen.values()) == FEW + MANY


@pytest.mark.parametrize("weights", [(1, 3), (9, 1), (1, 1)])
def test_frames_of_a_set_are_drawn_equally_often_up_to_one(data: Rollouts, weights: tuple[float, float]):
    epochs = _epochs(_batches(_frames(data, weights)), 5)
    for number in (0, 1):
        names = _of(data, number)
        for until in range(1, 6):
            total = sum(epochs[:until], collections.Counter[str]())
            counts = [total[name] for name in names]
            assert max(counts) - min(counts) <= 1


def test_passes_go_on_where_the_epoch_before_stopped(data: Rollouts):
    """Of 152 frames an epoch takes 64, so the first two epochs share none."""
    frames = _frames(data, (3, 1))
    first, second = (set(epoch) & _of(data, 1) for epoch in _epochs(_batches(frames), 2))
    assert len(first) == len(second) == frames.num_drawn[1] == 64
    assert not first & second


def test_the_order_of_a_pass_is_its_own(data: Rollouts):
    frames = _frames(data, (FEW, MANY))  # an epoch is a pass
    first, second = (frames.drawn(0, epoch).blocks.tolist() for epoch in (0, 1))
    assert sorted(first) == sorted(second) and first != second
    assert frames.drawn(1, 0).blocks.tolist() != first


def test_a_weight_that_leaves_a_set_no_frame_is_refused_by_name(data: Rollouts):
    with pytest.raises(ValueError, match=r"gives .*few 1 of 100001, which is none of the 257 frames of an epoch"):
        _frames(data, (1, 100_000))


# order


@pytest.mark.parametrize("weights", [(1, 3), (9, 1)])
@pytest.mark.parametrize("shuffle_frames", [1, 30, 500])
def test_order_is_the_same_resident_and_streamed(data: Rollouts, weights: tuple[float, float], shuffle_frames: int):
    frames = _frames(data, weights)
    resident, streamed = (_batches(frames, where, shuffle_frames=shuffle_frames) for where in (False, True))
    steps = 2 * resident.steps_per_epoch + 3
    pairs = zip(_take(resident, steps), _take(streamed, steps), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("start", [1, 13, 20])
def test_batches_go_on_from_any_step(data: Rollouts, start: int, streamed: bool):
    batches = _batches(_frames(data, (1, 3)), streamed)
    whole = _take(batches, start + 5)
    assert all(torch.equal(*pair) for pair in zip(whole[start:], _take(batches, 5, start), strict=True))


def _whole(parts: Sequence[Batch]) -> Tensor:
    whole = torch.empty(parts[0].size, 64, 64, 3, dtype=torch.uint8)
    for part in parts:
        whole[part.rows] = part.frames
    return whole


@pytest.mark.parametrize("streamed", [False, True])
def test_several_processes_hold_the_batch_of_one(data: Rollouts, streamed: bool):
    frames = _frames(data, (9, 1))
    alone = _take(_batches(frames, streamed), 20)
    parts = [itertools.islice(_batches(frames, streamed, rank=rank, world=3)(CPU), 20) for rank in range(3)]
    for expected, found in zip(alone, zip(*parts, strict=True), strict=True):
        assert torch.equal(_whole(found), expected)


def test_without_weights_an_epoch_has_each_frame_of_all_sets_once(data: Rollouts):
    (seen,) = _epochs(_batches(FrameSet(data, range(len(data)))), 1)
    assert seen == dict.fromkeys(_of(data, 0) | _of(data, 1), 1)
