"""Kinds of frames, on telemetry with known answers."""

import numpy as np
import pytest

from world_models.envs import car_frames

TELEMETRY = {  # zooming in, straight, curve, curve the other way, grass, backwards
    "zoom_px_per_m": np.array([2, 16.2, 16.2, 16.2, 16.2, 16.2]),
    "wheels_on_road_share": np.array([1, 1, 1, 0.75, 0.25, 1]),
    "curvature_ahead_25m_per_m": np.array([0, 0.001, 0.05, -0.05, 0.05, 0]),
    "relative_heading_rad": np.array([0, 0.1, -0.2, 0.3, 0, 3.0]),
}


def test_each_frame_has_exactly_one_kind():
    assert np.stack([*car_frames.kinds(TELEMETRY).values()]).sum(0).tolist() == [1] * 6


@pytest.mark.parametrize("missing", ["zoom_px_per_m", "wheels_on_road_share", "curvature_ahead_25m_per_m"])
def test_other_telemetry_has_no_kinds(missing: str):
    rest = {name: values for name, values in TELEMETRY.items() if name != missing}
    assert car_frames.kinds(rest) == {} and car_frames.along_the_road(rest) is None


def test_along_the_road_means_all_wheels_on_it_forwards_after_the_zoom():
    chosen = car_frames.along_the_road(TELEMETRY)
    assert chosen is not None and chosen.tolist() == [False, True, True, False, False, False]
