"""Gymnasium wrappers that encode the observation by a V model, so that the observation is z."""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv, VectorWrapper
from jaxtyping import Float32, UInt8

from world_models.envs import observations
from world_models.envs.preprocessing import Preprocess, preprocess
from world_models.vae.model import VAE

NOISE_STREAM = 0x7A
"""Part of the noise's seed, so that the noise of z is independent of the environment's random numbers."""


class LatentObservation(gymnasium.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """An environment whose observation is the latent z of its frame, float32 (z_dim,).

    The observation is cropped and resized by the model's `preprocess`, then encoded. A vector environment gets a
    `LatentVectorObservation`, which encodes all observations in one batch, (num_envs, z_dim).

    Args:
        env: an environment, or a vector environment, that observes pictures like those of the training data, or dicts
            with one such picture.
        vae: the V model, on any device.
        normalise: `Latents` or `LatentSequences`. If given, z is shifted and scaled to mean 0 and variance 1 by their
            `z_mean` and `z_std`. Give the latents that the memory model was trained on with `normalise=True`.
        sample: whether to observe a sample z = mu + sigma * noise, as in the training of a memory model, instead of
            mu. The seed of `reset` determines the noise.

    Raises:
        ValueError: the observations are not pictures or have too few rows, the model is for digits, or `normalise` is
            not latents of the model's z_dim.

    Example:
        >>> vae = world_models.load_vae("runs/vae")
        >>> env = LatentObservation(gymnasium.make("world_models/CarRacing-v3"), vae)
        >>> z, _ = env.reset(seed=0)
        >>> z.shape
        (32,)
    """

    def __new__(cls, env: Any = None, *arguments: Any, **options: Any) -> Any:
        """Make the wrapper for the kind of environment. `copy` calls this without arguments."""
        if isinstance(env, VectorEnv):
            return LatentVectorObservation(env, *arguments, **options)
        return super().__new__(cls)

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        vae: VAE,
        normalise: Any = None,
        sample: bool = False,
    ):
        RecordConstructorArgs.__init__(self, _disable_deepcopy=True, vae=vae, normalise=normalise, sample=sample)
        super().__init__(env)
        self._encode = _PictureEncoder(observations.why_no_pictures(env), env.observation_space, vae, normalise, sample)
        self.observation_space = self._encode.space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode. The seed determines the environment and the noise of z."""
        self._encode.seed(seed)
        return super().reset(seed=seed, options=options)

    def observation(self, observation: Any) -> Float32[np.ndarray, " z"]:
        """The latent of an observation: of a picture, or of the picture in a dict."""
        return self._encode(self._encode.picture(observation)[None])[0]


class LatentVectorObservation(VectorWrapper[Any, Any, Any, Any, Any]):
    """`LatentObservation` for a vector environment, with the same arguments.

    If an episode ends and is reset within a step, its final observation, in `infos["final_obs"]`, is a latent too.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        vae: VAE,
        normalise: Any = None,
        sample: bool = False,
    ):
        super().__init__(env)
        space = env.single_observation_space
        self._encode = _PictureEncoder(observations.why_no_picture_space(space), space, vae, normalise, sample)
        self.single_observation_space = self._encode.space
        self.observation_space = gymnasium.vector.utils.batch_space(self._encode.space, env.num_envs)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float32[np.ndarray, "envs z"], dict[str, Any]]:
        """Begin an episode in each environment."""
        self._encode.seed(seed)
        batch, infos = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]: it takes lists, too
        return self._encode(self._encode.picture(batch)), infos

    def step(self, actions: Any) -> tuple[Float32[np.ndarray, "envs z"], Any, Any, Any, dict[str, Any]]:
        """Take an action in each environment."""
        batch, rewards, terminations, truncations, infos = self.env.step(actions)
        if "final_obs" in infos:
            ended = np.flatnonzero(infos["_final_obs"])
            final = np.empty(self.num_envs, object)
            pictures = np.stack([self._encode.picture(observation) for observation in infos["final_obs"][ended]])
            final[ended] = list(self._encode(pictures))
            infos = infos | {"final_obs": final}
        return self._encode(self._encode.picture(batch)), rewards, terminations, truncations, infos


