"""A server that lacks a key: what is sent again, what is counted as lost, and that nothing waits for it for ever."""

import contextlib
import random
import threading
import time

import pytest

from device.delivery import LiveOutbox, RecordOutbox, WaitOutbox
from device.delivery.outbox import KEY_MISSING, REJECTED, Dropped, Link
from device.delivery.resending import Resender
from device.delivery.sender import BaseForgottenError, BaseMissingError, RejectedError
from device.frames import OutgoingFrame
from device.spool import MIN_BYTES, THINNED, Spool, SpoolError
from rjpeg.errors import DeliveryError
from tests.device.linked import follower, key, patch
from tests.device.outcomes import Outcomes, losses
from tests.device.stub_sender import StubSender
from tests.waiting import until

KEY, PATCH = "aaaaaa", "bbbbbb"


class Server(StubSender):
    """Takes a frame if it has what that refers to, and rejects files that it is told to."""

    def __init__(self):
        self.has, self.rejects, self.sent = set(), set(), []
        self.is_away = False

    def send(self, frame):
        name, base = frame.identity.id, frame.identity.base_id
        if self.is_away:
            raise DeliveryError("server can't be reached")
        self.sent.append(name)
        if name in self.rejects:
            raise RejectedError("server answered 422: no")
        for needed in (base, PATCH_KEYS.get(base)):
            if needed is not None and needed not in self.has:
                raise BaseMissingError(f"server answered 409: key missing ({needed})", needed)
        self.has.add(name)
        return "there"


class Forgetful(set):
    """What a server has that keeps nothing."""

    def add(self, name):
        pass


# keys of the patches that these tests use
PATCH_KEYS = {PATCH: KEY}


@pytest.fixture
def frame(moment):
    numbers = iter(range(1000))
    return lambda jpeg: OutgoingFrame("cam", next(numbers), moment, jpeg)


@pytest.fixture
def spool(tmp_path):
    with contextlib.closing(Spool(tmp_path / "spool", 10_000_000)) as spool:
        yield spool


@pytest.fixture
def counts():
    return Outcomes()


@pytest.fixture
def record(counts, spool):
    with contextlib.ExitStack() as stack:

        def start(server):
            outbox = counts.of(RecordOutbox(Link(server, close_seconds=5), "cam", spool))
            outbox._sleep = lambda seconds: None
            stack.callback(outbox.close)
            return outbox

        yield start


def stream(frame):
    """A key, a patch on it, and a follower on that."""
    return frame(key(KEY)), frame(patch(PATCH, KEY)), frame(follower(PATCH, "000001"))


def test_a_key_and_a_patch_that_the_server_lost_are_sent_again_before_the_frame(frame):
    server, never = Server(), threading.Event()
    resender = Resender(Link(server))
    for each in stream(frame):
        resender.send(each, never)
    server.has.clear()
    server.sent.clear()
    resender.send(frame(follower(PATCH, "000002")), never)
    assert server.sent == ["000002", PATCH, KEY, PATCH, "000002"], "the patch needs its key, too"
    resender.send(frame(follower(PATCH, "000003")), never)
    assert server.sent[5:] == ["000003"]


def test_what_is_sent_again_keeps_to_the_pace(frame):
    class Pace:
        def __init__(self):
            self.asked = []

        def take(self, size, camera):
            self.asked.append(size)
            return 0.0 if len(self.asked) % 2 else 0.001

    server, never, pace = Server(), threading.Event(), Pace()
    resender = Resender(Link(server, pace))
    one, _, _ = stream(frame)
    resender.send(one, never)
    server.has.clear()
    later = frame(follower(KEY))
    resender.send(later, never)
    assert pace.asked == [len(one.jpeg), len(later.jpeg), len(later.jpeg)]


def test_a_program_that_ends_waits_for_no_pace(frame):
    class Full:
        def take(self, size, camera):
            return 60.0

    server, stopping = Server(), threading.Event()
    resender = Resender(Link(server, Full()))
    resender.send(frame(key(KEY)), stopping)
    server.has.clear()
    stopping.set()
    with pytest.raises(DeliveryError, match="the program ends"):
        resender.send(frame(follower(KEY)), stopping)


