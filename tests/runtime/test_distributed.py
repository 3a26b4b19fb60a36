"""Several processes that train one model take the same steps as one process alone."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed

from world_models import train_vae
from world_models.runs import checkpoints, resume
from world_models.runtime import distributed
from world_models.runtime.distributed import World
from world_models.runtime.errors import Stopped
from world_models.train_vae.learner import Learner

CPU = torch.device("cpu")
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


# one process


def test_without_torchrun_there_is_one_process():
    assert distributed.world() == World(rank=0, size=1, local_rank=0)


def test_rank_and_size_come_from_torchruns_variables(monkeypatch: pytest.MonkeyPatch):
    names, values = (*VARIABLES, "MASTER_ADDR", "MASTER_PORT"), ("5", "8", "1", "127.0.0.1", "29500")
    for name, value in zip(names, values, strict=True):
        monkeypatch.setenv(name, value)
    assert distributed.world() == World(rank=5, size=8, local_rank=1)


@pytest.mark.parametrize(("rank", "first"), [(0, True), (1, False), (7, False)])
def test_the_first_process_is_number_0(rank: int, first: bool):
    assert World(rank, 8, 0).is_first is first


def test_each_process_has_the_gpu_of_its_local_rank(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert distributed.own_device(torch.device("cuda")) == torch.device("cuda", 3)


@pytest.mark.parametrize("variables", [{"LOCAL_RANK": "3"}, {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "4"}])
def test_more_processes_than_gpus_are_refused_by_each_of_them(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=r"4 processes share the 2 GPUs of this machine; start 2 at most \(torchrun"):
        distributed.own_device(torch.device("cuda"))


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"WORLD_SIZE": ""}, "WORLD_SIZE is empty, wanted a whole number; start several processes by torchrun"),
        ({"RANK": "first"}, "RANK is first, wanted a whole number"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK is -1, wanted a whole number"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2, and WORLD_SIZE 2"),
        ({"WORLD_SIZE": "0"}, "RANK is 0, and WORLD_SIZE 0"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "WORLD_SIZE is 2, and MASTER_ADDR is not set"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "here"}, "WORLD_SIZE is 2, and MASTER_PORT is not set"),
    ],
)
def test_an_impossible_rank_or_size_is_refused(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], said: str):
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=said):
        distributed.world()


def test_processes_divide_the_cores(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert distributed.own_device(CPU) == CPU


def test_a_single_process_does_not_wait_for_others():
    with distributed.connected(CPU) as here:
        assert here == World(0, 1, 0)
        assert not torch.distributed.is_initialized()


def test_the_sum_over_a_single_process_is_the_tensor_itself():
    tensors = [torch.randn(3, 2), torch.randn(5)]
    before = [tensor.clone() for tensor in tensors]
    distributed.sum_up(tensors)
    assert all(map(torch.equal, tensors, before))


def test_a_single_process_has_the_same_digest_as_itself():
    assert distributed.is_same_everywhere("0f" * 32, CPU)


def test_training_on_different_data_is_refused_before_anything_is_written(
    rollouts_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(distributed, "is_same_everywhere", lambda digest, device: False)
    with pytest.raises(Stopped, match="the processes have different training data; copy the same files"):
        _train(rollouts_dir, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("step", [0, 1, 15, 16, 17])
@pytest.mark.parametrize("asked", [False, True])
def test_a_single_process_answers_at_every_step(step: int, asked: bool):
    assert distributed.is_true_anywhere(asked, step, CPU) is asked


# two processes

TALK = """
import sys
from pathlib import Path
import torch
from world_models.runtime import distributed

with distributed.connected(torch.device("cpu")) as here:
    generator = torch.Generator().manual_seed(here.rank)
    tensors = [torch.randn(shape, generator=generator) for shape in ((3, 5, 2), (), (1000,), (0, 4), (2, 7))]
    mine = [tensor.clone() for tensor in tensors]
    distributed.sum_up(tensors)
    doubles = [torch.tensor([here.rank + 0.5], dtype=torch.float64)]
    distributed.sum_up(tensor for tensor in doubles)
    cpu = torch.device("cpu")
    answers = [distributed.is_true_anywhere(here.rank == 1 and step >= 20, step, cpu) for step in range(40)]
    nobody = [distributed.is_true_anywhere(False, step, cpu) for step in range(20)]
    same = [distributed.is_same_everywhere(digest, cpu) for digest in ("ab" * 32, f"0{here.rank}" * 32)]
    met = torch.distributed.is_initialized()
answer = {"mine": mine, "sums": tensors, "doubles": doubles, "answers": answers, "nobody": nobody, "met": met}
answer["same"] = same
answer["left"] = not torch.distributed.is_initialized()
torch.save(answer, Path(sys.argv[1]) / f"{here.rank}.pt")
"""


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The results of two processes."""
    folder = tmp_path_factory.mktemp("talk")
    (folder / "talk.py").write_text(TALK)
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([sys.executable, folder / "talk.py", folder], env=os.environ | shared | {"RANK": str(rank)})
        for rank in range(2)
    ]
    assert [process.wait(60) for process in processes] == [0, 0]
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_processes_can_join_and_leave_a_group(talk: list[dict[str, Any]]):
    assert all(answer["met"] and answer["left"] for answer in talk)


