"""Directing on a larger page, and in a graph that is zoomed in: the pointer hits what it is on."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Place

# Each of these runs here again, on the pages below.
from .test_widget import (  # noqa: F401
    test_a_keyframe_is_added_and_dragged,
    test_a_keyframe_is_aimed,
    test_time_is_scrubbed_and_played,
)
from .test_widget_gestures import (  # noqa: F401
    key,
    test_a_keyframe_is_dragged_past_its_neighbour,
    test_a_report_during_a_drag_waits_for_its_end,
    test_escape_puts_a_dragged_keyframe_back,
)
from .test_widget_picture import (  # noqa: F401
    test_tab_swaps_the_large_view_and_the_small_one,
    test_what_is_on_the_screen,
)
from .test_widget_shot import (  # noqa: F401
    panel,
    test_several_keyframes_are_chosen_moved_copied_and_deleted,
    test_the_camera_is_aimed_and_dollied_in_its_own_view,
    test_the_speed_curve_is_dragged_and_undone_as_one_step,
)
from .test_widget_whole_shot import (  # noqa: F401
    takes,
    test_a_subject_is_picked_on_what_is_remembered,
    test_takes_are_seen_side_by_side_at_one_frame,
)

pytestmark = [pytest.mark.browser, pytest.mark.server]

PLACES = {
    "1920x1080": Place((1920, 1080), 1.0, (520, 900)),
    # So large that the node is on it as a whole.
    "zoom2": Place((1920, 1600), 2.0, (480, 700)),
}


@pytest.fixture(scope="module", params=PLACES.values(), ids=PLACES)
def place(request: pytest.FixtureRequest) -> Any:
    """One of the pages."""
    return request.param
