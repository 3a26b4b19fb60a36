"""The contact sheet shows the data set."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from world_models.collect import overview
from world_models.data.rollouts import Rollouts


def test_contact_sheet_has_a_row_for_each_of_a_few_episodes(make_rollouts: Callable[..., Path]):
    data = Rollouts(make_rollouts([4, 6], [5, 3]))
    assert overview.contact_sheet(data, num_episodes=3, num_frames=5).shape == (3 * 130 + 2, 5 * 130 + 2 + 150, 3)


def test_contact_sheet_shows_no_episode_twice(make_rollouts: Callable[..., Path]):
    data = Rollouts(make_rollouts([4, 6]))
    assert overview.contact_sheet(data).shape[0] == 2 * 130 + 2


def test_contact_sheet_runs_from_the_first_frame_to_the_final_one(make_rollouts: Callable[..., Path]):
    data = Rollouts(make_rollouts([4]))
    picture = overview.contact_sheet(data, num_frames=3)[2:130:2, 150:]
    shown = [picture[:, 2 + 130 * i : 130 + 130 * i : 2] for i in range(3)]
    assert np.array_equal(np.stack(shown), data[0].frames[[0, 2, 4]])
