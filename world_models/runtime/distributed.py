"""Several processes that work together, started by `torchrun`, or one process alone.

The same code works for any number of processes. With one process these functions cost nothing.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Iterator
from typing import Literal

import torch
import torch.distributed
from torch import Tensor

from world_models.runtime.errors import require

ASK_EVERY_STEPS = 16
Device = Literal["auto", "cpu", "cuda"]


@dataclasses.dataclass(frozen=True)
class World:
    """The processes of a run, from torchrun's environment variables.

    Attributes:
        rank: number of this process.
        size: number of processes.
        local_rank: number of this process on its machine, and number of its GPU.
    """

    rank: int
    size: int
    local_rank: int

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0


def world() -> World:
    """The processes that work together, including this one.

    Raises:
        ValueError: torchrun's environment variables are wrong or incomplete.
    """
    rank, size, local_rank = (_number(name, default) for name, default in _VARIABLES)
    require(rank < size, f"RANK is {rank}, and WORLD_SIZE {size}; {_START}")
    if size > 1:
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            require(bool(os.environ.get(name)), f"WORLD_SIZE is {size}, and {name} is not set; {_START}")
    return World(rank, size, local_rank)


_VARIABLES = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
_START = "start several processes by torchrun, or unset RANK, WORLD_SIZE and LOCAL_RANK for one"


def _number(name: str, default: str) -> int:
    text = os.environ.get(name, default)
    is_number = text.isascii() and text.isdigit() and len(text) < 10
    require(is_number, f"{name} is {text or 'empty'}, wanted a whole number; {_START}")
    return int(text)


def torch_device(name: Device) -> torch.device:
    """The device for a setting; auto takes a GPU if there is one.

    Raises:
        ValueError: the setting is cuda, but there is no GPU.
    """
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise ValueError("device is cuda, and torch finds no GPU; give cpu or auto")
    return torch.device("cuda" if has_gpu and name != "cpu" else "cpu")


def own_device(device: torch.device) -> torch.device:
    """The device of this process. On GPUs, each process has its own.

    Raises:
        ValueError: there are fewer GPUs than processes on this machine.
    """
    number = world().local_rank
    if device.type != "cuda":
        return device
    # All processes of the machine raise this error, also those with a GPU, because only the first one prints it.
    processes, gpus = max(number + 1, _number("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    instead = f"start {gpus} at most (torchrun --nproc_per_node={gpus})"
    require(processes <= gpus, f"{processes} processes share the {gpus} GPUs of this machine; {instead}")
    return torch.device("cuda", number)


@contextlib.contextmanager
def connected(device: torch.device) -> Iterator[World]:
    """Connect the processes. No process enters the block before all of them are connected."""
    processes = world()
    if processes.size > 1:
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield processes
    finally:
        if processes.size > 1:
            torch.distributed.destroy_process_group()


def sum_up(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its sum over all processes. The sums have the same bits in every process."""
    if world().size == 1:
        return
    listed = list(tensors)
    flat = torch.cat([tensor.flatten() for tensor in listed])
    torch.distributed.all_reduce(flat)
    for tensor, total in zip(listed, flat.split([tensor.numel() for tensor in listed]), strict=True):
        tensor.copy_(total.view_as(tensor))


def is_same_everywhere(digest: str, device: torch.device) -> bool:
    """Whether all processes have the same digest, a hexadecimal sha256. All processes get the same answer.

    Each machine may have the data on its own disk, and a copy may be old.
    """
    here = world()
    rows = torch.zeros(here.size, 32, device=device)
    rows[here.rank] = torch.tensor(list(bytes.fromhex(digest)), device=device)
    sum_up([rows])
    return bool((rows == rows[0]).all())


def is_true_anywhere(is_true_here: bool, step: int, device: torch.device) -> bool:
    """Whether `is_true_here` is true in any process. All processes get the same answer.

    Several processes exchange it only at every 16th step; at other steps the answer is False.
    """
    if world().size == 1 or step % ASK_EVERY_STEPS:
        return is_true_here and world().size == 1
    votes = torch.tensor([float(is_true_here)], device=device)
    sum_up([votes])
    return bool(votes)


def wait_for_all(device: torch.device) -> None:
    """Wait until every process has reached this call."""
    sum_up([torch.zeros(1, device=device)])
