"""Kinds of CarRacing's frames, by the telemetry: on a straight, in a curve, on the grass."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float

CURVE_PER_M = 0.02
"""With more curvature than this, 25 m ahead, the road counts as a curve. Its radius is 50 m."""

Columns = Mapping[str, Float[np.ndarray, " frames"]]


def kinds(telemetry: Columns) -> dict[str, Bool[np.ndarray, " frames"]]:
    """The frames of each kind, for CarRacing. A frame has one kind. Empty if the telemetry lacks the needed columns."""
    if not {"zoom_px_per_m", "wheels_on_road_share", "curvature_ahead_25m_per_m"} <= telemetry.keys():
        return {}
    zoom, on_road = telemetry["zoom_px_per_m"], telemetry["wheels_on_road_share"] >= 0.5
    zooming = zoom < 0.99 * zoom.max()
    curve = np.abs(telemetry["curvature_ahead_25m_per_m"]) > CURVE_PER_M
    return {
        "opening zoom": zooming,
        "on a straight": ~zooming & on_road & ~curve,
        "before or in a curve": ~zooming & on_road & curve,
        "on the grass": ~zooming & ~on_road,
    }


def along_the_road(telemetry: Columns) -> Bool[np.ndarray, " frames"] | None:
    """The frames in which CarRacing's car drives along the road; None if the telemetry lacks the needed columns.

    All wheels are on the road, the opening zoom is over, and the heading is within 90 degrees of the road's. The last
    condition is needed because a road looks the same to a car that drives backwards along it.
    """
    if not kinds(telemetry) or "relative_heading_rad" not in telemetry:
        return None
    on_road = telemetry["wheels_on_road_share"] == 1
    return on_road & ~kinds(telemetry)["opening zoom"] & (np.abs(telemetry["relative_heading_rad"]) < np.pi / 2)
