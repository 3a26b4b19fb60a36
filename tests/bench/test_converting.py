"""Imports and exports are measured on the same frames as their baselines."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from world_models.bench import command, converting
from world_models.data.rollouts import Rollouts


def test_imports_and_exports_handle_as_many_frames_as_their_baselines(
    make_rollouts: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(converting, "NUM_FRAMES", 8)
    monkeypatch.setattr(converting, "NUM_EPISODES", 2)
    data = Rollouts(make_rollouts([6, 3], [4]))
    images, video, exports = converting.comparisons(data, tmp_path)
    assert [list(works)[:2] for works in (images, video, exports)] == [
        ["cv2_images", "images"],
        ["cv2_video", "video"],
        ["savez_compressed", "npz"],
    ]
    assert [work() for works in (images, video) for work in works.values()] == [8] * 4
    assert {work() for work in exports.values()} == {11}
    imported = Rollouts(tmp_path / "images_rollouts_0")
    assert imported.lengths.tolist() == [4, 4]
    np.testing.assert_allclose(imported[0].frames[0], data[0].frames[0], atol=60)  # enlarged, then reduced


def test_converting_is_measured_by_default():
    assert "convert" in command.BenchConfig().stages
