"""Runs PyTorch in several threads, each of which computes on one core."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")


def in_threads(function: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """Apply a function to each part, in as many threads as PyTorch has. Autograd modes are those of the calling thread.

    One thread computes a part, so the results do not depend on the number of threads. A single part is computed in the
    calling thread, which uses all of PyTorch's threads.
    """
    if len(parts) == 1:
        return [function(parts[0])]
    inference, grad = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def run(part: Part) -> Result:
        with torch.inference_mode(inference), torch.set_grad_enabled(grad and not inference):
            return function(part)

    pool = _cached_pool(min(len(parts), torch.get_num_threads()))
    with single_threaded():
        return list(pool.map(run, parts))


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """In this block, PyTorch computes an operation with one thread. Matrix products do so in all threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def pool(count: int) -> ThreadPoolExecutor:
    """A pool of threads that each compute on one core. Use it while PyTorch is `single_threaded`."""
    return ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))


_cached_pool = functools.cache(pool)
