"""A stand-in for CUDA graphs on a CPU: the operations of one call are recorded, and repeated on the same memory."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from world_models.runtime.gpu import WARM_UP_CALLS, GraphMemory


class Recording(TorchDispatchMode):
    """In this block, every operation of PyTorch is recorded. Like a CUDA graph, it keeps numbers as they were."""

    def __init__(self):
        super().__init__()
        self._operations: list[tuple[Any, Sequence[Any], Mapping[str, Any], Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self._operations.append((func, args, kwargs, result))
        return result

    def __len__(self) -> int:
        return len(self._operations)

    @torch.no_grad()
    def repeat(self) -> None:
        """Do the operations again. Each result goes to the memory that it had in the recording."""
        for func, args, kwargs, result in self._operations:
            again = func(*args, **kwargs)
            for before, now in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(before, Tensor) and before.data_ptr() != now.data_ptr():
                    before.copy_(now)


class Recorded:
    """Stands for `Captured`: some calls do the work, the next one is recorded, and the later ones repeat it."""

    def __init__(self, work: Callable[[], object], memory: GraphMemory):
        self._work, self._num_calls, self.recording = work, 0, Recording()

    def __call__(self) -> None:
        self._num_calls += 1
        if self._num_calls <= WARM_UP_CALLS:
            self._work()
        elif not len(self.recording):
            with self.recording:
                self._work()
        else:
            self.recording.repeat()
