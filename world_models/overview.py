"""What a data set of rollouts holds: in print, and as a contact sheet."""

import json
import os
from collections.abc import Sequence

import numpy as np

from world_models import figures
from world_models.rollouts import Rollouts


def show(data: Rollouts) -> None:
    """Print what a data set holds, and draw a contact sheet of it."""
    returns = data.returns()
    size = sum(shard.path.stat().st_size for shard in data.shards)
    given = f" with {json.dumps(data.env_args)}" if data.env_args else ""
    print(f"{data.path}: {data.env}{given}, whole, every digest right")
    print(f"  episodes   {len(data)} in {len(data.shards)} shards, seeds {data.seeds.min()}..{data.seeds.max()}")
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
