"""What a node of a cluster does with a shard. `tests/promises/test_ray.py` has the cluster itself."""

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from world_models import encode
from world_models.data.latents import Latents
from world_models.encode import remote
from world_models.encode.command import EncodeConfig, prepare
from world_models.runs import layout
from world_models.runtime import files, ray_cluster
from world_models.runtime.errors import Stopped


class Here(ray_cluster.Shared[Any]):
    """A shared value that is in this process."""

    def get(self) -> Any:
        return self.reference

    def __hash__(self) -> int:
        return id(self)


def test_a_node_without_the_gpu_that_was_promised_stops(
    make_rollouts: Callable[..., Path], run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    task = task_of(make_rollouts([9, 5], [6]), run_dir, tmp_path / "latents")
    task = dataclasses.replace(task, config=dataclasses.replace(task.config, device="cuda"))
    with pytest.raises(Stopped, match=r"node .*: device is cuda, and torch finds no GPU"):
        remote.encode_and_send(task, lambda rows: None)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def task_of(data: Path, run: Path, out: Path) -> remote.ShardTask:
    config = EncodeConfig(str(data), str(run), str(out), device="cpu")
    paths = (run / layout.DESCRIPTION_FILE, layout.weights_path(run))
    sent = remote.Model({path.name: path.read_bytes() for path in paths}, files.file_sha256(paths[1]))
    source = prepare(config).data.shards[1].path
    return remote.ShardTask(config, Here(sent), source, np.fromfile(source, np.uint8))


def test_a_node_sends_the_latents_that_one_process_would_write(
    make_rollouts: Callable[..., Path], run_dir: Path, tmp_path: Path, temporary: Path
):
    data, out = make_rollouts([9, 5], [6, 300]), tmp_path / "latents"
    seen: list[int] = []
    sent = remote.encode_and_send(task_of(data, run_dir, out), seen.append)
    assert list(temporary.iterdir()) == [] and not out.exists()
    (tmp_path / "sent.h5").write_bytes(sent.data)
    encode.main(f"--data {data} --vae {run_dir} --out {out} --device cpu".split())
    node, one_process = Latents(tmp_path / "sent.h5", verify=True).shards[0], Latents(out).shards[1]
    assert node.digests == one_process.digests
    assert node.attributes["config"] == one_process.attributes["config"]
    assert seen == [256, 308]
