"""What a node of a cluster does with a shard. `tests/promises/test_ray.py` has the cluster itself."""

import dataclasses
import tempfile
from pathlib import Path

import pytest

from world_models.collect import recording, remote
from world_models.collect.command import prepare
from world_models.collect.config import CollectConfig
from world_models.data.rollouts import Rollouts
from world_models.runtime.errors import Stopped

FLAGS = {"num_episodes": 1, "max_steps": 8, "policy": "random"}


@pytest.fixture
def task(tmp_path: Path) -> recording.ShardTask:
    job = prepare(CollectConfig(str(tmp_path / "out"), **FLAGS))
    return job.tasks[0]  # type: ignore[union-attr]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_node_sends_the_shard_that_one_process_would_write(task: recording.ShardTask, temporary: Path):
    seen: list[int] = []
    recorded, sent = remote.record_and_send(dataclasses.replace(task, renderer="auto"), seen.append)
    task.path.parent.mkdir()
    recording.record_shard(task, seen.append)
    (temporary / "sent.h5").write_bytes(sent.data)
    assert Rollouts(temporary / "sent.h5", verify=True).digest() == Rollouts(task.path).digest()
    assert (recorded.steps, seen) == (8, [8, 8])


def test_a_node_keeps_no_file(task: recording.ShardTask, temporary: Path):
    remote.record_and_send(task, lambda steps: None)
    assert list(temporary.iterdir()) == [] and not task.path.parent.exists()


def test_a_node_that_cannot_make_the_policy_stops_and_keeps_no_file(task: recording.ShardTask, temporary: Path):
    with pytest.raises(Stopped, match=r"node .*: policy 'no\.such:policy' cannot be imported"):
        remote.record_and_send(dataclasses.replace(task, policies=("no.such:policy",)), lambda steps: None)
    assert list(temporary.iterdir()) == []
