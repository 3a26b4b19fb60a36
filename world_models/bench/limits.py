"""What limits the speed of a stage on this device, measured in the same run."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from world_models.bench.measuring import gemm_gflop_per_s, seconds_of
from world_models.bench.result import GFLOP_PER_FRAME, Limit, dtype
from world_models.data.rollouts import FRAME_BYTES
from world_models.runtime.gpu import host_memory

REPEATS = 5
COPIED_BYTES = 1 << 30
GEMM_FRAMES = {"train": 256, "encode": 4096}
"""Number of frames of the batches whose matrix products are measured."""


class Layer(NamedTuple):
    """The matrix product of a layer: for each frame `rows` x `inputs` times `inputs` x `outputs`.

    A convolution is such a product. Its rows are the pixels of the output, those of a transposed one the pixels of the
    input; the kernel's pixels are part of `inputs`, or of `outputs`.
    """

    rows: int
    inputs: int
    outputs: int


ENCODER = (
    Layer(31 * 31, 4 * 4 * 3, 32),
    Layer(14 * 14, 4 * 4 * 32, 64),
    Layer(6 * 6, 4 * 4 * 64, 128),
    Layer(2 * 2, 4 * 4 * 128, 256),
    Layer(1, 1024, 2 * 32),
)
DECODER = (
    Layer(1, 32, 1024),
    Layer(1, 1024, 5 * 5 * 128),
    Layer(5 * 5, 128, 5 * 5 * 64),
    Layer(13 * 13, 64, 6 * 6 * 32),
    Layer(30 * 30, 32, 6 * 6 * 3),
)


def of_variant(stage: str, variant: str, device: torch.device) -> Limit | None:
    """The lowest limit of a variant of a stage; None if none is known.

    On a CPU it is the rate of a large matrix product, divided by the multiplications of the paper's layers. On a GPU it
    is that of the matrix products of the layers one by one, or of copying the frames.
    """
    if device.type != "cuda":
        gflop = GFLOP_PER_FRAME.get(stage)
        return Limit("GEMM", gemm_gflop_per_s(device, dtype(stage, device)) / gflop) if gflop else None
    limits = (MEASURES[name](stage, device) for name in names_of(stage, variant))
    return min(limits, key=lambda limit: limit.frames_per_s, default=None)


def layers_limit(stage: str, device: torch.device) -> Limit:
    """Frames/s of only the matrix products of the layers, in the stage's dtype, without anything in between."""
    frames, kind = GEMM_FRAMES[stage], dtype(stage, device)
    seconds = sum(_best(_product(shape, frames, kind, device), device) for shape in shapes_of(stage))
    return Limit("layer GEMM", frames / seconds)


def shapes_of(stage: str) -> list[Layer]:
    """The matrix products of a stage. In training, each layer has three, and the first one has two.

    The gradient of a layer's inputs multiplies with the transposed weight; that of its weight sums over the rows.
    """
    if stage == "encode":
        return [*ENCODER]
    layers = (*ENCODER, *DECODER)
    inputs = [Layer(rows, outputs, inputs) for rows, inputs, outputs in layers[1:]]
    return [*layers, *inputs, *layers]


def _product(shape: Layer, frames: int, kind: torch.dtype, device: torch.device) -> Callable[[], Tensor]:
    left = torch.randn(frames * shape.rows, shape.inputs, device=device, dtype=kind)
    right = torch.randn(shape.inputs, shape.outputs, device=device, dtype=kind)
    return lambda: left @ right


def memory_limit(stage: str, device: torch.device) -> Limit:
    """Frames/s of a copy from memory to memory of the device."""
    source = torch.zeros(COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Limit("memory copy", COPIED_BYTES / _best(lambda: target.copy_(source), device) / FRAME_BYTES)


def pcie_limit(stage: str, device: torch.device) -> Limit:
    """Frames/s of a copy from pinned memory of the host to the device."""
    source = host_memory((COPIED_BYTES,), torch.uint8, device)
    target = torch.empty(COPIED_BYTES, dtype=torch.uint8, device=device)
    copy = lambda: target.copy_(source, non_blocking=True)  # noqa: E731
    return Limit("PCIe copy", COPIED_BYTES / _best(copy, device) / FRAME_BYTES)


def _best(work: Callable[[], object], device: torch.device) -> float:
    """The seconds of the fastest of several calls, after a warm-up."""
    work()
    return min(seconds_of(work, device) for _ in range(REPEATS))


MEASURES: Mapping[str, Callable[[str, torch.device], Limit]] = {
    "layers": layers_limit,
    "memory": memory_limit,
    "pcie": pcie_limit,
}


def names_of(stage: str, variant: str) -> tuple[str, ...]:
    """What limits a variant of a stage on a GPU, by the names in `MEASURES`."""
    if stage == "load":
        return ("memory",) if variant == "resident" else ("pcie",)
    if stage not in GEMM_FRAMES:
        return ()
    is_copied = variant in ("h5_to_h5", "from_host_memory") or variant.endswith("from_shards")
    return ("layers", "pcie") if is_copied else ("layers",)
