"""The leaky bucket, on a clock of the test's own."""

from hypothesis import given
from hypothesis import strategies as st

from device.rate import LeakyBucket


@given(
    bitrate=st.floats(100, 1e8),
    fps=st.floats(0.1, 120),
    gaps=st.lists(st.floats(0, 20), min_size=1, max_size=60),
    share=st.lists(st.floats(0, 1), min_size=60, max_size=60),
)
def test_no_window_of_time_has_more_than_the_cap_and_the_capacity(bitrate, fps, gaps, share):
    now = 0.0
    bucket = LeakyBucket(bitrate, fps, now)
    sent = []
    for gap, part in zip(gaps, share, strict=False):
        now += gap
        room = bucket.room(now)
        size = int(room * part) if room > 0 else 0
        bucket.spend(size)
        sent.append((now, size))
    for first, (start, _) in enumerate(sent):
        total = 0
        for end, size in sent[first:]:
            total += size
            assert total <= (bitrate / 8) * (end - start) + bucket.capacity + 1


def test_frames_that_come_on_time_share_the_rate_evenly():
    bucket = LeakyBucket(80_000, 10, 0.0)
    sizes = []
    for number in range(50):
        size = bucket.room(number / 10)
        bucket.spend(size)
        sizes.append(size)
    assert min(sizes) >= 998
    assert max(sizes) <= 1001
    assert sum(sizes) <= 50 * 1000


def test_what_one_frame_saves_the_next_may_have_up_to_a_second_s_bytes_or_two_frames():
    bucket = LeakyBucket(80_000, 10, 0.0)
    bucket.spend(400)
    assert bucket.room(0.1) == 1600
    assert bucket.room(100.0) == bucket.capacity == 10_000
    assert LeakyBucket(80_000, 0.5, 0.0).capacity == 40_000


def test_a_device_slower_than_its_camera_still_spends_what_it_may():
    bucket = LeakyBucket(80_000, 30, 0.0)
    total = 0
    for number in range(1, 51):
        size = bucket.room(number / 5)
        bucket.spend(size)
        total += size
    assert 0.99 * 10_000 * 10 <= total <= 10_000 * 10 + 10_000 / 30


def test_wait_is_how_long_it_takes_until_there_is_room():
    bucket = LeakyBucket(80_000, 10, 0.0)
    bucket.spend(bucket.room(0.0))
    assert bucket.room(bucket.wait(700, 0.0) + 1e-9) == 700
    assert bucket.wait(1e9, 1.0) == 0, "more room than the capacity never comes"
