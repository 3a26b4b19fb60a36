"""Batches: their order depends neither on memory, nor on the device, nor on processes; no batch changes later."""

import hashlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor

from world_models.data.batches import Batch, Batches, ResidentLoader, StreamingLoader
from world_models.data.frames import BLOCK_FRAMES, FrameSet, ImageSet, ShuffleWindow
from world_models.data.rollouts import FRAME_BYTES, FRAME_SHAPE, Rollouts

CPU = torch.device("cpu")
PLENTY = 1 << 40
LENGTHS = ([100, 3], [70, 80])  # steps; 257 frames in 7 blocks


pytestmark = pytest.mark.usefixtures("one_thread")


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


# steps


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("start", [1, 5, 12, 13, 14, 20, 26])
def test_starting_at_any_step_gives_the_same_batches_as_continuing(frames: FrameSet, streamed: bool, start: int):
    batches = _batches(frames, streamed)
    assert _same(_take(batches, 4, start), _take(batches, start + 4)[start:])


def test_the_last_batch_of_an_epoch_may_be_smaller(frames: FrameSet):
    assert [len(batch) for batch in _take(_batches(frames), 14)] == [20] * 12 + [17] + [20]


@pytest.mark.parametrize(("batch_size", "steps"), [(1, 257), (20, 13), (257, 1), (300, 1)])
def test_steps_per_epoch_count_the_partial_batch(frames: FrameSet, batch_size: int, steps: int):
    assert _batches(frames, batch_size=batch_size).steps_per_epoch == steps


@pytest.mark.parametrize("step", [0, 1, 12, 13, 14, 26, 30])
def test_frames_at_counts_the_frames_of_all_batches_before_a_step(frames: FrameSet, step: int):
    batches = _batches(frames)
    assert batches.frames_at(step) == sum(map(len, _take(batches, step)))


# memory


def test_frames_that_fit_are_resident_and_others_are_not(frames: FrameSet):
    settings = {"batch_size": 20, "seed": 0, "shuffle_frames": 1}
    assert Batches(frames, memory_bytes=frames.num_bytes, **settings).is_resident
    assert not Batches(frames, memory_bytes=frames.num_bytes - 1, **settings).is_resident


def test_too_little_memory_for_two_buffers_is_refused_by_its_flag(frames: FrameSet):
    with pytest.raises(ValueError, match=r"memory_gb 0\.001 holds neither .* raise --memory_gb or lower --shuffle_fra"):
        Batches(frames, 20, 0, 16_384, 1_000_000)


