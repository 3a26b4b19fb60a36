"""Weights that are prepared once for inference, and again after the network's own weights have changed.

The prepared weights are kept outside the networks. So `state_dict`, pickle and `copy.deepcopy` never see them, and a
copy of a network prepares its own.
"""

import dataclasses
import weakref
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)
Prepared = TypeVar("Prepared")


@dataclasses.dataclass(frozen=True, eq=False)
class _Source:
    """The state of a tensor when weights were prepared from it.

    Attributes:
        tensor: the tensor.
        memory: its memory, kept so that no other tensor gets the same address.
        version: number of changes in place that PyTorch had counted.
        probe: one number of each row, in that memory.
        numbers: the values of `probe` at that time. PyTorch does not count changes through `.data`, by NumPy, or in
            shared memory by another process. If they change the whole tensor, the probe shows it.
    """

    tensor: Tensor
    memory: Tensor
    version: int
    probe: Shaped[Tensor, " rows"]
    numbers: bytes

    @classmethod
    def of(cls, tensor: Tensor) -> "_Source":
        memory = tensor.detach()
        probe = memory[(slice(None), *(size // 2 for size in memory.shape[1:]))]
        return cls(tensor, memory, tensor._version, probe, _bytes(probe))

    def is_still(self, tensor: Tensor) -> bool:
        """Whether this is the same tensor, unchanged."""
        return (
            tensor is self.tensor
            and tensor._version == self.version
            and tensor.is_set_to(self.memory)
            and _bytes(self.probe) == self.numbers
        )


def _bytes(values: Tensor) -> bytes:
    return values.numpy().tobytes()


@dataclasses.dataclass(frozen=True)
class _Kept(Generic[Prepared]):
    sources: tuple[_Source, ...]
    weights: Prepared

    def is_of(self, tensors: Sequence[Tensor]) -> bool:
        return all(map(_Source.is_still, self.sources, tensors))


class PreparedOnce(Generic[Network, Prepared]):
    """Prepares the weights of each network once. Several threads may call it at once.

    Args:
        prepare: prepares the weights of a network; called without gradients.
        sources: returns the tensors that `prepare` reads: CPU tensors with at least one axis, always the same number.
    """

    def __init__(self, prepare: Callable[[Network], Prepared], sources: Callable[[Network], Sequence[Tensor]]):
        self._prepare, self._sources = prepare, sources
        self._kept: weakref.WeakKeyDictionary[Network, _Kept[Prepared]] = weakref.WeakKeyDictionary()

    @torch.no_grad()
    def __call__(self, network: Network) -> Prepared:
        """The prepared weights for the current weights of the network."""
        tensors = self._sources(network)
        kept = self._kept.get(network)
        if kept and kept.is_of(tensors):
            return kept.weights
        if any(tensor.is_inference() for tensor in tensors):  # PyTorch does not count changes of these
            return self._prepare(network)
        sources = tuple(map(_Source.of, tensors))  # before the preparation, so that a change during it is noticed
        kept = _Kept(sources, self._prepare(network))
        self._kept[network] = kept
        return kept.weights
