"""Draws driven tracks as small maps with the road, the car's path and the return."""

from typing import TYPE_CHECKING

import numpy as np

from world_models.drawing.charts import rendered
from world_models.drawing.grids import Picture
from world_models.evaluate.driving.lockstep import DriveResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = 20
COLUMNS = 5
ROAD_WIDTH_M = 40 / 3
SIDE_IN = 1.9
POINTS_PER_IN = 72


def draw(driven: DriveResult) -> Picture:
    """Draw up to 20 tracks, evenly spread from the worst to the best."""
    returns = driven.returns
    order = np.argsort(returns, kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, min(SHOWN, len(order))).astype(int)]
    rows = -(-len(chosen) // COLUMNS)

    def draw_all(figure: "Figure") -> None:
        axes = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
        for each in axes:
            each.set_axis_off()
        for each, track in zip(axes, chosen.tolist(), strict=False):
            _draw_track(each, driven, track)

    return rendered(draw_all, COLUMNS * SIDE_IN, rows * (SIDE_IN + 0.25))


def _draw_track(axes: "Axes", driven: DriveResult, track: int) -> None:
    """Draw the road in grey with its true width, the path over it, a dot at the start and a cross at the end."""
    outline, path = driven.outlines_m[track], driven.paths_m[track]
    closed = np.concatenate([outline, outline[:1]])
    extent_m = float(np.ptp(outline, axis=0).max()) + 4 * ROAD_WIDTH_M
    middle = (outline.max(0) + outline.min(0)) / 2
    width = ROAD_WIDTH_M / extent_m * SIDE_IN * POINTS_PER_IN
    axes.plot(*closed.T, color="lightgray", linewidth=width, solid_joinstyle="round", zorder=1)
    axes.plot(*path.T, color="tab:blue", linewidth=1, zorder=2)
    axes.plot(*path[0], "o", color="tab:green", markersize=4, zorder=3)
    axes.plot(*path[-1], "x", color="tab:red", markersize=5, zorder=3)
    half = extent_m / 2
    axes.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half), aspect="equal")
    finished = ", lap" if driven.finished[track] else ""
    axes.set_title(f"{driven.returns[track]:.0f}{finished}", fontsize=9)
