"""A trial of a collection's first steps. It finds errors before the collection begins, and shows the first frames."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from world_models import envs
from world_models.drawing import grids
from world_models.envs import live_episode, observations

FIRST_FRAMES = "first_frames.png"
"""Name of a picture in the data set's folder: the environment's first picture, and a row of frames for each policy."""
NUM_FRAMES = 8
"""Number of frames in a row."""
SHOWN_HEIGHT = 128
"""Height of the environment's first picture, in pixels."""


@dataclasses.dataclass(frozen=True)
class TrialResult:
    """The result of a trial.

    Attributes:
        frames_line: one line that says how frames are made.
        first_frames: the picture to save as `FIRST_FRAMES`.
    """

    frames_line: str
    first_frames: grids.Picture


def drive(env: envs.FrameEnv, policies: Sequence[str], seeds: range, warmup_steps: int, max_steps: int) -> TrialResult:
    """Let every policy drive a few steps of the first episode that does not end during its warm-up.

    Raises:
        Stopped: a policy or the environment gives a value that cannot be stored.
        ValueError: every episode ends during its warm-up, or the observations are symbols instead of pictures.
    """
    rows: list[UInt8[np.ndarray, "frames 64 64 3"]] = []
    shown: list[np.ndarray] = []
    for name in policies:
        live, seeds = _first_episode(env, name, seeds, warmup_steps)
        frames = [live.frame]
        shown.append(_picture(env))
        while len(frames) < min(NUM_FRAMES, max_steps + 1):
            _, terminated, truncated = live.step(live.act())
            frames.append(live.frame)
            shown.append(_picture(env))
            if terminated or truncated:
                break
        rows.append(np.stack(frames))
    _check_colours(env, shown)
    labels = [f"{name}\nseed {seeds.start}" for name in policies]
    return TrialResult(_frames_line(env), _sheet(shown[0], grids.labelled(grids.grid(rows), labels)))


def _first_episode(
    env: envs.FrameEnv, policy: str, seeds: range, warmup_steps: int
) -> tuple[live_episode.LiveEpisode, range]:
    """The first episode that does not end during its warm-up, and the seeds from its seed on."""
    for index, seed in enumerate(seeds):
        live = live_episode.begin(env, policy, seed, warmup_steps)
        if live:
            return live, seeds[index:]
    raise ValueError(
        f"each of the {len(seeds)} episodes (seeds {seeds[0]} to {seeds[-1]}) ended within {warmup_steps} warm-up "
        "steps; give fewer --warmup_steps"
    )


def _picture(env: envs.FrameEnv) -> np.ndarray:
    assert env.picture is not None
    return env.picture.copy()


def _check_colours(env: envs.FrameEnv, shown: Sequence[np.ndarray]) -> None:
    """Refuse symbols that have a picture's shape. Black pictures are accepted, because later ones may be brighter."""
    highest = max(int(picture.max()) for picture in shown)
    if not env.from_render and 0 < highest <= observations.MAX_SYMBOL:
        raise ValueError(
            f"{env.name} observes {observations.sizes(shown[0].shape)} with no value above {highest} in its first "
            f"{len(shown)} pictures: symbols, not colours; wrap it so that it observes {observations.WANTED}"
        )


def _frames_line(env: envs.FrameEnv) -> str:
    shape, crop = _picture(env).shape, env.preprocess.crop
    size = observations.sizes(shape) + ("" if shape[2:] == (3,) else " grey")
    name = "" if env.picture_name is None else f"[{env.picture_name!r}]"
    source = f"render(), {size}" if env.from_render else f"observations{name} {size}"
    rows = f", rows {crop[0]}:{crop[1]}" if crop else ""
    reason = f" (observations are {observations.why_no_pictures(env.env)})" if env.from_render else ""
    return f"frames: {source}{rows} -> {env.preprocess.size}x{env.preprocess.size}{reason}"


def _sheet(picture: np.ndarray, frames: grids.Picture) -> grids.Picture:
    """The environment's picture, with its own aspect ratio, to the left of the frames."""
    rgb = Image.fromarray(picture.reshape(picture.shape[:2]) if picture.shape[2:] == (1,) else picture).convert("RGB")
    width = min(4 * SHOWN_HEIGHT, max(1, round(SHOWN_HEIGHT * rgb.width / rgb.height)))
    canvas = Image.new("RGB", (width + 2 * grids.GAP + frames.shape[1], frames.shape[0]), "white")
    canvas.paste(rgb.resize((width, SHOWN_HEIGHT)), (grids.GAP, grids.GAP))
    canvas.paste(Image.fromarray(frames), (width + 2 * grids.GAP, 0))
    return np.asarray(canvas)
