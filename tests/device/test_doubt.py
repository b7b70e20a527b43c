"""Whose fault it is that a frame doesn't get through."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device.delivery.doubt import Doubt


def deliver(bad, outages, frames, seconds=3):
    """What `RecordOutbox` does with frames 0, 1, ..., a try a second; those taken, in order, and those given up.

    bad: frames that never get through. outages: in which seconds no frame does.
    """
    now, done, taken, given_up = 0, -1, [], []
    doubt = Doubt(lambda: now)
    while done < frames - 1 and now < 3000:
        now += 1
        frame = None
        after = doubt.probe_after(seconds)
        if after is not None:
            later = [number for number in range(after + 1, frames) if not doubt.went_ahead(number)]
            frame = later[0] if later else None
            doubt.probes(frame)
        if frame is None:
            frame = done + 1
        if not doubt.went_ahead(frame):
            if frame in bad or now in outages:
                if not doubt.fails(frame):
                    continue
                given_up.append(frame)
            else:
                taken.append(frame)
                if not doubt.is_taken(frame):
                    continue
        done = frame
        doubt.is_done(frame)
    return taken, given_up, done


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(
    bad=st.sets(st.integers(0, 11), max_size=5),
    # each can begin or end between two tries that prove something, so that two aren't enough
    outages=st.lists(st.tuples(st.integers(0, 120), st.integers(1, 60)), max_size=2),
)
def test_what_is_given_up_is_bad_and_all_else_is_taken_once(bad, outages):
    frames = 12 + 3 * (len(bad) + 2)  # so many good ones that there are some to tell each bad one by
    seconds = {second for start, length in outages for second in range(start, start + length)}
    taken, given_up, done = deliver(bad, seconds, frames)
    assert done == frames - 1, "none is stuck"
    assert sorted(taken) == [number for number in range(frames) if number not in bad]
    assert given_up == sorted(bad)


def test_while_nothing_gets_through_nothing_is_given_up():
    assert deliver(set(), range(10_000), 5) == ([], [], -1)


def test_a_frame_that_fails_for_a_while_goes_in_its_turn():
    assert deliver(set(), range(3), 4) == ([0, 1, 2, 3], [], 3)


def test_an_outage_between_the_proof_and_the_last_try_is_no_reason_to_give_up():
    now = 0.0
    doubt = Doubt(lambda: now)
    assert not doubt.fails(0)
    now = 10.0
    assert doubt.probe_after(5) == 0
    doubt.probes(1)
    assert not doubt.is_taken(1)
    doubt.fails_otherwise()
    for number in (2, 3):
        assert not doubt.fails(0)
        doubt.probes(number)
        assert not doubt.is_taken(number)
    assert not doubt.fails(0), "what was proved before the outage is proved no more"
    assert doubt.went_ahead(1)
