"""A batch by position is the batch of its frames."""

import pytest
import torch

from world_models.data.batch import Batch, HeldBatch


def _held(index: list[int], rows: list[int], size: int) -> HeldBatch:
    frames = torch.arange(20, dtype=torch.uint8)[:, None, None, None].expand(20, 2, 2, 1)
    return HeldBatch(frames, torch.arange(20) % 10, torch.tensor(index), torch.tensor(rows), size)


def test_frames_and_labels_are_gathered_by_position():
    batch = _held([13, 2, 13], [0, 1, 2], 3)
    assert batch.frames[:, 0, 0, 0].tolist() == [13, 2, 13]
    assert batch.labels.tolist() == [3, 2, 3]


@pytest.mark.parametrize("size", [1, 2, 4, 5, 8, 9, 10])
def test_a_cut_batch_by_position_is_the_cut_batch_of_its_frames(size: int):
    held = _held([5, 17, 3], [1, 4, 7], 9)
    plain = Batch(held.frames, held.rows, held.size, held.labels).cut(size)
    cut = held.cut(size)
    assert (cut.rows.tolist(), cut.size) == (plain.rows.tolist(), plain.size)
    assert torch.equal(cut.frames, plain.frames) and torch.equal(cut.labels, plain.labels)
