"""Several processes that work together, as `torchrun` starts them; one process alone is the plain case.

A loop need not know how many there are: with one process every function does what it says, at no cost.
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
    """The processes of a run, by torchrun's environment variables.

    Attributes:
        rank: number of this process.
        size: how many there are.
        local_rank: number of this process on its machine, which is that of its GPU.
    """

    rank: int
    size: int
    local_rank: int

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0


def world() -> World:
    """The processes that train together, this one among them.

    Raises:
        ValueError: the environment says something that cannot be.
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
    """The device that a setting names; auto takes a GPU if there is one.

    Raises:
        ValueError: a GPU is asked for where there is none.
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ValueError("device is cuda, and torch finds no GPU; give cpu or auto")
    return torch.device("cuda" if there and name != "cpu" else "cpu")


def own_device(device: torch.device) -> torch.device:
    """The GPU of this process, where each has one.

    Raises:
        ValueError: there are fewer GPUs than processes on this machine.
    """
    number = world().local_rank
    if device.type != "cuda":
        return device
    # All processes of the machine refuse, not only those without a GPU: of torchrun's, the first one speaks.
    processes, there = max(number + 1, _number("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    instead = f"start {there} at most (torchrun --nproc_per_node={there})"
    require(processes <= there, f"{processes} processes share the {there} GPUs of this machine; {instead}")
    return torch.device("cuda", number)


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Meet the other processes; no process enters the block before all are there."""
    here = world()
    if here.size > 1:
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield here
    finally:
        if here.size > 1:
            torch.distributed.destroy_process_group()


def sum_up(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its sum over all processes, the same bits in each; one message for all of them."""
    if world().size == 1:
        return
    listed = list(tensors)
    flat = torch.cat([tensor.flatten() for tensor in listed])
    torch.distributed.all_reduce(flat)
    for tensor, total in zip(listed, flat.split([tensor.numel() for tensor in listed]), strict=True):
        tensor.copy_(total.view_as(tensor))


def asked(asked_here: bool, step: int, device: torch.device) -> bool:
    """Whether something is asked for in any process; all get the same answer, several of them at every 16th step."""
    if world().size == 1 or step % ASK_EVERY_STEPS:
        return asked_here and world().size == 1
    votes = torch.tensor([float(asked_here)], device=device)
    sum_up([votes])
    return bool(votes)


def wait_for_all(device: torch.device) -> None:
    """Wait until every process has come this far."""
    sum_up([torch.zeros(1, device=device)])