class _PictureEncoder:
    """Turns pictures into latents.

    Args:
        no_pictures: description of the observations if they are not pictures; else None.
        space: the space of one observation.
        vae, normalise, sample: as in `LatentObservation`.
    """

    def __init__(self, no_pictures: str | None, space: spaces.Space[Any], vae: VAE, normalise: Any, sample: bool):
        if not isinstance(vae, VAE):
            raise ValueError(f"vae is a {type(vae).__name__}; give a V model, by world_models.load_vae(run)")
        z_dim = vae.config.z_dim
        if vae.config.network != "paper":
            raise ValueError(f"the model takes digits (vae.network {vae.config.network}); give one trained on rollouts")
        if no_pictures:
            raise ValueError(
                f"the environment observes {no_pictures}; give one that observes {observations.WANTED}, or wrap it in "
                "gymnasium.wrappers.AddRenderObservation"
            )
        self._vae, self._preprocessing, self._sample = vae, Preprocess.from_spec(vae.preprocess), sample
        self._name, space = observations.picture_in(space)
        rows, crop = (space.shape or (0,))[0], self._preprocessing.crop
        if crop is not None and crop[1] > rows:
            raise ValueError(
                f"the environment's pictures have {rows} rows, and the model's preprocess keeps rows {crop[0]}:"
                f"{crop[1]}; give the environment that the model was trained on, or resize its pictures by "
                "gymnasium.wrappers.ResizeObservation"
            )
        self._is_flat = len(space.shape or ()) == 2  # grey, without an axis of channels
        self._mean, self._std = _moments(normalise, z_dim)
        self.space = spaces.Box(-np.inf, np.inf, (z_dim,), np.float32)
        self._rng = np.random.default_rng()

    def picture(self, observation: Any) -> UInt8[np.ndarray, "..."]:
        """The picture in an observation, or the batch of pictures in a batch of observations."""
        return observations.picture_of(observation, self._name)

    def seed(self, seed: int | Sequence[int | None] | None) -> None:
        """Restart the noise with the seed of one environment or of several; None continues it."""
        if seed is not None:
            seeds = [0 if one is None else int(one) for one in np.atleast_1d(np.array(seed, object))]
            self._rng = np.random.default_rng([NOISE_STREAM, *seeds])

    def __call__(self, pictures: UInt8[np.ndarray, "batch ..."]) -> Float32[np.ndarray, "batch z"]:
        """Encode a batch of pictures."""
        pictures = pictures[..., None] if self._is_flat else pictures
        posterior = self._vae.encode(preprocess(pictures, self._preprocessing))
        z = posterior.mu
        if self._sample:
            z = posterior.sample(torch.from_numpy(self._rng.standard_normal(z.shape, np.float32)).to(z.device))
        return (z.cpu().numpy() - self._mean) / self._std


def _moments(latents: Any, z_dim: int) -> tuple[Float32[np.ndarray, "*z"], Float32[np.ndarray, "*z"]]:
    """The mean that is subtracted from z, and the standard deviation that z is divided by.

    Raises:
        ValueError: `latents` is not latents, or has another z_dim, or has no `latents.json`.
    """
    if latents is None:
        return np.zeros((), np.float32), np.ones((), np.float32)
    if not hasattr(type(latents), "z_std"):
        raise ValueError(f"normalise is a {type(latents).__name__}; give Latents, LatentSequences or None")
    mean, std = latents.z_mean, latents.z_std
    if len(mean) != z_dim:
        raise ValueError(f"normalise holds latents of z_dim {len(mean)}, the model has {z_dim}; give those it encoded")
    return mean.astype(np.float32), std.astype(np.float32)
