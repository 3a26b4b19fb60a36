"""The settings of an encoding."""

import dataclasses
from typing import Literal

from world_models.runs import layout, tracking
from world_models.runtime import ray_connection
from world_models.runtime.cli import ONLY_IF_SET
from world_models.runtime.distributed import Device
from world_models.runtime.errors import require
from world_models.runtime.paths import PATH, resolve_fields

MAX_BATCH = 1_048_576


@dataclasses.dataclass(frozen=True)
class EncodeConfig:
    """What to encode, and with which model.

    Attributes:
        data: folder of rollouts.
        vae: folder of a train_vae run.
        out: folder of the latents.
        weights: best (lowest validation loss) or last.
        batch_size: number of frames encoded at once; null takes a number that suits the device.
        dtype: dtype of mu and logvar on disk.
        device: auto takes a GPU if there is one.
        wandb: Weights & Biases, off by default: it shows from which data and model the latents were made.
        backend: torch, or onnx for ONNX Runtime on the CPU (needs the extra onnx), which is faster if the C library
            was not built.
        executor: serial, this process with one thread per core; or ray, the nodes of a Ray cluster.
        ray_address: with executor ray, HOST:PORT of the cluster, or local; null takes RAY_ADDRESS, else Ray's choice.
    """

    data: str = dataclasses.field(default="rollouts/carracing", metadata=PATH)
    vae: str = dataclasses.field(default="runs/vae", metadata=PATH)
    out: str = dataclasses.field(default="latents/carracing", metadata=PATH)
    weights: layout.Weights = "best"
    batch_size: int | None = None
    dtype: Literal["float32", "float16"] = "float32"
    device: Device = "auto"
    backend: Literal["torch", "onnx"] = "torch"
    wandb: tracking.WandbConfig = dataclasses.field(default_factory=lambda: tracking.WandbConfig("disabled"))
    executor: Literal["serial", "ray"] = dataclasses.field(default="serial", metadata=ONLY_IF_SET)
    ray_address: str | None = dataclasses.field(default=None, metadata=ONLY_IF_SET)

    def __post_init__(self):
        resolve_fields(self)
        ray_connection.check_setting(self.ray_address, self.executor)
        require((self.backend, self.device) != ("onnx", "cuda"), "backend onnx computes on the CPU; give --device cpu")
        require(
            self.batch_size is None or self.batch_size >= 1, f"batch_size is {self.batch_size}; give 1 or more, or null"
        )
        require(
            (self.batch_size or 1) <= MAX_BATCH, f"batch_size is {self.batch_size}; give {MAX_BATCH:,} at most, or null"
        )
        for source in ("data", "vae"):
            require(
                self.out != getattr(self, source), f"out is {self.out}, like {source}; give the latents another --out"
            )