def test_a_server_that_never_keeps_a_key_is_not_sent_it_for_ever(frame):
    server, never = Server(), threading.Event()
    resender = Resender(Link(server))
    resender.send(frame(key(KEY)), never)
    server.has = Forgetful()
    server.sent.clear()
    with pytest.raises(BaseForgottenError, match="although it was sent again") as caught:
        resender.send(frame(follower(KEY, "000001")), never)
    assert caught.value.id == KEY
    assert server.sent == ["000001", KEY, "000001"]


def test_live_a_key_that_the_server_never_keeps_is_referred_to_no_more(frame):
    server = Server()
    outbox = LiveOutbox(Link(server, close_seconds=5))
    outbox.put(frame(key(KEY)))
    assert outbox.flush(5)
    server.has = Forgetful()
    outbox.put(frame(follower(KEY)))
    assert outbox.flush(5)
    outbox.outcomes.get_nowait()
    assert outbox.outcomes.get(timeout=5).lost == KEY
    outbox.close()


def test_record_a_server_that_forgets_a_key_as_it_is_sent_again_costs_no_frame(record, frame, counts):
    server = Server()
    outbox = record(server)
    outbox.put(frame(key(KEY)))
    until(lambda: counts.sent == [0])
    send, forgets = server.send, [True, True, True]

    def forget_sometimes(each):
        if forgets and each.identity.base_id is not None:
            forgets.pop()
            server.has.clear()
        return send(each)

    server.send = forget_sometimes
    outbox.put(frame(follower(KEY)))
    until(lambda: counts.sent == [0, 1])
    assert counts.dropped == []


def test_a_key_that_is_rejected_the_second_time_is_missing_for_good(frame):
    server, never = Server(), threading.Event()
    resender = Resender(Link(server))
    resender.send(frame(key(KEY)), never)
    server.has.clear()
    server.rejects.add(KEY)
    with pytest.raises(BaseMissingError) as caught:
        resender.send(frame(follower(KEY)), never)
    assert caught.value.id == KEY


def test_live_a_frame_whose_key_is_nowhere_is_dropped_with_the_id_of_the_key(frame):
    outbox = LiveOutbox(Link(Server(), close_seconds=5))
    outbox.put(frame(follower(KEY)))
    assert outbox.flush(5)
    found = outbox.outcomes.get(timeout=5)
    assert isinstance(found, Dropped)
    assert (found.reason, found.lost) == (KEY_MISSING, KEY)
    assert not outbox.is_away, "the server is there"
    outbox.close()


def test_files_are_delivered_one_by_one_with_what_they_need(frame):
    server = Server()
    outbox = WaitOutbox(Link(server), retry_seconds=1)
    for each in stream(frame):
        outbox.put(each)
    server.has.clear()
    outbox.put(frame(follower(PATCH, "000002")))
    assert server.sent[3:] == ["000002", PATCH, KEY, PATCH, "000002"]
    outbox.put(frame(follower("cccccc")))
    outcomes = [outbox.outcomes.get_nowait() for _ in range(5)]
    assert (outcomes[4].reason, outcomes[4].lost) == (KEY_MISSING, "cccccc")


def test_a_key_comes_from_the_spool_if_this_program_never_sent_it(frame, spool):
    for each in stream(frame):
        spool.append("cam", each.time, each.jpeg)
    spool.delivered("cam", 1)
    server = Server()
    Resender(Link(server), spool).send(spool.oldest("cam", 1), threading.Event())
    assert server.sent == ["000001", PATCH, KEY, PATCH, "000001"]


def test_a_disk_that_fails_is_waited_for_and_costs_no_frame(frame, spool, monkeypatch):
    def fail(*_):
        raise SpoolError("can't write spool: disk error", "disk error")

    monkeypatch.setattr(spool, "base", fail)
    with pytest.raises(DeliveryError, match="disk error") as caught:
        Resender(Link(Server()), spool).send(frame(follower(KEY)), threading.Event())
    assert not isinstance(caught.value, RejectedError)


def test_record_a_frame_whose_key_is_nowhere_is_counted_and_holds_up_nothing(record, frame, spool, counts):
    for each in (follower(KEY, "000001"), follower(KEY, "000002"), key("cccccc"), follower("cccccc", "000003")):
        spool.append("cam", frame(each).time, each)
    outbox = record(Server())
    until(lambda: len(counts.sent) == 2)
    assert counts.sent == [2, 3]
    assert counts.dropped == [(0, KEY_MISSING), (1, KEY_MISSING)]
    assert outbox.flush(5)
    assert spool.count == 0


