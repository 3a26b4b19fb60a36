"""Refuses what makes the CPU wait for a GPU. With `FakeTensorMode` it needs no GPU."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITING = {
    *("_local_scalar_dense", "item", "is_nonzero", "equal", "allclose"),  # a number for Python
    *("nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive"),  # a size for Python
    *("bincount", "repeat_interleave", "record_stream"),
}
"""Operations whose result the CPU needs, or its size. This `repeat_interleave` takes its counts from a tensor."""


class WaitingError(RuntimeError):
    """An operation makes the CPU wait for the device."""


class NoWaiting(TorchDispatchMode):
    """In this block, an operation that makes the CPU wait for a GPU raises `WaitingError`.

    Args:
        device_type: type of the device that stands for the GPU.

    Refused are operations of `WAITING` on tensors of a GPU, indexing with truth values, copies from a GPU to the host,
    and copies to a GPU from memory that is not pinned or without `non_blocking`.

    Attributes:
        num_operations: number of operations on tensors of a GPU so far.
        is_strict: whether anything is refused. Pinned memory is known in either case.
    """

    def __init__(self, device_type: str = "cuda"):
        super().__init__()
        self._device_type = device_type
        self.num_operations, self.is_strict = 0, True
        self._pinned: list[Tensor] = []  # kept, so that no other tensor gets the place of one

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = _name(func)
        if name in ("pin_memory", "_pin_memory"):
            self._pinned.append(args[0].clone())
            return self._pinned[-1]
        if name == "is_pinned":
            return self._is_pinned(args[0])
        if self.is_strict:
            self._check(func, args, kwargs)
        if name == "_fused_adam_" and "lr" in kwargs and isinstance(kwargs["lr"], Tensor) and self._on_gpu(args[0][0]):
            return None  # it changes its arguments; PyTorch lacks the variant for tensors without memory
        return func(*args, **kwargs)

    def _check(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        name = _name(func)
        if any(self._on_gpu(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)):
            self.num_operations += 1
            if name in WAITING:
                raise WaitingError(f"{func}: the CPU waits for its result")
            if name in ("index", "index_put", "index_put_"):
                _check_index(func, args[1])
            if name == "_fused_adam_" and isinstance(kwargs["lr"], Tensor) and not self._on_gpu(kwargs["lr"]):
                raise WaitingError(f"{func}: the CPU waits for the learning rate")
        if name == "_to_copy":
            self._check_copy(func, args[0], kwargs.get("device"), kwargs.get("non_blocking", False))
        if name == "copy_":
            self._check_copy(func, args[1], args[0].device, (*args, *kwargs.values())[2:] == (True,))

    def _check_copy(self, func: Any, source: Tensor, device: torch.device | None, non_blocking: bool) -> None:
        to_gpu = device is not None and torch.device(device).type == self._device_type
        if self._on_gpu(source) and device is not None and not to_gpu:
            raise WaitingError(f"{func}: a copy from the device to the host")
        if to_gpu and not self._on_gpu(source) and not (non_blocking and self._is_pinned(source)):
            raise WaitingError(
                f"{func}: a copy to the device from memory that is not pinned, or one that is waited for"
            )

    def _on_gpu(self, tensor: Tensor) -> bool:
        return tensor.device.type == self._device_type

    def _is_pinned(self, tensor: Tensor) -> bool:
        return any(tensor is pinned for pinned in self._pinned)


def _name(func: Any) -> str:
    """The name of an operation without its variant: `copy_` of `aten.copy_.default`."""
    return str(func.overloadpacket).rpartition(".")[2]


def _check_index(func: Any, indices: Sequence[Tensor | None]) -> None:
    if any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices):
        raise WaitingError(f"{func}: the CPU waits for the number of true values")
