"""The frames on the page and their numbers: episodes of rollouts, or test images of MNIST.

Each kind of data has a class. It is opened and checked before the work begins, and read during the work.
"""

import abc
import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from world_models.data import mnist
from world_models.data.frames import FrameSet
from world_models.data.rollouts import Rollouts
from world_models.explore.config import ExploreConfig
from world_models.runs import description, provenance
from world_models.runs.artifacts import Product
from world_models.runs.description import Description
from world_models.runtime.errors import require
from world_models.vae.labelled_frames import LabelledFrames
from world_models.vae.model import VAE

HELD_OUT = "rollouts/heldout"
NUM_EPISODES = 2
FRAMES_PER_S = 50
ACTION_NAMES = {"CarRacing-v3": ("steering", "gas", "brake")}
UNITS = {
    "_px_per_m": "px/m",
    "_rad_per_s": "rad/s",
    "_m_per_s": "m/s",
    "_per_m": "1/m",
    "_rad": "rad",
    "_m": "m",
    "_s": "s",
}
"""The unit at the end of a telemetry column's name, and how the page writes it."""


class Column(NamedTuple):
    """The name and the unit of a column of telemetry, as the page shows them."""

    name: str
    unit: str

    def __str__(self) -> str:
        return f"{self.name} [{self.unit}]" if self.unit else self.name


def column(name: str) -> Column:
    """Split the name of a telemetry column into words and unit.

    Example:
        >>> column("velocity_along_m_per_s")
        Column(name='velocity along', unit='m/s')
    """
    end = next((end for end in UNITS if name.endswith(end) and len(name) > len(end)), "")
    words = re.sub(r"(\d)([a-z])\b", r"\1 \2", name.removesuffix(end).replace("_", " "))
    return Column(words, UNITS.get(end, ""))


@dataclasses.dataclass(frozen=True)
class Clip:
    """Frames that the page plays or shows, in order.

    Attributes:
        name: name of the episode.
        frames: the frames.
        labels: each frame's class; all are 0 if there are no classes.
        seed: seed of the environment; None for digits.
        policy: the policy that drove; None for digits.
        rewards: the reward of the action that was chosen at each frame; None for digits.
        actions: these actions; None for digits.
        telemetry: the simulator's state at each frame; None for digits.
    """

    name: str
    frames: UInt8[np.ndarray, "frames height width channels"]
    labels: Int64[np.ndarray, " frames"]
    seed: int | None = None
    policy: str | None = None
    rewards: Float32[np.ndarray, " frames"] | None = None
    actions: Float32[np.ndarray, "frames A"] | None = None
    telemetry: Float32[np.ndarray, "frames S"] | None = None

    @property
    def labelled(self) -> LabelledFrames:
        """The frames with their classes, as a model takes them."""
        return LabelledFrames(self.frames, self.labels)


class Sample(NamedTuple):
    """Frames that are evenly spread over the data, for the statistics of z.

    Attributes:
        frames: the frames.
        telemetry: the simulator's state at each frame.
        episodes: number of the episode of each frame.
    """

    frames: LabelledFrames
    telemetry: Float32[np.ndarray, "frames S"]
    episodes: Int64[np.ndarray, " frames"]


class Shown(abc.ABC):
    """Checked data, not yet read.

    Attributes:
        product: the data set, for W&B.
        num_frames: number of frames that are shown.
        notes: what is wrong with the choice of the frames.
        env: the environment; None for digits.
        telemetry_names: the columns of telemetry, as the data name them.
        action_names: the columns of the actions.
        is_of_digits: whether the frames are digits, with their classes as labels.
    """

    product: Product
    num_frames: int
    notes: Sequence[str] = ()
    env: str | None = None
    telemetry_names: Sequence[str] = ()
    action_names: Sequence[str] = ()
    is_of_digits = False

    @abc.abstractmethod
    def clips(self) -> list[Clip]:
        """Read the frames that are shown."""

    @abc.abstractmethod
    def sample(self, count: int) -> Sample:
        """Read up to `count` evenly spread frames of all data that no model was trained on."""


