"""Foresight: how well memory models predict latents, measured as errors of frames.

Memory models (`memory.py`) learn (z_t, a_t) -> z_{t+1} on training episodes. On held-out episodes they predict 1, 10
and 50 steps ahead. They get the actions but no frame in between. The predictions are decoded and compared with the true
frames. The error is large for sharp latents that are hard to predict. It is also large for latents that are easy to
predict because they contain little.
"""

import dataclasses
import statistics
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from world_models.data.episode import Episode
from world_models.evaluate.foresight import memory
from world_models.evaluate.foresight.codes import Code, Frames, Images, code_of_pca, code_of_vae, encode_episode
from world_models.evaluate.foresight.memory import FORMS, EncodedEpisode, Form, Memory, State
from world_models.runs.score_parts import ForesightErrors
from world_models.runtime import progress, threads
from world_models.runtime.host import available_cores
from world_models.vae.baselines import Baselines
from world_models.vae.model import VAE

STEPS_AHEAD = (1, 10, 50)
WARM_UP = 20  # number of frames that the memory model reads before its first scored prediction
START_EVERY = 10  # predictions start at every tenth frame
TRAINING_STEPS = 1800  # three minutes on two cores; twice as many change the errors ten steps ahead by 1 to 6 %
NUM_SAMPLES = 5  # number of futures that are sampled from each start
SEEDS = (0, 1)  # seeds of the memory models on the V model's latents; those on PCA have only the first


class TrainedMemory(NamedTuple):
    """A memory model that was trained on the latents of a code, `vae` or `pca`."""

    code: str
    form: Form
    seed: int
    model: Memory


def train(encoded_episodes: Mapping[str, Sequence[EncodedEpisode]], num_steps: int) -> list[TrainedMemory]:
    """Train memory models of both forms for each code, at the same time, each on one core.

    Args:
        encoded_episodes: training episodes, by code.
        num_steps: number of training steps of each model.
    """
    seeds = {"vae": SEEDS, "pca": SEEDS[:1]}
    memories = [
        TrainedMemory(code, form, seed, _untrained(encoded_episodes[code][0], form, seed))
        for code, tried in seeds.items()
        for form in FORMS
        for seed in tried
    ]
    stopped, lock = threading.Event(), threading.Lock()
    bar = progress.bar(len(memories) * num_steps, "steps", "memories")

    def before_step() -> None:
        if stopped.is_set():
            raise InterruptedError
        with lock:
            bar.update()

    def fit(trained: TrainedMemory) -> None:
        memory.fit(trained.model, encoded_episodes[trained.code], trained.seed, num_steps, before_step)

    with bar, threads.single_threaded(), ThreadPoolExecutor(available_cores()) as pool:
        try:
            list(pool.map(fit, memories))
        finally:
            stopped.set()  # otherwise an interrupted command would wait until all models are trained
    return memories


def _untrained(example: EncodedEpisode, form: Form, seed: int) -> Memory:
    return memory.untrained(example.mu.shape[1], example.actions.shape[1], form, seed)


@torch.inference_mode()
def predict(
    model: Memory,
    episode: EncodedEpisode,
    starts: Sequence[int],
    ahead: Sequence[int],
    num_draws: int = 0,
) -> Float[Tensor, "ahead draws starts z"]:
    """Predict z some steps after each start. The model reads all frames up to the start, and all actions.

    Args:
        model: the memory model.
        episode: the episode.
        starts: rows from which predictions start, ascending, from 1 on.
        ahead: numbers of steps after the start, ascending.
        num_draws: number of futures that are sampled from each start; 0 feeds back the expected z, as one draw.
    """
    generator, draws = torch.Generator().manual_seed(0), max(1, num_draws)
    hidden, cell = (part.repeat(1, draws, 1) for part in _states_before(model, episode, starts))
    rows = torch.tensor(starts).repeat(draws)
    z, path = episode.mu[rows], []
    for step in range(max(ahead)):
        mixture, (hidden, cell) = model(z[:, None], episode.actions[rows + step][:, None], (hidden, cell))
        z = (mixture.sample(generator) if num_draws else mixture.mean)[:, 0]
        if step + 1 in ahead:
            path.append(z)
    return torch.stack(path).unflatten(1, (draws, len(starts)))


def _states_before(model: Memory, episode: EncodedEpisode, starts: Sequence[int]) -> State:
    """The LSTM's state before each start, in a batch."""
    states: list[State] = []
    state, done = None, 0
    for start in starts:
        _, state = model(episode.mu[None, done:start], episode.actions[None, done:start], state)
        states.append(state)
        done = start
    hidden, cell = (torch.cat(part, 1) for part in zip(*states, strict=True))
    return hidden, cell


def min_steps() -> int:
    """The smallest number of steps of an episode for which predictions can be scored."""
    return WARM_UP + max(STEPS_AHEAD)


