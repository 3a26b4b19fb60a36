"""The work of a controller that reads z: steps of one environment, and of several in lock-step.

A step is that of the loop in docs/encode.md: the observation is cropped, resized and encoded, and the environment takes
an action.
"""

import time
from collections.abc import Callable, Iterator

import gymnasium
import numpy as np
import torch
from gymnasium.vector import SyncVectorEnv
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from world_models import envs
from world_models.bench.measuring import Work
from world_models.envs.preprocessing import preprocess
from world_models.vae.config import VAEConfig
from world_models.vae.model import VAE, to_images

NUM_ENVS = 16
PREPROCESS = {"crop": [0, 84], "size": 64, "interpolation": "INTER_AREA"}

Frames = UInt8[np.ndarray, "batch 64 64 3"]
Encode = Callable[[Frames], Float[Tensor, "batch z"]]


def comparisons(device: torch.device, seconds: float) -> Iterator[dict[str, Work]]:
    """The comparisons, each with the baseline first. The baseline calls `vae.encoder`.

    They are: one environment, `NUM_ENVS` in lock-step, and both without the environment's step, whose time does not
    depend on the encoder.
    """
    vae = VAE(VAEConfig(), PREPROCESS).to(device)

    @torch.no_grad()
    def plain_encoder(frames: Frames) -> Float[Tensor, "batch z"]:
        mu, _ = vae.encoder(to_images(torch.from_numpy(frames).to(device)))
        return mu

    encoders: dict[str, Encode] = {"plain_encoder": plain_encoder, "encode": lambda frames: vae.encode(frames).mu}
    for suffix, num_envs, drives in (
        ("", 1, True),
        (f"_{NUM_ENVS}_envs", NUM_ENVS, True),
        ("_no_env", 1, False),
        (f"_{NUM_ENVS}_frames_no_env", NUM_ENVS, False),
    ):
        step = _driving(num_envs) if drives else _standing(num_envs)
        yield {f"{name}{suffix}": _steps_for(step, encode, num_envs, seconds) for name, encode in encoders.items()}


def _steps_for(step: Callable[[], np.ndarray], encode: Encode, num_envs: int, seconds: float) -> Work:
    """Steps of `num_envs` environments for `seconds`."""

    def work() -> int:
        end, count = time.perf_counter() + seconds, 0
        while time.perf_counter() < end:
            encode(preprocess(step(), PREPROCESS)).cpu()
            count += num_envs
        return count

    return work


def _driving(num_envs: int) -> Callable[[], UInt8[np.ndarray, "batch 96 96 3"]]:
    """Observations of cars that drive straight ahead. An episode that ends is followed by a new one."""
    action = np.array([0, 0.1, 0], np.float32)
    if num_envs > 1:
        cars = SyncVectorEnv([_car] * num_envs, copy=False)
        cars.reset(seed=0)
        actions = np.tile(action, (num_envs, 1))
        return lambda: cars.step(actions)[0]
    car = _car()
    car.reset(seed=0)

    def step() -> UInt8[np.ndarray, "1 96 96 3"]:
        observation, _, terminated, truncated, _ = car.step(action)
        if terminated or truncated:
            observation, _ = car.reset()
        return observation[None]

    return step


def _car() -> gymnasium.Env[UInt8[np.ndarray, "96 96 3"], Float32[np.ndarray, "3"]]:
    return gymnasium.make(envs.FAST_CAR_RACING)


def _standing(num_envs: int) -> Callable[[], UInt8[np.ndarray, "batch 96 96 3"]]:
    """The same random observations in every step."""
    pictures = np.random.default_rng(0).integers(0, 256, (num_envs, 96, 96, 3), np.uint8)
    return lambda: pictures