class ShownEpisodes(Shown):
    """Episodes of rollouts.

    Args:
        data: the rollouts.
        runs: folders of the models.
        config: which episodes, and how many frames of each.

    Raises:
        FileNotFoundError, ValueError: there is no such episode, or a run does not name its training data.
    """

    def __init__(self, data: Rollouts, runs: Sequence[Path], config: ExploreConfig):
        self._data, self._max_frames = data, config.max_frames
        trained_on = set[int]().union(*(provenance.load(run).trained_seeds(data) for run in runs))
        unseen = [episode for episode, seed in enumerate(data.seeds.tolist()) if seed not in trained_on]
        wrong = next((each for each in config.episodes if each >= len(data)), None)
        require(
            wrong is None, f"{data.path}: has no episode {wrong}; its {len(data)} episodes are 0 to {len(data) - 1}"
        )
        self._episodes = config.episodes or tuple((unseen or range(len(data)))[:NUM_EPISODES])
        self._sampled = unseen or [*range(len(data))]
        seen = [str(episode) for episode in self._episodes if episode not in unseen]
        if seen:
            self.notes = [
                f"a model was trained on episode {', '.join(seen)} of {data.path}, so its reconstructions are too "
                "good; collect with another --seed"
            ]
        self.product = Product("dataset", str(data.path), data.digest())
        self.num_frames = sum(min(int(data.lengths[episode]), config.max_frames) for episode in self._episodes)
        self.env = data.env
        self.telemetry_names = data.telemetry_names
        numbered = [f"action {number}" for number in range(data.num_actions)]
        known = ACTION_NAMES.get(data.env, ())
        self.action_names = known if len(known) == data.num_actions else numbered

    def clips(self) -> list[Clip]:
        """Read the episodes that are shown."""
        return [self._clip(episode) for episode in self._episodes]

    def _clip(self, number: int) -> Clip:
        episode = self._data[number]
        rows = slice(min(self._max_frames, len(episode.frames)))
        ended = np.zeros(1, np.float32)  # no action follows the final frame
        frames = episode.frames[rows]
        return Clip(
            name=f"seed {episode.seed}, {episode.policy}",
            frames=frames,
            labels=np.zeros(len(frames), np.int64),
            seed=episode.seed,
            policy=episode.policy,
            rewards=np.concatenate([episode.rewards, ended])[rows],
            actions=np.pad(episode.actions, ((0, 1), (0, 0)))[rows],
            telemetry=episode.telemetry[rows],
        )

    def sample(self, count: int) -> Sample:
        """Read frames of the episodes that no model was trained on."""
        source = FrameSet(self._data, self._sampled)
        episodes = np.repeat(np.arange(len(self._sampled)), self._data.lengths[self._sampled])
        return Sample(
            LabelledFrames.of_one_class(source.read_spread(count)),
            source.read_spread(count, "telemetry"),
            episodes[source.spread_positions(count)],
        )


class ShownDigits(Shown):
    """Test images of MNIST.

    Args:
        path: MNIST's folder.
        digits: MNIST.
        max_frames: number of images that are shown.
    """

    is_of_digits = True

    def __init__(self, path: str, digits: mnist.Mnist, max_frames: int):
        self._source = digits.test.as_frames()
        self.product = Product("dataset", path, digits.digest)
        self.num_frames = min(max_frames, len(self._source))

    def clips(self) -> list[Clip]:
        """The test images that are shown."""
        frames, labels = self._read(self.num_frames)
        return [Clip("MNIST's test images", frames, labels)]

    def sample(self, count: int) -> Sample:
        """Test images."""
        frames, labels = self._read(count)
        nothing = np.zeros((len(frames), 0), np.float32)
        return Sample(LabelledFrames(frames, labels), nothing, np.zeros(len(frames), np.int64))

    def _read(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        return self._source.read_spread(count), self._source.labels[self._source.spread_positions(count)]


def prepare_episodes(config: ExploreConfig, models: Sequence[tuple[Path, VAE]]) -> Shown:
    """Open rollouts, and check that all models take such frames.

    Raises:
        FileNotFoundError, ValueError: something is missing or damaged, or a model takes other frames.
    """
    data = Rollouts(config.data or HELD_OUT)
    for run, vae in models:
        provenance.check_preprocess(data.preprocess, data.path, vae, str(run))
    return ShownEpisodes(data, [run for run, _ in models], config)


def prepare_digits(config: ExploreConfig, models: Sequence[tuple[Path, VAE]]) -> Shown:
    """Open MNIST.

    Raises:
        FileNotFoundError, ValueError: something is missing or damaged, or a setting is only for rollouts.
    """
    run = models[0][0]
    require(not config.episodes, f"{run}: a model of MNIST's digits, which have no episodes; leave out episodes")
    folder = config.data or description.load(run).trained_on.data
    if folder is None:
        raise description.missing_parts_error(run, "data")
    return ShownDigits(folder, mnist.load(folder), config.max_frames)


def prepare(config: ExploreConfig, found: Description, models: Sequence[tuple[Path, VAE]]) -> Shown:
    """Open the data of the kind that the first model was trained on.

    Args:
        config: the settings.
        found: the first model's description.
        models: the models and their folders.

    Raises:
        FileNotFoundError, ValueError: something is missing, damaged, or does not suit a model.
    """
    return KINDS.get(found.trained_on.dataset, prepare_episodes)(config, models)


KINDS: dict[str, Callable[[ExploreConfig, Sequence[tuple[Path, VAE]]], Shown]] = {
    "rollouts": prepare_episodes,
    "mnist": prepare_digits,
}
