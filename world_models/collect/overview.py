"""Describe a data set of rollouts: as text, and as a contact sheet."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from world_models.data.rollouts import Rollouts
from world_models.data.shards import SKIPPED_SOURCES
from world_models.drawing import grids
from world_models.runtime.terminal import say


def show(data: Rollouts) -> None:
    """Print what a data set holds, and draw its contact sheet."""
    returns = data.returns()
    size = sum(shard.path.stat().st_size for shard in data.shards)
    given = f" with {json.dumps(data.env_args)}" if data.env_args else ""
    say(f"{data.path}: {data.env}{given}, complete, every digest correct")
    say(f"  episodes   {len(data)} in {len(data.shards)} shards, seeds {data.seeds.min()}..{data.seeds.max()}")
    if data.skipped_seeds:
        is_imported = any(SKIPPED_SOURCES in shard.attributes for shard in data.shards)
        reason = "could not be read" if is_imported else "ended during their warm-up"
        say(f"  left out   {len(data.skipped_seeds)} episodes, which {reason}")
    say(f"  frames     {data.num_rows:,}, {size / data.num_rows:,.0f} bytes each, {size / 1e6:,.1f} MB in all")
    say(f"  steps      {data.lengths.min() - 1}..{data.lengths.max() - 1} an episode")
    say(f"  preprocess {json.dumps(data.preprocess)}")
    say(f"  telemetry  {', '.join(data.telemetry_names) or 'none'}")
    for name in sorted(set(data.policies)):
        is_driver = np.array([policy == name for policy in data.policies])
        say(f"  {name:10} {is_driver.sum()} episodes, return {_spread(returns[is_driver])}")
    sheet = sheet_path(data)
    if os.access(sheet.parent, os.W_OK):
        grids.save(sheet, contact_sheet(data))
        say(f"  pictures   {sheet}")
    else:
        say(f"  pictures   none, because {sheet.parent} is not writable")


def contact_sheet(data: Rollouts, num_episodes: int = 8, num_frames: int = 10) -> grids.Picture:
    """A picture with one row for each of `num_episodes` episodes, spread over the data set.

    A row shows `num_frames` frames, from the episode's first to its last.
    """
    chosen = np.unique(np.linspace(0, len(data) - 1, num_episodes).astype(int))
    rows, labels = [], []
    for index in chosen:
        episode = data[int(index)]
        rows.append(episode.frames[np.linspace(0, len(episode), num_frames).astype(int)])
        labels.append(
            f"seed {episode.seed}\n{episode.policy}\n{len(episode)} steps\nreturn {episode.rewards.sum():.0f}"
        )
    return grids.labelled(grids.grid(rows), labels)


def sheet_path(data: Rollouts) -> Path:
    """The path of a data set's contact sheet."""
    return (data.path if data.path.is_dir() else data.path.parent) / "contact_sheet.png"


def _spread(values: Sequence[float] | np.ndarray) -> str:
    """Minimum, median and maximum, as text."""
    low, middle, high = np.percentile(values, [0, 50, 100])
    return f"{low:.1f} .. {middle:.1f} .. {high:.1f}"
