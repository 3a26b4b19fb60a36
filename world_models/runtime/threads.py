"""Work in several threads, with PyTorch as the one that computes in each of them."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")


def in_threads(function: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """Apply a function to each part, as many at a time as PyTorch has threads, in this thread's modes of autograd.

    Several parts are each computed by one thread, so that the results do not depend on how many threads there are.
    """
    if len(parts) == 1:
        return [function(parts[0])]
    inference, grad = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def run(part: Part) -> Result:
        with torch.inference_mode(inference), torch.set_grad_enabled(grad and not inference):
            return function(part)

    pool = _pool(min(len(parts), torch.get_num_threads()))
    with single_threaded():
        return list(pool.map(run, parts))


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """Let PyTorch start no threads of its own in the block: neither here nor, for matrix products, anywhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def threads(count: int) -> ThreadPoolExecutor:
    """Threads that each compute on one core. Use them where PyTorch is `single_threaded`."""
    return ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))


_pool = functools.cache(threads)
