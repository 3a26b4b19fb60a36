"""Checks of the V model's inputs, before a layer or the C library reads their memory."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

NO_LABELS = "the model is conditional; give each frame's class as labels"


def check_batch(kind: str, batch: Tensor, row_shape: Sequence[int], weight: Tensor) -> None:
    """Refuse a batch that a layer with this weight cannot take.

    Args:
        kind: name of the batch's rows in the plural, such as "images"; for the message.
        batch: the rows.
        row_shape: the shape that a row should have.
        weight: the weight of the layer.

    Raises:
        ValueError: the batch has another shape, device or dtype (autocast allows other dtypes), or is sparse.
    """
    wanted = ", ".join(map(str, row_shape))
    if tuple(batch.shape[1:]) != tuple(row_shape) or not batch.ndim:
        alone = tuple(batch.shape) == tuple(row_shape)
        raise ValueError(
            f"{kind} of shape {tuple(batch.shape)}, and the model takes (batch, {wanted}); "
            + ("give a batch of one by [None]" if alone else "give them in that shape")
        )
    if batch.layout != torch.strided:
        raise ValueError(f"{kind} in a {batch.layout} tensor; give a dense one, by to_dense()")
    if batch.device != weight.device:
        raise ValueError(f"{kind} on {batch.device}, and the model is on {weight.device}; move one of them with .to()")
    if batch.dtype != weight.dtype and not (batch.is_floating_point() and torch.is_autocast_enabled(batch.device.type)):
        raise ValueError(f"{kind} of {batch.dtype}, and the weights are {weight.dtype}; give .to({weight.dtype})")


def frames_tensor(frames: Any, frame_shape: tuple[int, int, int]) -> UInt8[Tensor, "batch h w c"]:
    """Check a batch of frames, and return it as a tensor.

    Raises:
        ValueError: they are not uint8 frames of this shape. The message says how to make such frames.
    """
    if not isinstance(frames, Tensor | np.ndarray):
        raise ValueError(
            f"frames are a {type(frames).__name__}; give a NumPy array or a tensor, uint8, with a batch axis"
        )
    shape, wanted = tuple(frames.shape), f"(batch, {', '.join(map(str, frame_shape))})"
    if frames.dtype not in (np.uint8, torch.uint8):
        scaled = "; images in [0, 1] become frames by (255 * images).round() as uint8"
        floats = frames.is_floating_point() if isinstance(frames, Tensor) else frames.dtype.kind == "f"
        raise ValueError(f"frames are {frames.dtype}, and the model takes uint8 of 0 to 255{scaled if floats else ''}")
    if shape[1:] != frame_shape or not shape:
        raise ValueError(f"frames of shape {shape}, and the model takes {wanted}; {_remedy(shape, frame_shape)}")
    if isinstance(frames, np.ndarray):
        return torch.from_numpy(np.require(frames, requirements=["C", "W"]))  # PyTorch warns about read-only arrays
    if frames.layout != torch.strided or frames.is_meta:
        raise ValueError(f"frames in a {frames.layout} tensor on {frames.device}; give a dense one that holds data")
    return frames


def _remedy(shape: tuple[int, ...], frame_shape: tuple[int, int, int]) -> str:
    height, width, channels = frame_shape
    if shape == frame_shape:
        return "give a single frame as frame[None]"
    if shape[1:] == (channels, height, width):
        return (
            "channels come last: give frames.transpose(0, 2, 3, 1) of an array, frames.permute(0, 2, 3, 1) of a tensor"
        )
    if channels == 1 and shape[1:] == (height, width):
        return "give frames[..., None]"
    if channels == 1:
        return f"resize them to {height}x{width}, as MNIST's digits are"
    return (
        f"world_models.preprocess(observations, vae.preprocess) resizes pictures of any size to {height}x{width}, the "
        "paper's size"
    )


def check_labels(labels: Tensor, num_classes: int, num_rows: int) -> None:
    """Check that there is one label for each row.

    Raises:
        ValueError: they are not one integer per row, from 0 to `num_classes` - 1.
    """
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels are {labels.dtype}; give whole numbers, torch.int64")
    if tuple(labels.shape) != (num_rows,):
        raise ValueError(f"labels of shape {tuple(labels.shape)}; give one for each of {num_rows}: ({num_rows},)")
    if num_rows and not (int(labels.min()) >= 0 and int(labels.max()) < num_classes):
        found = f"{int(labels.min())} to {int(labels.max())}"
        raise ValueError(f"labels of {found}; the model knows the classes 0 to {num_classes - 1}")