def _reads(frames: FrameSet, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Fills with the blocks of each read."""
    reads: list[list[int]] = []

    def spy(rows: np.ndarray, blocks: np.ndarray, places: np.ndarray) -> None:
        reads.append(blocks.tolist())
        FrameSet.read_into(frames, rows, blocks, places)

    monkeypatch.setattr(frames, "read_into", spy)
    return reads


def test_batches_before_the_start_are_not_read(frames: FrameSet, monkeypatch: pytest.MonkeyPatch):
    batches, reads = _batches(frames, streamed=True, shuffle_frames=1), _reads(frames, monkeypatch)
    _take(batches, 1, start_step=12)
    windows = [*frames.windows(0, 0, 1), *frames.windows(0, 1, 1)]
    first = int(np.searchsorted(np.cumsum([len(window.order) for window in windows]), 12 * 20, side="right"))
    assert reads == [window.blocks.tolist() for window in windows[first : first + len(reads)]]


def test_streaming_reads_at_most_one_window_ahead(frames: FrameSet, monkeypatch: pytest.MonkeyPatch):
    batches, reads = _batches(frames, streamed=True, batch_size=1), _reads(frames, monkeypatch)
    _take(batches, 1)
    assert len(reads) <= 2


def test_resident_frames_are_read_once(frames: FrameSet, monkeypatch: pytest.MonkeyPatch):
    batches, reads = _batches(frames), _reads(frames, monkeypatch)
    _take(batches, 40)
    assert reads == [list(range(7))]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("batch_size", [7, 64])
def test_a_batch_that_is_kept_never_changes(frames: FrameSet, streamed: bool, batch_size: int):
    kept = list(itertools.islice(_batches(frames, streamed, batch_size=batch_size)(CPU), 30))
    again = itertools.islice(_batches(frames, streamed, batch_size=batch_size)(CPU), 30)
    assert all(torch.equal(batch.frames, fresh.frames.clone()) for batch, fresh in zip(kept, again, strict=True))


@pytest.mark.parametrize("streamed", [False, True])
def test_writing_into_a_batch_changes_no_other_batch(frames: FrameSet, streamed: bool):
    spoilt = []
    for batch in itertools.islice(_batches(frames, streamed)(CPU), 30):
        spoilt.append(batch.frames.clone())
        batch.frames.zero_()
    assert _same(spoilt, _take(_batches(frames, streamed), 30))


@pytest.mark.parametrize("streamed", [False, True])
def test_a_failed_read_is_raised_in_the_training_loop(
    frames: FrameSet, streamed: bool, monkeypatch: pytest.MonkeyPatch
):
    def broken(*_args: Any) -> None:
        raise OSError("no disk")

    monkeypatch.setattr(frames, "read_into", broken)
    with pytest.raises(OSError, match="no disk"):
        _take(_batches(frames, streamed), 1)


class Marked(ImageSet):
    """Frames of more than two gigabytes. Only the marked ones are written: the k-th mark is filled with k + 1."""

    size = 2813 * BLOCK_FRAMES
    marks = (size - 1, 0, 174_763, 89_999)

    def read_into(self, frames: np.ndarray, blocks: np.ndarray, places: np.ndarray) -> None:
        for value, row in enumerate(self.marks):
            frames[row] = value + 1


def test_frames_beyond_two_gigabytes_are_found():
    if psutil.virtual_memory().available < 4e9:
        pytest.skip("needs 4 GB of free memory")
    frames = Marked(
        np.broadcast_to(np.zeros((), np.uint8), (Marked.size, *FRAME_SHAPE)), np.zeros(Marked.size, np.int64)
    )
    blocks = np.array(Marked.marks) // BLOCK_FRAMES
    positions = np.concatenate([np.arange(block * BLOCK_FRAMES, (block + 1) * BLOCK_FRAMES) for block in blocks])
    marked = np.array([int(np.flatnonzero(positions == row)[0]) for row in Marked.marks])
    order = np.concatenate([marked, np.setdiff1d(np.arange(len(positions)), marked)])
    (window,) = ResidentLoader(frames, CPU).load(iter([ShuffleWindow(blocks, positions, order, True)]))
    taken = window.batch(3, torch.arange(3), *window.take(1, 4)).frames
    assert [frame.unique().tolist() for frame in taken] == [[2], [3], [4]]


# several processes


def _parts(frames: FrameSet, world: int, steps: int, start: int = 0, **settings: Any) -> list[tuple[Batch, ...]]:
    """The batches of all processes, step by step."""
    streams = [_batches(frames, rank=rank, world=world, **settings)(CPU, start) for rank in range(world)]
    return list(itertools.islice(zip(*streams, strict=True), steps))


def _together(parts: tuple[Batch, ...]) -> Tensor:
    whole = torch.zeros(parts[0].size, *FRAME_SHAPE, dtype=torch.uint8)
    for part in parts:
        whole[part.rows] = part.frames
    return whole


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("world", [2, 3, 8])
@pytest.mark.parametrize(("batch_size", "shuffle_frames"), [(3, 1), (20, 30), (64, 60), (300, 60)])
def test_the_parts_of_all_processes_make_the_batches_of_one_process(
    frames: FrameSet, streamed: bool, world: int, batch_size: int, shuffle_frames: int
):
    settings = {"streamed": streamed, "batch_size": batch_size, "shuffle_frames": shuffle_frames}
    alone = _batches(frames, **settings)
    steps = alone.steps_per_epoch + 2
    parts = _parts(frames, world, steps, **settings)
    assert _same([_together(part) for part in parts], _take(alone, steps))


@pytest.mark.parametrize("streamed", [False, True])
def test_each_row_of_a_batch_belongs_to_exactly_one_process(frames: FrameSet, streamed: bool):
    for parts in _parts(frames, 3, 14, streamed=streamed):
        assert torch.cat([part.rows for part in parts]).sort().values.tolist() == list(range(parts[0].size))


@pytest.mark.parametrize("streamed", [False, True])
def test_a_process_has_ascending_rows_and_one_row_per_frame(frames: FrameSet, streamed: bool):
    for part in itertools.chain(*_parts(frames, 2, 14, streamed=streamed)):
        assert len(part.rows) == len(part.frames)
        assert part.rows.tolist() == sorted(set(part.rows.tolist()))


def test_all_processes_know_the_size_of_the_whole_batch(frames: FrameSet):
    sizes = [{part.size for part in parts} for parts in _parts(frames, 3, 14)]
    assert sizes == [{20}] * 12 + [{17}, {20}]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("start", [1, 12, 20])
def test_processes_may_start_at_any_step(frames: FrameSet, streamed: bool, start: int):
    parts = _parts(frames, 2, 4, start, streamed=streamed)
    assert _same([_together(part) for part in parts], _take(_batches(frames), 4, start))


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_process_reads_its_own_blocks_and_no_others(
    frames: FrameSet, streamed: bool, rank: int, monkeypatch: pytest.MonkeyPatch
):
    batches, reads = _batches(frames, streamed, rank=rank, world=3), _reads(frames, monkeypatch)
    _take(batches, batches.steps_per_epoch)
    assert set(itertools.chain(*reads)) == set(range(rank, 7, 3))


@pytest.mark.parametrize("streamed", [False, True])
def test_a_process_without_a_block_has_empty_parts(frames: FrameSet, streamed: bool):
    parts = _take(_batches(frames, streamed, rank=7, world=8), 14)
    assert [tuple(part.shape) for part in parts] == [(0, 64, 64, 3)] * 14


# a batch


def test_a_single_process_has_every_row(frames: FrameSet):
    for batch in itertools.islice(_batches(frames)(CPU), 14):
        assert batch.rows.tolist() == list(range(batch.size)) and batch.size == len(batch.frames)


@pytest.mark.parametrize(("size", "rows"), [(1, []), (2, [1]), (4, [1]), (5, [1, 4]), (8, [1, 4, 7])])
def test_a_cut_batch_holds_the_rows_before_the_cut(size: int, rows: list[int]):
    frames = torch.arange(3, dtype=torch.uint8)[:, None, None, None].expand(3, *FRAME_SHAPE)
    cut = Batch(frames, torch.tensor([1, 4, 7]), 9, torch.zeros(3, dtype=torch.int64)).cut(size)
    assert (cut.rows.tolist(), cut.size) == (rows, size)
    assert torch.equal(cut.frames, frames[: len(rows)])


@pytest.mark.parametrize("size", [9, 10, 1000])
def test_a_batch_is_not_cut_to_a_size_that_it_does_not_exceed(size: int):
    batch = Batch(
        torch.zeros(3, *FRAME_SHAPE, dtype=torch.uint8), torch.tensor([1, 4, 7]), 9, torch.zeros(3, dtype=torch.int64)
    )
    assert batch.cut(size) is batch


@pytest.mark.parametrize("size", [1, 7, 20])
def test_the_cut_parts_of_all_processes_make_the_cut_batch(frames: FrameSet, size: int):
    (parts,) = _parts(frames, 2, 1)
    assert torch.equal(_together(tuple(part.cut(size) for part in parts)), _take(_batches(frames), 1)[0][:size])


# the device


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("free", [PLENTY, 0])
def test_a_gpu_gets_the_same_batches_as_the_cpu(
    frames: FrameSet, streamed: bool, free: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, PLENTY))
    kept = list(itertools.islice(_batches(frames, streamed)(torch.device("cuda")), 30))
    assert {batch.frames.device.type for batch in kept} == {"cuda"}
    assert _same([batch.frames.cpu() for batch in kept], _take(_batches(frames), 30))


def test_frames_that_do_not_fit_on_the_gpu_stay_on_the_host(frames: FrameSet, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 0))
    loaded = ResidentLoader(frames, torch.device("cuda")).load(frames.windows(0, 0, 30))
    assert next(loaded).frames.device == CPU


@pytest.mark.parametrize("kind", [ResidentLoader, StreamingLoader])
def test_a_source_gives_its_windows_in_order(frames: FrameSet, kind: Any):
    windows = list(frames.windows(0, 0, 30))
    loaded = kind(frames, CPU).load(iter(windows))
    assert [piece.window for piece in loaded] == windows


# labels


def _labelled(count: int = 150) -> ImageSet:
    """Images whose pixels have the value of their label."""
    labels = np.random.default_rng(0).integers(0, 10, count)
    return ImageSet(np.repeat(labels.astype(np.uint8), 784).reshape(count, 28, 28, 1), labels)


@pytest.mark.parametrize("memory_bytes", [10**9, 2 * (64 + BLOCK_FRAMES) * 784], ids=["resident", "streamed"])
@pytest.mark.parametrize(("batch_size", "start_step"), [(40, 0), (7, 5), (400, 0)])
def test_labels_stay_with_their_frames(memory_bytes: int, batch_size: int, start_step: int):
    batches = Batches(_labelled(400), batch_size, 0, 64, memory_bytes)
    for batch in itertools.islice(batches(torch.device("cpu"), start_step), 15):
        assert torch.equal(batch.frames[:, 0, 0, 0].long(), batch.labels)


def test_labels_stay_with_their_frames_in_several_processes():
    for rank in range(2):
        batches = Batches(_labelled(), 40, 0, 64, 10**9, rank, 2)
        for batch in itertools.islice(batches(torch.device("cpu")), 8):
            assert torch.equal(batch.frames[:, 0, 0, 0].long(), batch.labels)


def test_a_cut_batch_keeps_the_labels_of_its_rows():
    batch = next(Batches(_labelled(), 40, 0, 64, 10**9)(torch.device("cpu"))).cut(9)
    assert torch.equal(batch.frames[:, 0, 0, 0].long(), batch.labels)
    assert len(batch.labels) == 9


def test_frames_of_rollouts_are_all_of_class_0(frames: FrameSet):
    batch = next(_batches(frames)(torch.device("cpu")))
    assert batch.labels.tolist() == [0] * len(batch.frames)
