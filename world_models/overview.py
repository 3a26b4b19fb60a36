"""What a data set of rollouts holds: in print, and as a contact sheet."""

import json
import os
from collections.abc import Sequence

import numpy as np

from world_models import figures
from world_models.rollouts import Rollouts


def verified(path: str) -> Rollouts:
    """Open a data set, every column compared with its digest, and its actions and rewards looked at.

    Raises:
        FileNotFoundError, ValueError: as `Rollouts`; or an action or a reward is no number that can be learned from.
    """
    data = Rollouts(path, verify=True)
    for shard in data.shards:
        for name in ("actions", "rewards"):
            values = shard.read(name)
            wrong = np.flatnonzero(~np.isfinite(values).all(axis=tuple(range(1, values.ndim))))
            if len(wrong):
                episode = int(np.searchsorted(shard.starts, wrong[0], side="right")) - 1
                step = wrong[0] - shard.starts[episode] + 1
                raise ValueError(
                    f"{shard.path}: {len(wrong)} of {len(values)} rows of {name} are not finite, the first at step "
                    f"{step} of the episode of seed {shard.seeds[episode]}, driven by {shard.policies[episode]}; mend "
                    "what gave them, delete the data set and collect it again"
                )
    return data


def show(data: Rollouts) -> None:
    """Print what a data set holds, and draw a contact sheet of it."""
    returns = data.returns()
    size = sum(shard.path.stat().st_size for shard in data.shards)
    given = f" with {json.dumps(data.env_args)}" if data.env_args else ""
    print(f"{data.path}: {data.env}{given}, whole, every digest right")
    print(f"  episodes   {len(data)} in {len(data.shards)} shards, seeds {data.seeds.min()}..{data.seeds.max()}")
    if data.skipped_seeds:
        print(f"  left out   {len(data.skipped_seeds)} episodes, which ended in their warm-up")
    print(f"  frames     {data.num_rows:,}, {size / data.num_rows:,.0f} bytes each, {size / 1e6:,.1f} MB in all")
    print(f"  steps      {data.lengths.min() - 1}..{data.lengths.max() - 1} an episode")
    print(f"  preprocess {json.dumps(data.preprocess)}")
    print(f"  telemetry  {', '.join(data.telemetry_names) or 'none'}")
    for name in sorted(set(data.policies)):
        drove = np.array([policy == name for policy in data.policies])
        print(f"  {name:10} {drove.sum()} episodes, return {_spread(returns[drove])}")
    folder = data.path if data.path.is_dir() else data.path.parent
    sheet = folder / "contact_sheet.png"
    if os.access(folder, os.W_OK):
        figures.save(sheet, figures.contact_sheet(data))
        print(f"  pictures   {sheet}")
    else:
        print(f"  pictures   none, {folder} cannot be written to")


def _spread(values: Sequence[float] | np.ndarray) -> str:
    """Least, median and greatest."""
    low, middle, high = np.percentile(values, [0, 50, 100])
    return f"{low:.1f} .. {middle:.1f} .. {high:.1f}"
