"""A shard of foreign episodes: what a reader may give, and what is refused."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from world_models.convert import shard_import
from world_models.convert.foreign import ForeignEpisode, Source
from world_models.envs import Preprocess
from world_models.runtime.errors import Stopped


class Given:
    """A reader that gives the episodes of this test."""

    num_actions = 2

    def __init__(self, episode: Callable[[], ForeignEpisode]):
        self.episode = episode

    def only(self, names: Sequence[str]) -> "Given":
        return self

    def count(self, name: str) -> int:
        return 3

    def open_episode(self, name: str) -> ForeignEpisode:
        return self.episode()


def pictures(count: int, height: int = 20) -> Iterator[np.ndarray]:
    yield from np.full((count, height, 20, 3), 9, np.uint8)


def shard_of(
    tmp_path: Path, episode: Callable[[], ForeignEpisode], spec: Preprocess | None = None
) -> shard_import.ImportTask:
    source = Source(tmp_path, ("one",), Given(episode), "given")
    attributes = {"env": "x", "preprocess": "{}", "action_space": "{}", "warmup_steps": 0, "config": ""}
    return shard_import.ImportTask(
        tmp_path / "shard-00000.h5", source, spec or Preprocess(), "given", attributes, False
    )


def zeros(count: int) -> np.ndarray:
    return np.zeros((count, 2), np.float32)


@pytest.mark.parametrize(
    ("episode", "said"),
    [
        (lambda: ForeignEpisode(pictures(1)), "fewer than 2 frames, wanted 2 or more"),
        (lambda: ForeignEpisode(pictures(0)), "fewer than 2 frames, wanted 2 or more"),
        (lambda: ForeignEpisode(pictures(5), zeros(3)), "3 actions do not fit its frames, wanted one fewer"),
        (lambda: ForeignEpisode(pictures(3), zeros(3)), "3 actions do not fit its frames, wanted one fewer"),
        (lambda: ForeignEpisode(iter([np.zeros((20, 20, 2), np.uint8)] * 3)), "holds 2, and 3 (RGB) or 1 (grey)"),
    ],
)
def test_an_episode_that_does_not_fit_is_broken(tmp_path, episode, said):
    with pytest.raises(Stopped) as stopped:
        shard_import.import_shard(shard_of(tmp_path, episode), lambda _: None)
    assert f"{tmp_path}/one: " in str(stopped.value)
    assert said in str(stopped.value)
    assert not list(tmp_path.iterdir())


def test_a_picture_with_fewer_rows_than_the_crop_keeps_is_broken(tmp_path):
    task = shard_of(tmp_path, lambda: ForeignEpisode(pictures(3, height=10)), Preprocess(crop=(0, 15)))
    with pytest.raises(Stopped, match="crop keeps rows to 15, the picture has 10"):
        shard_import.import_shard(task, lambda _: None)


def test_progress_is_the_number_of_frames(tmp_path):
    reported: list[int] = []
    shard_import.import_shard(shard_of(tmp_path, lambda: ForeignEpisode(pictures(40))), reported.append)
    assert reported == [0, 16, 32, 40]