def test_record_nothing_refers_to_a_key_that_was_rejected(record, frame, counts):
    server = Server()
    server.rejects.add(KEY)
    outbox = record(server)
    outbox.put(frame(key(KEY)))
    until(lambda: counts.dropped)
    found = [outcome.lost for outcome in counts._found]
    assert (counts.dropped, found) == ([(0, REJECTED)], [KEY])
    assert outbox.put(frame(follower(KEY, "000001"))) == -1
    assert counts.dropped[1:] == [(1, KEY_MISSING)]
    assert outbox.put(frame(key("cccccc"))) >= 0
    assert outbox.put(frame(follower("cccccc", "000002"))) >= 0
    until(lambda: len(counts.sent) == 2)


def test_record_frames_may_refer_to_a_key_that_was_delivered_and_deleted(record, frame, spool, counts):
    outbox = record(Server())
    outbox.put(frame(key(KEY)))
    outbox.put(frame(key("cccccc")))
    until(lambda: len(counts.sent) == 2)
    until(lambda: not spool.has("cam", KEY))
    assert outbox.put(frame(follower(KEY))) >= 0
    until(lambda: len(counts.sent) == 3)


def test_record_a_start_and_a_server_that_lost_the_key_together_cost_no_frame(tmp_path, frame, counts):
    """What refers to a key may come long after that was delivered, and wait through a start of the program."""
    server = Server()

    @contextlib.contextmanager
    def program():
        with contextlib.closing(Spool(tmp_path, 10_000_000)) as spool:
            outbox = counts.of(RecordOutbox(Link(server, close_seconds=5), "cam", spool))
            outbox._sleep = lambda seconds: time.sleep(0.001)
            yield spool, outbox
            outbox.close()

    key_file, patch_file, _ = stream(frame)
    with program() as (spool, outbox):
        outbox.put(key_file)
        outbox.put(patch_file)
        assert outbox.flush(5)
        until(lambda: spool.count == 0)
        server.is_away = True
        for number in range(5):
            assert outbox.put(frame(follower(PATCH, f"{number:06x}"))) >= 0
    server.has.clear()
    server.is_away = False
    with program() as (spool, outbox):
        assert outbox.flush(5)
        until(lambda: len(counts.sent) >= 7)
    assert counts.dropped == []
    assert [name for name in server.sent if name in server.has][-5:] == [f"{number:06x}" for number in range(5)]


def test_record_all_that_refers_to_a_rejected_key_goes_at_once(record, frame, spool, counts):
    server, pauses = Server(), []
    server.rejects.add(KEY)
    for each in (key(KEY), *(follower(KEY, f"{number:06x}") for number in range(5)), key("cccccc")):
        spool.append("cam", frame(each).time, each)
    outbox = record(server)
    outbox._sleep = pauses.append
    until(lambda: counts.sent == [6])
    assert [reason for _, reason in counts.dropped] == [REJECTED] + 5 * [KEY_MISSING]
    assert len(pauses) <= 1, "one for the key itself"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_record_every_frame_is_sent_or_counted_whatever_the_server_does(tmp_path, moment, counts, seed):
    chance, server, given_up, put = random.Random(seed), Server(), 0, 0
    with contextlib.closing(Spool(tmp_path, MIN_BYTES)) as spool:
        outbox = counts.of(RecordOutbox(Link(server, close_seconds=5), "cam", spool))
        outbox._sleep = lambda seconds: time.sleep(0.001)
        base = None
        for number in range(150):
            name, size = f"{number:06x}", chance.choice([500, 3000, 20_000])
            jpeg = key(name, size) if base is None or chance.random() < 0.1 else follower(base, name, size)
            put += 1
            taken = outbox.put(OutgoingFrame("cam", 0, moment, jpeg)) >= 0
            base = name if taken and jpeg == key(name, size) else base
            if not taken:
                base = None
            what = chance.random()
            if what < 0.05:
                server.has.clear()
            elif what < 0.1:
                server.rejects.add(name)
            server.is_away = chance.random() < 0.7 if what > 0.8 else server.is_away
        server.is_away = False
        assert outbox.flush(30)
        outbox.close()
        given_up = sum(loss.frames for loss in losses(spool, THINNED))
        assert spool.count == 0
        assert spool.bytes == 0
    assert len(counts.sent) + len(counts.dropped) + given_up == put
    assert len(counts.sent) > 50
