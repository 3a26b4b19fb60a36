"""The page of several runs: a self-contained HTML file with their numbers, curves, settings and reconstructions."""

from collections.abc import Sequence

from world_models.compare import table
from world_models.compare.frames import FrameRows
from world_models.drawing import grids, pages
from world_models.runs.records import RunRecord


def page(runs: Sequence[RunRecord], curves: grids.Picture, frames: FrameRows | None, notes: Sequence[str] = ()) -> str:
    """Make the comparison as HTML.

    Args:
        runs: the runs, best first.
        curves: the picture of their curves.
        frames: frames and their reconstructions, if any are shown.
        notes: what is left out, and why.
    """
    return pages.render(
        "compare.html",
        runs=runs,
        curves=curves,
        frames=frames,
        notes=notes,
        conflicts=table.conflicts(runs),
        numbers=table.table(runs),
        columns=table.known_columns(runs),
        differences=table.differences(runs),
        provenance=table.provenance,
    )
