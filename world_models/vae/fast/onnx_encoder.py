"""The encoder as an ONNX graph, computed by ONNX Runtime, for CPUs where the C convolutions were not built."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from world_models.vae.networks import Encoder

OPSET, IR_VERSION = 17, 8  # those of ONNX 1.12, which every recent ONNX Runtime reads


def check() -> None:
    """Check that the packages are installed.

    Raises:
        ValueError: a package is missing.
    """
    try:
        for package in ("onnx", "onnxruntime"):
            importlib.import_module(package)
    except ImportError:
        raise ValueError(
            "backend onnx needs onnx and onnxruntime; pip install 'world_models[onnx]', or use torch"
        ) from None


def encoder_of_frames(
    encoder: Encoder,
) -> Callable[[UInt8[Tensor, "batch 64 64 3"]], tuple[Float[Tensor, "batch z"], Float[Tensor, "batch z"]]]:
    """A function that gives mu and logvar of frames. Each call uses one thread; several threads may call it at once."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph(encoder), options, providers=["CPUExecutionProvider"])

    def encode_frames(frames: UInt8[Tensor, "batch 64 64 3"]) -> tuple[Tensor, Tensor]:
        outputs: Any = session.run(None, {"frames": frames.numpy()})
        mu, logvar = torch.from_numpy(outputs[0]).chunk(2, 1)
        return mu, logvar

    return encode_frames


def graph(encoder: Encoder) -> bytes:
    """The encoder as a serialised ONNX model, from uint8 frames (batch, 64, 64, 3) to (batch, 2 z_dim): mu, logvar."""
    from onnx import TensorProto, helper, numpy_helper

    constants, nodes = [], []

    def constant(name: str, value: Tensor) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value.detach().cpu().numpy()), name))
        return name

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    hidden = node("Transpose", [node("Cast", ["frames"], "floats", to=TensorProto.FLOAT)], "images", perm=[0, 3, 1, 2])
    for name in ("conv1", "conv2", "conv3", "conv4"):
        conv = getattr(encoder, name)
        weight = conv.weight / 255 if name == "conv1" else conv.weight
        inputs = [hidden, constant(f"{name}_weight", weight), constant(f"{name}_bias", conv.bias)]
        hidden = node("Relu", [node("Conv", inputs, name, kernel_shape=[4, 4], strides=[2, 2])], f"{name}_relu")
    heads = torch.cat([encoder.mu.weight, encoder.logvar.weight])
    bias = torch.cat([encoder.mu.bias, encoder.logvar.bias])
    inputs = [node("Flatten", [hidden], "flat"), constant("heads", heads), constant("heads_bias", bias)]
    node("Gemm", inputs, "mu_logvar", transB=1)
    frames = helper.make_tensor_value_info("frames", TensorProto.UINT8, ["batch", 64, 64, 3])
    outputs = helper.make_tensor_value_info("mu_logvar", TensorProto.FLOAT, ["batch", len(bias)])
    whole = helper.make_graph(nodes, "encoder", [frames], [outputs], constants)
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return model.SerializeToString()
