"""Work on a GPU that the CPU does not wait for: copies, work in order, and CUDA graphs. On a CPU it is done at once."""

import contextlib
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Shaped
from torch import Tensor

WARM_UP_CALLS = 3
"""Number of ordinary calls before a capture. In them cuDNN chooses its algorithms and libraries allocate memory."""


def to_device(values: Shaped[Tensor, "*shape"], device: torch.device) -> Shaped[Tensor, "*shape"]:
    """Copy values from the host to a device, without waiting. Pinned memory makes this possible.

    Example:
        >>> to_device(torch.arange(3), torch.device("cpu"))
        tensor([0, 1, 2])
    """
    return values if device.type == "cpu" else values.pin_memory().to(device, non_blocking=True)


def host_memory(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory of the host for copies to and from a device: pinned if the device is a GPU.

    Example:
        >>> host_memory((2, 3), torch.uint8, torch.device("cpu")).shape
        torch.Size([2, 3])
    """
    return torch.empty(*shape, dtype=dtype, pin_memory=device.type != "cpu")


class Queue:
    """Work that a device does in order, while it works on other queues: a CUDA stream.

    Args:
        device: the device. A CPU does the work at once.

    Example:
        >>> queue = Queue(torch.device("cpu"))
        >>> with queue:
        ...     doubled = 2 * torch.arange(3)
        >>> queue.mark().wait()
        >>> doubled
        tensor([0, 2, 4])
    """

    def __init__(self, device: torch.device):
        self._stream = torch.cuda.Stream(device) if device.type != "cpu" else None
        self._entered = contextlib.ExitStack()

    def __enter__(self) -> "Queue":
        if self._stream:
            self._entered.enter_context(torch.cuda.stream(self._stream))
        return self

    def __exit__(self, *error: object) -> None:
        self._entered.close()

    def mark(self) -> "Mark":
        """Mark the end of the work that is in the queue now."""
        mark = Mark()
        if self._stream:
            mark.event = self._stream.record_event()
        return mark

    def wait_for(self, mark: "Mark") -> None:
        """Let later work of this queue begin after a mark of another queue. The CPU does not wait."""
        if self._stream and mark.event:
            self._stream.wait_event(mark.event)


class Mark:
    """A place in a queue.

    Attributes:
        event: the CUDA event; None on a CPU, where all work is done already.
    """

    def __init__(self):
        self.event: torch.Event | None = None

    def wait(self) -> None:
        """Wait until the work before the mark is done."""
        if self.event:
            self.event.synchronize()


class GraphMemory:
    """Memory and a stream for the CUDA graphs of a device.

    Several graphs may share it. Then only one of them may run at a time, and the next one overwrites everything that
    the one before has allocated.

    Args:
        device: the device. A CPU has no graphs.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type != "cpu" else None
        self.pool = torch.cuda.graph_pool_handle() if device.type != "cpu" else None


class Captured:
    """Work that a GPU repeats as a CUDA graph: the CPU starts all its kernels at once, instead of one after the other.

    The first `WARM_UP_CALLS` calls are ordinary ones. The next call captures the graph. From then on, calls repeat it.
    On a CPU every call is an ordinary one.

    Args:
        work: the work. It does the same operations in each call, on tensors whose memory stays in place, and it never
            waits for the device.
        memory: memory for the graph.

    Example:
        >>> total = torch.zeros(1)
        >>> add = Captured(lambda: total.add_(1), GraphMemory(torch.device("cpu")))
        >>> for _ in range(5):
        ...     add()
        >>> total
        tensor([5.])
    """

    def __init__(self, work: Callable[[], object], memory: GraphMemory):
        self._work, self._memory = work, memory
        self._graph: torch.cuda.CUDAGraph | None = None
        self._num_calls = 0

    def __call__(self) -> None:
        """Do the work once."""
        self._num_calls += 1
        stream = self._memory.stream
        if stream is None:
            self._work()
        elif self._graph is not None:
            self._graph.replay()
        elif self._num_calls <= WARM_UP_CALLS:
            # In the stream of the capture, because autograd remembers the stream of a weight's gradient.
            current = torch.cuda.current_stream(self._memory.device)
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                self._work()
            current.wait_stream(stream)
        else:
            self._capture()

    def _capture(self) -> None:
        """Record the work, and do it. Other threads, which load frames, may use the GPU in the meantime."""
        memory, graph = self._memory, torch.cuda.CUDAGraph()
        with (
            torch.cuda.device(memory.device),
            torch.cuda.graph(graph, memory.pool, memory.stream, capture_error_mode="thread_local"),
        ):
            self._work()
        graph.replay()
        self._graph = graph
