"""The line of messages that is fair to all cameras."""

import asyncio
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from server.limits import RateLimiter
from server.mqtt.fair import FairQueue, MessageBudget


class Line:
    """A FairQueue, and what it has begun."""

    def __init__(self, *, at_a_time=4, of_camera=2, per_second=1e6):
        self.begun, self.under_way = [], []
        self.queue = FairQueue(self._begin, max_begun=at_a_time, max_of_camera=of_camera, rate=RateLimiter(per_second))

    def _begin(self, camera, work):
        self.begun.append((camera, work))
        self.under_way.append(camera)

    def finish(self, place=0):
        self.queue.done(self.under_way.pop(place))


def test_one_of_each_camera_is_begun_in_turn_and_of_one_camera_in_order():
    line = Line(at_a_time=1, of_camera=1)
    for number in range(5):
        line.queue.put("flood", number)
    line.queue.put("honest", 0)
    while line.under_way:
        line.finish()
    assert line.begun == [("flood", 0), ("flood", 1), ("honest", 0), ("flood", 2), ("flood", 3), ("flood", 4)] or (
        line.begun[:2] == [("flood", 0), ("honest", 0)]
    )


@settings(max_examples=200, deadline=None)
@given(
    some.lists(some.sampled_from("abc") | some.just("") | some.integers(0, 9), max_size=80),
    some.integers(1, 5),
    some.integers(1, 3),
)
def test_whatever_comes_is_begun_once_within_the_limits_and_of_a_camera_in_order(steps, at_a_time, of_camera):
    line, put = Line(at_a_time=at_a_time, of_camera=of_camera), []
    for number, step in enumerate(steps):
        if isinstance(step, str):
            put.append((step, number))
            line.queue.put(step, number)
        elif line.under_way:
            line.finish(step % len(line.under_way))
        assert len(line.under_way) <= at_a_time
        assert all(line.under_way.count(camera) <= of_camera for camera in line.under_way)
        assert len(line.begun) + len(line.queue) == len(put)
        waiting = {camera for camera, _ in put} - {
            camera for camera in line.under_way if line.under_way.count(camera) == of_camera
        }
        idle = len(line.under_way) < at_a_time and any(
            camera in waiting for camera, work in put if (camera, work) not in line.begun
        )
        assert not idle, "there is a place, and a camera that may have it"
    while line.under_way:
        line.finish()
    assert sorted(line.begun, key=lambda each: each[1]) == put
    for camera in "abc":
        numbers = [work for name, work in line.begun if name == camera]
        assert numbers == sorted(numbers)
    assert not line.queue._waiting
    assert not line.queue._ready
    assert not line.queue._begun


@pytest.mark.slow
def test_a_camera_over_its_rate_waits_while_others_pass_and_goes_on_by_itself():
    async def run():
        line = Line(at_a_time=9, of_camera=8, per_second=20)
        for number in range(50):
            line.queue.put("flood", number)
        assert len(line.begun) < 41
        line.queue.put("honest", 0)
        assert line.begun[-1] == ("honest", 0)
        while len(line.begun) < 51:
            while line.under_way:
                line.finish()
            await asyncio.sleep(0.01)
        assert [work for camera, work in line.begun if camera == "flood"] == list(range(50))

    asyncio.run(asyncio.wait_for(run(), 10))


def test_what_was_not_begun_can_be_taken_out():
    async def run():
        line = Line(at_a_time=1, of_camera=1, per_second=1)
        for number in range(4):
            line.queue.put("a", number)
            line.queue.put("b", number)
        assert sorted(line.queue.drop(lambda work: work % 2)) == [1, 1, 3, 3]
        assert len(line.queue) == 3
        line.finish()
        line.queue.drop(lambda _: True)
        assert len(line.queue) == 0
        assert not line.queue._paused

    asyncio.run(run())


def test_room_is_bounded_in_number_and_bytes_and_given_to_who_waits():
    budget = MessageBudget(3, 100)
    assert budget.acquire(500, 0), "the first may be of any size"
    assert not budget.acquire(1, 0)
    waiting = threading.Thread(target=budget.acquire, args=(60, 30))
    waiting.start()
    budget.release(500)
    waiting.join(30)
    assert (budget.messages, budget.bytes) == (1, 60)
    assert not budget.acquire(41, 0)
    assert budget.acquire(20, 0)
    assert budget.acquire(20, 0)
    assert not budget.acquire(0, 0)
