"""compare.png: curves of several runs over the frames seen, and their KL against squared error."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from world_models.drawing import charts, grids
from world_models.runs.rate_distortion import pca_levels, rate_points
from world_models.runs.records import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = {
    "val/sse": "SSE per frame, held out",
    "val/kl_nats": "KL in nats per frame, held out",
    "train/sse": "SSE per frame, in training",
    "train/kl_nats": "KL in nats per frame, in training",
}


MANY = 15  # a curve with this many points or more has no markers


def draw(runs: Sequence[RunRecord]) -> grids.Picture:
    """Draw the runs' curves. The first twelve runs have their own colours; the others are grey."""
    names = [run.name for run in runs]
    colour = charts.colours(names)

    def panels(figure: "Figure") -> None:
        axes = figure.subplots(2, 3)
        for place, metric in zip(axes[:, :2].flat, PANELS, strict=True):
            _draw_curves(place, runs, metric, colour)
        charts.draw_rate_distortion(axes[0, 2], rate_points(runs), pca_levels(runs), colour)
        axes[0, 2].set_title("rate and distortion (hollow: by validation)", fontsize=10)
        axes[1, 2].axis("off")
        axes[1, 2].legend(*charts.legend(names), loc="upper left", frameon=False, fontsize=9)

    return charts.rendered(panels, 15.0, 8.0)


def _draw_curves(axes: "Axes", runs: Sequence[RunRecord], metric: str, colour: Mapping[str, charts.Colour]) -> None:
    """Draw one metric over the frames seen, one line per run, with the first run on top."""
    from matplotlib.ticker import EngFormatter

    series = {run.name: run.series(metric) for run in reversed(runs)}
    for name, points in series.items():
        if points:
            axes.plot(*zip(*points, strict=True), color=colour[name], marker="." if len(points) < MANY else None)
    axes.set_title(PANELS[metric], fontsize=10)
    axes.set_xlabel("frames seen")
    axes.set_xlim(0)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 20k, 1.5M
    axes.grid(alpha=0.3)
    charts.fit_y_axis(axes, [value for points in series.values() for _, value in points])