def test_sums_include_all_processes(talk: list[dict[str, Any]]):
    for total, *addends in zip(talk[0]["sums"], talk[0]["mine"], talk[1]["mine"], strict=True):
        assert torch.equal(total, addends[0] + addends[1])


def test_sums_are_the_same_bits_in_each_process(talk: list[dict[str, Any]]):
    assert all(map(torch.equal, talk[0]["sums"], talk[1]["sums"]))


def test_sums_of_doubles_are_doubles(talk: list[dict[str, Any]]):
    assert [answer["doubles"][0].item() for answer in talk] == [2.0, 2.0]
    assert talk[0]["doubles"][0].dtype == torch.float64


def test_a_request_to_one_process_is_answered_by_all_at_the_next_16th_step(talk: list[dict[str, Any]]):
    assert talk[0]["answers"] == talk[1]["answers"] == [step == 32 for step in range(40)]


def test_without_a_request_no_process_answers(talk: list[dict[str, Any]]):
    assert not any(talk[0]["nobody"] + talk[1]["nobody"])


def test_processes_know_whether_all_have_the_same_digest(talk: list[dict[str, Any]]):
    assert [answer["same"] for answer in talk] == [[True, False]] * 2


# training

SETTINGS = (
    "--num_frames 96 --batch_size 16 --lr 1e-4 --lr_warmup_frames 0 --val_every_frames 48 --num_val_frames 20 "
    "--log_every_steps 1 --vae.z_dim 4 --device cpu --wandb.mode disabled"
)


class Trained(NamedTuple):
    """The runs of one process and of two, and what the two printed."""

    alone: Path
    together: Path
    resumed: Path
    printed: str
    printed_by_resumed: str


def _train(data: Path, out: Path, more: str = "") -> None:
    train_vae.main(f"--data {data} --out {out} {SETTINGS} {more}".split())


def _start(data: Path, out: Path, more: str = "") -> subprocess.Popen[str]:
    torchrun = f"-m torch.distributed.run --standalone --nproc_per_node=2 -m world_models.train_vae --data {data}"
    command = [sys.executable, *f"{torchrun} --out {out} {SETTINGS} {more}".split()]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _interrupted(data: Path, out: Path) -> Path:
    """A run of one process that was interrupted at its fifth step, and last saved after its third."""
    learn: Callable[..., None] = Learner.learn

    def broken(self: Learner, *args: Any) -> None:
        if self.step == 4:
            raise RuntimeError("power cut")
        learn(self, *args)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        patch.setattr(Learner, "learn", broken)
        _train(data, out)
    return out


@pytest.fixture(scope="module")
def trained(one_thread: None, rollouts_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("distributed")
    alone, together, resumed = (folder / name for name in ("alone", "together", "resumed"))
    processes = [
        _start(rollouts_dir, together),
        _start(rollouts_dir, _interrupted(rollouts_dir, resumed), "--resume true"),
    ]
    _train(rollouts_dir, alone)
    ends = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ends
    return Trained(alone, together, resumed, ends[0][0], ends[1][0])


def _lines(run: Path, kind: str) -> list[dict[str, Any]]:
    """The lines of metrics that hold training's or validation's, without what depends on the clock."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k != "train/frames_per_s"} for line in lines if f"{kind}/sse" in line]


@pytest.mark.parametrize("kind", ["train", "val"])
@pytest.mark.parametrize("name", ["together", "resumed"])
def test_two_processes_log_the_same_metrics_as_one(trained: Trained, name: str, kind: str):
    ours, expected = (_lines(run, kind) for run in (getattr(trained, name), trained.alone))
    assert [line["step"] for line in ours] == [line["step"] for line in expected]
    for one, other in zip(ours, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_two_processes_train_to_the_same_weights_as_one(trained: Trained):
    ours, expected = (checkpoints.load_vae(run, "last").state_dict() for run in (trained.together, trained.alone))
    for name, weights in expected.items():
        assert float((ours[name] - weights).abs().max()) < 1e-4, name  # six steps of at most 1e-4


def test_only_one_process_writes_files(trained: Trained):
    names = [{path.relative_to(run) for path in run.rglob("*")} for run in (trained.together, trained.alone)]
    assert names[0] == names[1]
    assert [line["step"] for line in _lines(trained.together, "train")] == [1, 2, 3, 4, 5, 6]


def test_only_one_process_prints(trained: Trained):
    (line,) = trained.printed.splitlines()
    assert line.startswith(f"{trained.together}: SSE ")


def test_a_run_of_one_process_can_be_resumed_by_two(trained: Trained):
    first, _ = trained.printed_by_resumed.splitlines()
    assert first == f"{trained.resumed}: continuing from step 3, 48 frames seen"
    assert resume.load_state(trained.resumed)["step"] == 6


def test_a_finished_run_of_two_processes_can_be_opened_by_one(
    trained: Trained, rollouts_dir: Path, tmp_path: Path, capsys: Any
):
    run = shutil.copytree(trained.together, tmp_path / "run")
    _train(rollouts_dir, run, "--resume true")
    assert "continuing from step 6, 96 frames seen" in capsys.readouterr().out
