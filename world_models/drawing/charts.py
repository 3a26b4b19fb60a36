"""Charts as pictures, by matplotlib: bars, curves, heat maps, KL against squared error."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from world_models.drawing.grids import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Colour = str | tuple[float, float, float, float]
"""A colour's name, or red, green, blue and opacity from 0 to 1."""


def rendered(draw: Callable[["Figure"], Any], width: float, height: float) -> Picture:
    """Draw a matplotlib figure, without a display and without pyplot's global state.

    Args:
        draw: draws into the figure.
        width: width in units of 100 pixels.
        height: height in units of 100 pixels.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"text.parse_math": False}):  # a name with $ would be parsed as a formula, and may fail
        figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
        draw(figure)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _rendered(draw: Callable[["Axes"], None], width: float = 8.0, height: float = 3.0) -> Picture:
    """Draw a figure with one pair of axes."""
    return rendered(lambda figure: draw(figure.add_subplot()), width, height)


def bars(heights: Float[np.ndarray, " bars"], labels: Sequence[int], xlabel: str, ylabel: str) -> Picture:
    """Draw a bar chart."""

    def draw(axes: "Axes") -> None:
        axes.bar(np.arange(len(heights)), heights)
        axes.set_xticks(np.arange(len(heights)), map(str, labels), fontsize=7)
        axes.set(xlabel=xlabel, ylabel=ylabel)

    return _rendered(draw)


def curves(
    lines: Sequence[Mapping[str, float | int]], names: Sequence[str], levels: Mapping[str, Mapping[str, float]]
) -> Picture:
    """Draw metrics over the frames seen, side by side.

    Args:
        lines: lines of metrics.jsonl.
        names: names of the metrics.
        levels: labelled horizontal lines, by metric and label.
    """

    def draw(name: str, axes: "Axes") -> None:
        axes.plot([line["frames_seen"] for line in lines], [line[name] for line in lines], marker=".")
        for label, level in levels.get(name, {}).items():
            axes.axhline(level, color="gray", linestyle="--", label=label)
            axes.legend()
        axes.set(xlabel="frames seen", ylabel=name, ylim=(0, None))

    return np.concatenate([_rendered(functools.partial(draw, name), 6.0) for name in names], axis=1)


def heat_map(values: Float[np.ndarray, "height width"], label: str) -> Picture:
    """Draw values of pixels as colours, with a colour bar."""

    def draw(axes: "Axes") -> None:
        shown = axes.imshow(values, cmap="magma", vmin=0)
        axes.set_axis_off()
        axes.figure.colorbar(shown, ax=axes, label=label)

    return _rendered(draw, 5.0, 4.0)


def bins(edges: Sequence[float], heights: Sequence[float], xlabel: str, ylabel: str) -> Picture:
    """Draw a histogram. All bins are drawn equally wide, although their edges are not equally spaced."""

    def draw(axes: "Axes") -> None:
        axes.bar(np.arange(len(heights)) + 0.5, heights, width=0.9)
        axes.set_xticks(np.arange(len(edges)), [f"{edge:.3g}" for edge in edges], fontsize=8)
        axes.set(xlabel=xlabel, ylabel=ylabel)

    return _rendered(draw, 4.0)


@runtime_checkable
class RatePoint(Protocol):
    """Rate and distortion of a model."""

    @property
    def label(self) -> str:
        """The model's name."""
        ...

    @property
    def kl_nats(self) -> float:
        """KL in nats per frame."""
        ...

    @property
    def sse(self) -> float:
        """Squared error per frame."""
        ...

    @property
    def evaluated(self) -> bool:
        """Whether the numbers come from `evaluate`. Else they come from a validation, and the point is hollow."""
        ...


def rate_distortion(points: Sequence[RatePoint], pca: Mapping[int, float]) -> Picture:
    """Draw KL against SSE, with one point for each model.

    Args:
        points: the models.
        pca: SSE of PCA by its number of components, drawn as dashed lines.
    """
    names = [point.label for point in points]

    def draw(figure: "Figure") -> None:
        draw_rate_distortion(figure.add_subplot(), points, pca, colours(names))
        if points:
            figure.legend(*legend(names), loc="outside right upper")

    return rendered(draw, 8.0, 4.5)


def draw_rate_distortion(
    axes: "Axes", points: Sequence[RatePoint], pca: Mapping[int, float], colour: Mapping[str, Colour]
) -> None:
    """Draw KL against SSE into axes, with the first point on top. The axis is logarithmic if the errors differ much."""
    errors = [point.sse for point in points] + list(pca.values())
    for point in reversed(points):
        face = colour[point.label] if point.evaluated else "white"
        axes.plot(point.kl_nats, point.sse, "o", color=colour[point.label], markerfacecolor=face, markersize=8)
    for sse in pca.values():
        axes.axhline(sse, color="gray", linestyle="--", linewidth=1, zorder=1)
    axes.set(xlabel="KL (nats per frame)", ylabel="SSE per frame")
    axes.set_xlim(0, 1.08 * max([point.kl_nats for point in points], default=0) or 1)
    axes.grid(alpha=0.3)
    fit_y_axis(axes, errors)
    _label_levels(axes, {f"PCA-{k}": sse for k, sse in pca.items()})


def _label_levels(axes: "Axes", levels: Mapping[str, float], apart: float = 0.05) -> None:
    """Label horizontal lines at the right edge. Labels of close lines are moved apart."""
    to_axes = axes.transData + axes.transAxes.inverted()
    lowest = -1.0
    for label, level in sorted(levels.items(), key=lambda item: item[1]):
        lowest = max(float(to_axes.transform((0, level))[1]), lowest + apart)
        axes.text(1.01, lowest, label, transform=axes.transAxes, va="center", fontsize=8, color="dimgray")


def fit_y_axis(axes: "Axes", values: Sequence[float], log_from: float = 3.0) -> None:
    """Fit the y axis to the values. It is logarithmic if the largest is more than `log_from` times the smallest."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low > 0 and high > log_from * low:
        from matplotlib.ticker import LogLocator, NullFormatter

        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(low / 1.1, high * 1.1)
    else:
        margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        axes.set_ylim(low - margin, high + margin)


MAX_COLOURED = 12


def colours(names: Sequence[str]) -> dict[str, Colour]:
    """A colour for each of the first twelve names; grey for the others."""
    from matplotlib import colormaps

    few = len(names) <= 10
    shades = [colormaps["tab10"](i) if few else colormaps["turbo"](i / (MAX_COLOURED - 1)) for i in range(MAX_COLOURED)]
    return {name: shades[i] if i < MAX_COLOURED else "lightgray" for i, name in enumerate(names)}


def _literal(text: str) -> str:
    """Escape text, so that matplotlib neither parses it as a formula nor hides it, as it does after a leading _."""
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def legend(names: Sequence[str], max_length: int = 40) -> tuple[list[Any], list[str]]:
    """Handles and labels of the names in their colours, as a legend takes them."""
    from matplotlib.lines import Line2D

    shown = list(colours(names).items())[:MAX_COLOURED]
    labels = [_literal(name if len(name) <= max_length else f"…{name[1 - max_length :]}") for name, _ in shown]
    handles = [Line2D([], [], color=colour, marker="o") for _, colour in shown]
    if len(names) > MAX_COLOURED:
        handles.append(Line2D([], [], color="lightgray", marker="o"))
        labels.append(f"{len(names) - MAX_COLOURED} more")
    return handles, labels
