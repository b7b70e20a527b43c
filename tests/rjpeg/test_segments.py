"""The walk over a file's marker segments: no marker is missed, and none is seen within data."""

import pytest

from rjpeg._segments import end_of_segment, find_marker


@pytest.mark.parametrize(
    ("data", "position"),
    [
        (b"\xff\xd8", 0),
        (b"abc\xff\xda\x00\x02", 3),
        (b"\xff\x00\xff\xd0\xff\xd7\xff\x01\xff\xd9", 8),  # stuffed zero, restarts, TEM
        (b"\xff\xff\xd9", 0),  # a fill byte
    ],
)
def test_a_marker_is_found_behind_all_that_is_none(data, position):
    assert find_marker(data, 0) == position


@pytest.mark.parametrize("data", [b"", b"abc", b"abc\xff", b"\xff\x00", b"\xff\xd3"])
def test_where_no_marker_is_the_walk_goes_on_when_more_has_arrived(data):
    position = find_marker(data, 0)
    assert position + 2 > len(data)
    more = data + (b"\xd9" if data.endswith(b"\xff") else b"\xff\xd9")
    assert find_marker(more, position) == len(more) - 2


def test_a_walk_that_is_beyond_the_data_waits_there():
    assert find_marker(b"\xff\xd8", 70) == 70


@pytest.mark.parametrize(
    ("data", "end"),
    [
        (b"\xff\xd8", 2),
        (b"\xff\xd9", 2),
        (b"\xff\xff", 1),
        (b"\xff\xe0\x00\x10", 18),
        (b"\xff\xe0\x00\x01", 4),  # too small a length is that of itself
        (b"\xff\xe0\x00", None),
    ],
)
def test_a_segment_ends_where_its_length_says(data, end):
    assert end_of_segment(data, 0) == end
