"""Work on a GPU, with stand-ins for what a machine without one lacks; and the same on a GPU."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from world_models.runtime import gpu
from world_models.runtime.gpu import Captured, GraphMemory, Queue, host_memory, to_device

CPU, GPU = torch.device("cpu"), torch.device("cuda")
ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def test_on_a_cpu_values_stay_where_they_are():
    values = torch.arange(3)
    assert to_device(values, CPU) is values
    assert not host_memory((2, 3), torch.uint8, CPU).is_pinned()


def test_on_a_cpu_queued_work_is_done_at_once():
    first, second = Queue(CPU), Queue(CPU)
    with first:
        total = torch.ones(1) + 1
    second.wait_for(first.mark())
    second.mark().wait()
    assert total.item() == 2


def test_on_a_cpu_each_call_does_the_work():
    calls: list[int] = []
    repeated = Captured(lambda: calls.append(1), GraphMemory(CPU))
    for _ in range(gpu.WARM_UP_CALLS + 2):
        repeated()
    assert len(calls) == gpu.WARM_UP_CALLS + 2


class StandIns:
    """Stand-ins for streams, events and graphs. They note what happens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.log: list[str] = []
        self.stream_now, self.num_streams = "main", 0
        for name in ("Stream", "stream", "current_stream", "CUDAGraph", "graph", "graph_pool_handle", "device"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))

    def Stream(self, device: torch.device) -> "StandInStream":  # noqa: N802
        self.num_streams += 1
        return StandInStream(self, f"stream{self.num_streams}")

    @contextlib.contextmanager
    def stream(self, stream: "StandInStream") -> Iterator[None]:
        before, self.stream_now = self.stream_now, stream.name
        yield
        self.stream_now = before

    def current_stream(self, device: torch.device) -> "StandInStream":
        return StandInStream(self, self.stream_now)

    def CUDAGraph(self) -> "StandInGraph":  # noqa: N802
        return StandInGraph(self)

    @contextlib.contextmanager
    def graph(self, graph: Any, pool: Any, stream: "StandInStream", capture_error_mode: str) -> Iterator[None]:
        self.log.append(f"capture in {stream.name} with {pool}, errors {capture_error_mode}")
        with self.stream(stream):
            yield

    def graph_pool_handle(self) -> str:
        return "pool"

    def device(self, device: torch.device) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class StandInStream:
    def __init__(self, machine: StandIns, name: str):
        self.machine, self.name = machine, name

    def wait_stream(self, other: "StandInStream") -> None:
        self.machine.log.append(f"{self.name} waits for {other.name}")

    def record_event(self) -> "StandInEvent":
        return StandInEvent(self.machine, f"event of {self.name}")

    def wait_event(self, event: "StandInEvent") -> None:
        self.machine.log.append(f"{self.name} waits for {event.name}")


class StandInEvent:
    def __init__(self, machine: StandIns, name: str):
        self.machine, self.name = machine, name

    def synchronize(self) -> None:
        self.machine.log.append(f"CPU waits for {self.name}")


class StandInGraph:
    def __init__(self, machine: StandIns):
        self.machine = machine

    def replay(self) -> None:
        self.machine.log.append(f"replay in {self.machine.stream_now}")


def test_work_is_done_a_few_times_then_captured_once_and_repeated(monkeypatch: pytest.MonkeyPatch):
    machine = StandIns(monkeypatch)
    repeated = Captured(lambda: machine.log.append(f"work in {machine.stream_now}"), GraphMemory(GPU))
    for _ in range(gpu.WARM_UP_CALLS + 2):
        repeated()
    ordinary = ["stream1 waits for main", "work in stream1", "main waits for stream1"]
    capture = ["capture in stream1 with pool, errors thread_local", "work in stream1"]
    assert machine.log == [*ordinary * gpu.WARM_UP_CALLS, *capture, "replay in main", "replay in main"]


def test_graphs_that_share_memory_share_its_stream(monkeypatch: pytest.MonkeyPatch):
    machine = StandIns(monkeypatch)
    memory = GraphMemory(GPU)
    for _ in range(2):
        repeated = Captured(lambda: None, memory)
        for _ in range(gpu.WARM_UP_CALLS + 1):
            repeated()
    assert machine.log.count("capture in stream1 with pool, errors thread_local") == 2


def test_a_queue_is_a_stream_that_others_can_wait_for(monkeypatch: pytest.MonkeyPatch):
    machine = StandIns(monkeypatch)
    copies, computations = Queue(GPU), Queue(GPU)
    with copies:
        machine.log.append(f"copy in {machine.stream_now}")
    computations.wait_for(copies.mark())
    computations.mark().wait()
    assert machine.log == ["copy in stream1", "stream2 waits for event of stream1", "CPU waits for event of stream2"]
    assert machine.stream_now == "main"


@pytest.mark.gpu
@ON_GPU
def test_a_graph_repeats_the_work_on_the_values_that_its_memory_holds_now():
    value, total = torch.zeros(3, device=GPU), torch.zeros(3, device=GPU)
    repeated = Captured(lambda: total.add_(value.square()), GraphMemory(GPU))
    for number in range(10):
        value.fill_(number)
        repeated()
    assert total.tolist() == [285.0] * 3


@pytest.mark.gpu
@ON_GPU
def test_values_come_to_a_gpu_and_back():
    copies, values = Queue(GPU), torch.arange(1000)
    with copies:
        moved = to_device(values, GPU) * 2
        back = host_memory((1000,), torch.int64, GPU)
        back.copy_(moved, non_blocking=True)
    copies.mark().wait()
    assert back.is_pinned() and torch.equal(back, values * 2)
