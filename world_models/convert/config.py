"""Settings of a conversion."""

import dataclasses
from pathlib import Path
from typing import Literal

from world_models.convert import conditions
from world_models.envs.preprocessing import Preprocess, parse_crop
from world_models.runtime.errors import require, require_bounds
from world_models.runtime.executors import Executor
from world_models.runtime.paths import PATH, resolve_fields

FormatName = Literal["auto", "rollouts", "npz", "images", "video", "series", "parquet", "minari", "lerobot"]


@dataclasses.dataclass(frozen=True)
class Keys:
    """Names of the arrays in an npz file.

    Attributes:
        frames: pictures, uint8 (rows, height, width, 3).
        actions: the action chosen after seeing each picture; null for none.
        rewards: what that action earned; null for none.
        terminated: whether that action ended the episode; null for never.
    """

    frames: str | None = None
    actions: str | None = None
    rewards: str | None = None
    terminated: str | None = None

    def __post_init__(self):
        is_empty = self.actions is None and self.rewards is None and self.terminated is None
        require(self.frames is not None or is_empty, "keys.frames is empty; name the array of pictures, too")


@dataclasses.dataclass(frozen=True)
class MinariSettings:
    """What a Minari data set holds and says of itself.

    Attributes:
        observations: latents only: mu, with logvar in the infos; or mu_logvar, a dict of both.
        author: who has made the data.
        author_email: how to reach the author.
        code_permalink: address of the code that has made the data.
    """

    observations: Literal["mu", "mu_logvar"] = "mu"
    author: str = "unknown"
    author_email: str = "unknown"
    code_permalink: str = "unknown"

    def __post_init__(self):
        for name in ("author", "author_email", "code_permalink"):
            text = getattr(self, name)
            is_line = bool(text.strip()) and text.isprintable()
            require(is_line, f"minari.{name} is {text!r}; give a line of text, or leave it out")


@dataclasses.dataclass(frozen=True)
class LerobotSettings:
    """What a LeRobot data set says of itself.

    Attributes:
        fps: frames per second. LeRobot asks for them; 50 are those of CarRacing.
        task: what the driver was asked to do, in words.
    """

    fps: int = 50
    task: str = "drive"

    def __post_init__(self):
        require_bounds(self, fps=(1, 1000))
        is_line = bool(self.task.strip()) and self.task.isprintable()
        require(is_line, f"lerobot.task is {self.task!r}; give a line of text, or leave it out")


@dataclasses.dataclass(frozen=True)
class ConvertConfig:
    """What to convert, and into what.

    Attributes:
        data: what is read: a folder or a file; several data sets of rollouts as '[a,b]' are merged.
        out: what is written: a folder; for the format series the .npz file.
        format: format that is read, or, if data holds our rollouts or latents, that is written; auto finds out what
            is read, and merges rollouts.
        env: name of the environment that the frames come from; null takes the name of the format that is read.
        crop: rows of each picture to keep: none, or TOP:BOTTOM; they are resized to 64x64, the paper's size.
        every: of a video, take each n-th frame.
        keys: names of the arrays in npz files that are neither of ctallec's nor of hardmaru's layout. keys.frames also
            names the image in the observations of a Minari data set.
        camera: of a LeRobot data set with several cameras, the one to read, such as top or observation.images.top.
        keep: rollouts only: keep the episodes that meet all of these conditions, such as 'return>=0' or seed=3,7.
        drop: rollouts only: leave out the episodes that meet one of these conditions, such as policy=brownian.
        skip_broken: leave out episodes that cannot be read; otherwise the first one ends the work.
        minari: what is written as a Minari data set.
        lerobot: what is written as a LeRobot data set.
        rows: number of rows of each sequence that series holds. Longer episodes are cut, shorter ones left out.
        episodes_per_shard: number of episodes in a file of rollouts.
        num_workers: number of processes; 0 for one per core.
        executor: where the work runs: processes or serial.
    """

    data: tuple[str, ...] | str = dataclasses.field(default=(), metadata=PATH)
    out: str | None = dataclasses.field(default=None, metadata=PATH)
    format: FormatName = "auto"
    env: str | None = None
    crop: str = "none"
    every: int = 1
    keys: Keys = dataclasses.field(default_factory=Keys)
    camera: str | None = None
    keep: tuple[str, ...] | str = ()
    drop: tuple[str, ...] | str = ()
    skip_broken: bool = False
    minari: MinariSettings = dataclasses.field(default_factory=MinariSettings)
    lerobot: LerobotSettings = dataclasses.field(default_factory=LerobotSettings)
    rows: int = 1000
    episodes_per_shard: int = 10
    num_workers: int = 0
    executor: Executor = "processes"

    def __post_init__(self):
        require(len(self.data) > 0, "data is empty; name what to convert, as in --data FOLDER")
        require(self.out is not None, "out is empty; name what to write, as in --out rollouts/name")
        resolve_fields(self)
        for source in self.sources:
            is_inside = Path(str(self.out)).is_relative_to(source)
            require(not is_inside, f"out is {self.out}, which is in data; give an --out elsewhere")
        require(len(set(self.sources)) == len(self.sources), "data names one data set twice; name each once")
        require(self.env is None or bool(self.env.strip()), "env is empty; name the environment, or leave it out")
        require_bounds(
            self,
            every=(1, 1_000_000),
            rows=(2, 2**31 - 1),
            episodes_per_shard=(1, 100_000_000),
            num_workers=(0, 10_000),
        )
        Preprocess(parse_crop(self.crop, None))
        for name in ("minari", "lerobot"):
            if self.format != name:
                self.check_unused(name, reason=f"format is {self.format}")
        for name in ("keep", "drop"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
            conditions.parse(getattr(self, name), name)

    @property
    def sources(self) -> tuple[str, ...]:
        """What is read, as a tuple of paths."""
        return (self.data,) if isinstance(self.data, str) else tuple(self.data)

    def check_unused(self, *names: str, reason: str) -> None:
        """Refuse settings that would be ignored.

        Args:
            names: names of settings that have to be left at their defaults.
            reason: why they have no use here, for the message.

        Raises:
            ValueError: one has another value.
        """
        fields = {field.name: field for field in dataclasses.fields(self)}
        for name in names:
            make, default = fields[name].default_factory, fields[name].default
            unused = getattr(self, name) == (default if make is dataclasses.MISSING else make())
            require(unused, f"{name} is given, but {reason}; leave --{name} out")