@dataclasses.dataclass(frozen=True)
class Study:
    """Trained memory models of a V model's latents and of principal components.

    Attributes:
        codes: the codes `vae` and `pca`.
        memories: memory models of both codes.
    """

    codes: Mapping[str, Code]
    memories: Sequence[TrainedMemory]

    def score(self, episodes: Iterable[Episode]) -> dict[str, dict[str, ForesightErrors]]:
        """SSE of the predictions and of the baselines, mean over starts.

        Args:
            episodes: held-out episodes. Those shorter than `min_steps` are left out; at least one must be long enough.

        Returns:
            Errors by form, then by steps ahead.
        """
        long_enough = [episode for episode in episodes if len(episode) >= min_steps()]
        with threads.single_threaded(), ThreadPoolExecutor(available_cores()) as pool:
            found = list(pool.map(self._errors, long_enough))
        count = sum(len(_starts(episode)) for episode in long_enough)
        mean = {name: (torch.stack([errors[name] for errors in found]).sum(0) / count).tolist() for name in found[0]}
        return {form: _table(form, mean) for form in FORMS}

    @torch.inference_mode()
    def _errors(self, episode: Episode) -> dict[Any, Tensor]:
        """Squared errors by steps ahead, summed over an episode's starts."""
        starts = _starts(episode)
        frames, rows = torch.from_numpy(episode.frames), torch.tensor(starts)
        true_images = [_images(frames[rows + ahead]) for ahead in STEPS_AHEAD]
        recorded = {name: encode_episode(code, episode) for name, code in self.codes.items()}
        mu, decode = recorded["vae"].mu, self.codes["vae"].decode
        errors: dict[Any, Tensor] = {
            "stays": _squared([_images(frames[rows])] * len(true_images), true_images),
            "z_stays": _squared([decode(mu[rows])] * len(true_images), true_images),
            "reconstructed": _squared([decode(mu[rows + ahead]) for ahead in STEPS_AHEAD], true_images),
        }
        for code, form, seed, model in self.memories:
            path = predict(model, recorded[code], starts, STEPS_AHEAD)[:, 0]
            errors[code, form, seed, "foreseen"] = _squared([self.codes[code].decode(z) for z in path], true_images)
            if code == "vae":
                errors[code, form, seed, "sampled"] = _sampled(
                    self.codes[code], model, recorded[code], starts, true_images
                )
        return errors

    @torch.inference_mode()
    def dream(self, episode: Episode, start: int, num_frames: int) -> dict[str, UInt8[np.ndarray, "frames 64 64 3"]]:
        """The true frames after a start, their reconstructions, and the dreams of the first memory model of each form.

        Args:
            episode: a held-out episode.
            start: the last frame that the memory models read.
            num_frames: number of frames after it.
        """
        ahead, code = range(1, num_frames + 1), self.codes["vae"]
        recorded = encode_episode(code, episode)
        z = {"reconstructed": recorded.mu[start + 1 : start + 1 + num_frames]}
        for trained in self.memories:
            if trained.code == "vae" and trained.seed == SEEDS[0]:
                z[trained.form] = predict(trained.model, recorded, [start], ahead)[:, 0, 0]
        true_frames = episode.frames[start + 1 : start + 1 + num_frames]
        decoded = {name: _frames(code.decode(each), true_frames.shape) for name, each in z.items()}
        return {"true_frames": true_frames} | decoded


def train_study(
    vae: VAE,
    baselines: Baselines,
    episodes: Iterable[Episode],
    frames: UInt8[np.ndarray, "_ 64 64 3"],
    num_steps: int = TRAINING_STEPS,
) -> Study:
    """Train memory models on a V model's latents and on principal components.

    Args:
        vae: the V model.
        baselines: principal components of its training frames.
        episodes: training episodes, read once.
        frames: some training frames; the components are scaled by their variance.
        num_steps: number of training steps of each memory model.
    """
    codes = {"vae": code_of_vae(vae), "pca": code_of_pca(baselines, torch.from_numpy(frames))}
    encoded_episodes: dict[str, list[EncodedEpisode]] = {name: [] for name in codes}
    for episode in episodes:
        for name, code in codes.items():
            encoded_episodes[name].append(encode_episode(code, episode))
    return Study(codes, train(encoded_episodes, num_steps))


def _table(form: Form, mean: Mapping[Any, Sequence[float]]) -> dict[str, ForesightErrors]:
    table = {}
    for index, ahead in enumerate(STEPS_AHEAD):
        by_seed = [mean["vae", form, seed, "foreseen"][index] for seed in SEEDS]
        table[str(ahead)] = ForesightErrors(
            foreseen=statistics.mean(by_seed),
            foreseen_by_seed=by_seed,
            sampled=statistics.mean(mean["vae", form, seed, "sampled"][index] for seed in SEEDS),
            stays=mean["stays"][index],
            z_stays=mean["z_stays"][index],
            reconstructed=mean["reconstructed"][index],
            pca=mean["pca", form, SEEDS[0], "foreseen"][index],
        )
    return table


def _starts(episode: Episode) -> range:
    """Rows from which predictions start."""
    return range(WARM_UP, len(episode) - max(STEPS_AHEAD) + 1, START_EVERY)


def _frames(images: Images, shape: Sequence[int]) -> np.ndarray:
    return (images * 255).round().clamp(0, 255).to(torch.uint8).numpy().reshape(shape)


def _images(frames: Frames) -> Images:
    return frames.flatten(1).float() / 255


def _squared(images: Sequence[Images], true_images: Sequence[Images]) -> Float[Tensor, " ahead"]:
    return torch.stack([(a - b).square().sum(dtype=torch.float64) for a, b in zip(images, true_images, strict=True)])


def _sampled(
    code: Code, model: Memory, episode: EncodedEpisode, starts: Sequence[int], true_images: Sequence[Images]
) -> Float[Tensor, " ahead"]:
    """Squared error of the expected image, which is estimated by the mean of K decoded samples.

    The mean of K samples has a variance. It is estimated from the samples and subtracted. So the result does not depend
    on K, except for chance.
    """
    errors = []
    for futures, images in zip(predict(model, episode, starts, STEPS_AHEAD, NUM_SAMPLES), true_images, strict=True):
        drawn = code.decode(futures.flatten(0, 1)).unflatten(0, futures.shape[:2])
        excess = drawn.var(0).sum(dtype=torch.float64) / NUM_SAMPLES
        errors.append((drawn.mean(0) - images).square().sum(dtype=torch.float64) - excess)
    return torch.stack(errors)
