"""The names of telemetry columns, as the page shows them."""

import pytest

from world_models.explore.shown import column


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("velocity_along_m_per_s", "velocity along [m/s]"),
        ("yaw_rate_rad_per_s", "yaw rate [rad/s]"),
        ("curvature_ahead_25m_per_m", "curvature ahead 25 m [1/m]"),
        ("zoom_px_per_m", "zoom [px/m]"),
        ("center_distance_m", "center distance [m]"),
        ("tile_index", "tile index"),
        ("wheels_on_road_share", "wheels on road share"),
        ("_m", " m"),
    ],
)
def test_a_columns_unit_is_split_from_its_name(name: str, shown: str):
    assert str(column(name)) == shown
