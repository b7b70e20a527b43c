"""What happens to frames between the encoder and the server, and while the server is away."""

import contextlib
import errno
import os
import signal
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import rjpeg
from device.config import DeliveryConfig
from device.delivery import LiveOutbox, RecordOutbox, WaitOutbox, open_outbox, open_sender
from device.delivery.http_sender import HttpSender
from device.delivery.mqtt_sender import MqttSender
from device.delivery.outbox import OVERTAKEN, REFUSED, REJECTED, SERVER_AWAY, STOPPED, UNHEARD, Link
from device.delivery.sender import FaultError, FolderSender, RefusedError, RejectedError, RetryLaterError, UnheardError
from device.frames import OutgoingFrame
from device.spool import DISK_FULL, Spool
from device.spool.database import Database
from rjpeg.errors import ConfigError, DeliveryError, StorageError
from tests.brokers import needs_broker
from tests.device.fakes import Clock
from tests.device.outcomes import Outcomes
from tests.service import Service
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
MB = 1_000_000


class Server:
    """A sender whose server does what `behavior(frame)` does; keeps what it took."""

    name = "server"

    def __init__(self, behavior=lambda frame: None):
        self.behavior = behavior
        self.tried: list[OutgoingFrame] = []
        self.taken: list[OutgoingFrame] = []
        self.closed = self.is_cut = False

    def send(self, frame):
        assert not self.closed
        self.tried.append(frame)
        self.behavior(frame)
        self.taken.append(frame)
        return f"there/{frame.sequence}"

    def overhead(self, size, *, is_base=False):
        return 100

    def cut(self):
        self.is_cut = True

    def close(self):
        self.closed = True


@pytest.fixture
def counts():
    return Outcomes()


@pytest.fixture
def frame(moment):
    return lambda sequence, jpeg=b"jpeg": OutgoingFrame("cam", sequence, moment, jpeg)


@pytest.fixture
def live(counts):
    with contextlib.ExitStack() as stack:

        def start(sender, **options):
            outbox = counts.of(LiveOutbox(Link(sender, **({"close_seconds": 5} | options))))
            stack.callback(outbox.close)
            return outbox

        yield start


@pytest.fixture
def wait(counts):
    def start(sender, retry_seconds=20, **options):
        return counts.of(WaitOutbox(Link(sender, **options), retry_seconds))

    return start


@pytest.fixture
def spool(tmp_path):
    with contextlib.closing(Spool(tmp_path / "spool", 10 * MB)) as spool:
        yield spool


@pytest.fixture
def record(counts, spool):
    with contextlib.ExitStack() as stack:

        def start(sender, camera="cam", **options):
            outbox = counts.of(RecordOutbox(Link(sender, **({"close_seconds": 5} | options)), camera, spool))
            stack.callback(outbox.close)
            return outbox

        yield start


def threads(name):
    return [thread for thread in threading.enumerate() if thread.name == name]


def send_at_once(outbox, frame, number):
    """Put so many frames, each as soon as the one before was tried. The outbox wants every one of them."""
    for sequence in range(number):
        assert outbox.ready
        outbox.put(frame(sequence))
        assert outbox.flush(5)


def away(_frame):
    raise DeliveryError("server can't be reached")


def reject(_frame):
    raise RejectedError("server answered 422")


def unheard(_frame):
    raise UnheardError("nobody has subscribed", is_kept=False)


def refuse(_frame):
    raise RefusedError("server answered 401")


def test_live_sends_what_is_put(live, frame, counts):
    server = Server()
    outbox = live(server)
    for sequence in range(5):
        assert outbox.ready
        assert outbox.put(frame(sequence)) == sequence
        assert outbox.flush(5)
    assert counts.sent == [0, 1, 2, 3, 4]
    assert [f.sequence for f in server.taken] == [0, 1, 2, 3, 4]
    assert counts.dropped == []
    outbox.close()
    assert server.closed


def test_live_a_newer_frame_overtakes_one_that_waits(live, frame, counts):
    go = threading.Event()
    server = Server(lambda _: go.wait(10))
    outbox = live(server)
    outbox.put(frame(0))
    until(lambda: server.tried)
    for sequence in range(1, 6):
        outbox.put(frame(sequence))
    assert not outbox.flush(0.01)
    go.set()
    assert outbox.flush(5)
    assert counts.sent == [0, 5]
    assert counts.dropped == [(sequence, OVERTAKEN) for sequence in range(1, 5)]


@pytest.mark.slow
def test_live_after_an_outage_frames_flow_soon_and_are_new(live, frame, counts, caplog):
    caplog.set_level("INFO")
    clock, server, tries = Clock(), Server(away), []
    outbox = live(server, clock=clock)

    def goes_on(seconds):
        for _ in range(round(64 * seconds)):
            if outbox.ready:
                tries.append(clock.now)
                outbox.put(frame(len(tries) - 1))
                assert outbox.flush(5)
            clock.now += 1 / 64

    goes_on(4.5)
    assert tries == [0, 0.25, 0.75, 1.75, 2.75, 3.75]
    assert len(server.tried) == len(tries), "no frame is encoded in vain"
    server.behavior = lambda _: None
    goes_on(1.5)
    assert tries[6] == 4.75, "the first that arrives is new, and a second at most after the last try"
    assert len(tries) > 10, "then all are wanted"
    assert counts.sent == list(range(6, len(tries)))
    assert counts.dropped == [(number, SERVER_AWAY) for number in range(6)]
    said = ["server can't be reached; trying again", "server takes frames again"]
    assert [record.getMessage() for record in caplog.records] == said
    assert outbox.failure is None


def test_live_does_not_ask_for_frames_while_a_server_that_is_away_is_asked(live, frame):
    release = threading.Event()

    def hang(_frame):
        release.wait(10)
        raise DeliveryError("no answer in time")

    clock, server = Clock(), Server(away)
    outbox = live(server, clock=clock)
    outbox.put(frame(0))
    assert outbox.flush(5)
    assert not outbox.ready
    clock.now += 0.25
    assert outbox.ready
    server.behavior = hang
    outbox.put(frame(1))
    until(lambda: len(server.tried) == 2)
    assert not outbox.ready
    release.set()


def test_live_a_pause_that_the_server_asks_for_is_kept(live, frame):
    def later(_frame):
        raise RetryLaterError("server answered 503", 0.9)

    clock, server = Clock(), Server(later)
    outbox = live(server, clock=clock)
    outbox.put(frame(0))
    assert outbox.flush(5)
    assert not outbox.ready
    clock.now += 0.89
    assert not outbox.ready
    clock.now += 0.02
    assert outbox.ready


def test_live_a_rejected_frame_is_counted_and_the_next_is_sent_at_once(live, frame, counts, caplog):
    server = Server(reject)
    outbox = live(server)
    send_at_once(outbox, frame, 3)
    server.behavior = lambda _: None
    outbox.put(frame(3))
    assert outbox.flush(5)
    assert counts.dropped == [(sequence, REJECTED) for sequence in range(3)]
    assert counts.sent == [3]
    assert caplog.text.count("422") == 1, "said once"


def test_live_a_frame_that_nobody_takes_is_dropped_and_the_next_goes_at_once(live, frame, counts, caplog):
    caplog.set_level("INFO")
    server = Server(unheard)
    outbox = live(server)
    send_at_once(outbox, frame, 3)
    server.behavior = lambda _: None
    outbox.put(frame(3))
    assert outbox.flush(5)
    assert counts.dropped == [(sequence, UNHEARD) for sequence in range(3)]
    assert counts.sent == [3]
    said = ["nobody has subscribed", "server: somebody has subscribed"]
    assert [record.getMessage() for record in caplog.records] == said


def test_what_must_not_be_lost_is_sent_again_until_somebody_takes_it(record, wait, frame, counts, spool):
    deaf = iter([unheard, unheard])
    server = Server(lambda frame: next(deaf, lambda _: None)(frame))
    outbox = record(server)
    outbox.put(frame(0))
    assert outbox.flush(20)
    assert (counts.sent, counts.dropped, len(server.tried)) == ([0], [], 3)
    with pytest.raises(DeliveryError, match="nobody has subscribed; gave up after"):
        wait(Server(unheard), retry_seconds=0.1).put(frame(1))


@pytest.mark.slow
def test_live_a_server_that_refuses_all_is_asked_again_and_what_it_said_is_known(live, frame, counts, caplog):
    outbox = live(Server(lambda f: refuse(f) if f.sequence in (0, 1, 3) else None))
    outbox.put(frame(0))
    until(lambda: outbox.refusal is not None)
    assert isinstance(outbox.refusal, RefusedError)
    assert outbox.trouble == "server answered 401"
    assert outbox.failure is None
    for sequence in range(1, 5):
        until(lambda: outbox.ready)
        outbox.put(frame(sequence))
        assert outbox.flush(5)
        # one that has taken frames may be being mended, which is no reason to end
        assert (outbox.refusal is not None) == (sequence == 1)
    assert counts.dropped == [(0, REFUSED), (1, REFUSED), (3, REFUSED)]
    assert counts.sent == [2, 4]
    assert outbox.trouble is None
    assert caplog.text.count("401; trying again") == 2, "said once, until it changes"


@pytest.mark.slow
def test_live_every_frame_is_reported_once_whatever_happens(live, frame, counts):
    server = Server(lambda f: {0: time.sleep, 1: away, 2: reject}.get(f.sequence % 5, len)([] if f.sequence % 5 else 0))
    outbox = live(server)
    started = time.monotonic()
    for sequence in range(400):
        outbox.put(frame(sequence))
        time.sleep(0.001)
    outbox.close()
    assert outbox.put(frame(400)) == -1
    assert time.monotonic() - started < 6
    assert sorted(counts.sent + [sequence for sequence, _ in counts.dropped]) == list(range(401))


@pytest.mark.slow
def test_live_close_tries_nothing_more_and_does_not_hang(live, frame, counts):
    release = threading.Event()
    server = Server(lambda _: release.wait(20))
    outbox = live(server, close_seconds=0.3)
    outbox.put(frame(0))
    until(lambda: server.tried)
    outbox.put(frame(1))
    started = time.monotonic()
    outbox.close()
    assert time.monotonic() - started < 2
    assert server.is_cut
    dropped = [(0, STOPPED), (1, STOPPED)]
    assert counts.dropped == dropped, "the one under way counts, though nobody knows whether it will arrive"
    release.set()
    until(lambda: server.closed)
    assert [f.sequence for f in server.tried] == [0]
    assert (counts.sent, counts.dropped) == ([], dropped), "and once only"


class Bucket:
    """Room for so many bytes a second."""

    def __init__(self, bytes_per_second):
        self.rate, self.free_at, self.spent, self.refused = bytes_per_second, time.monotonic(), 0, 0

    def take(self, size, camera):
        pause = max(0.0, self.free_at - time.monotonic())
        if pause == 0:
            self.spent += size
            self.free_at = max(self.free_at, time.monotonic()) + size / self.rate
        else:
            self.refused += 1
        return pause


@pytest.mark.slow
def test_live_sends_the_newest_once_there_is_room(live, frame, counts):
    bucket = Bucket(1000)
    outbox = live(Server(), pace=bucket)
    outbox.put(frame(0, bytes(300)))
    until(lambda: counts.sent)
    outbox.put(frame(1, bytes(300)))
    until(lambda: bucket.refused)
    outbox.put(frame(2, bytes(300)))
    assert outbox.flush(5)
    assert (counts.sent, counts.dropped) == ([0, 2], [(1, OVERTAKEN)])
    assert bucket.spent == 2 * (300 + 100)


def test_record_sends_all_in_order_and_empties_the_spool(record, frame, counts, spool):
    server = Server()
    outbox = record(server)
    for number in range(50):
        assert outbox.ready
        assert outbox.put(frame(1000, b"%d" % number)) == number, "the spool gives the number"
    assert outbox.flush(10)
    assert counts.sent == list(range(50))
    assert [f.jpeg for f in server.taken] == [b"%d" % number for number in range(50)]
    until(lambda: spool.count == 0)


@pytest.mark.slow
def test_record_keeps_everything_through_an_outage(record, frame, counts, spool, caplog):
    server = Server(away)
    outbox = record(server)
    for number in range(20):
        outbox.put(frame(0, b"%d" % number))
    until(lambda: len(server.tried) >= 3)
    assert {f.sequence for f in server.tried} == {0}, "in order: the first first"
    assert not outbox.flush(0.01)
    assert (spool.count, counts.dropped, outbox.ready) == (20, [], True)
    server.behavior = lambda _: None
    assert outbox.flush(10)
    assert counts.sent == list(range(20))
    assert caplog.text.count("can't be reached") == 1


def test_record_pauses_grow_to_ten_seconds_and_no_further():
    from device.delivery.backoff import Backoff
    from device.delivery.record import MAX_DELAY

    backoff = Backoff("server", MAX_DELAY)
    pauses = [backoff.failed(DeliveryError("away")) for _ in range(100_000)]
    assert pauses[:7] == [0.25, 0.5, 1, 2, 4, 8, 10]
    assert set(pauses[6:]) == {10}
    backoff.succeeded()
    assert backoff.failed(DeliveryError("away")) == 0.25


@pytest.mark.slow
def test_record_a_bad_frame_holds_up_no_other(record, frame, counts, spool):
    server = Server(lambda f: reject(f) if f.sequence % 2 else None)
    outbox = record(server)
    for _ in range(6):
        outbox.put(frame(0))
    assert outbox.flush(10)
    assert (counts.sent, counts.dropped) == ([0, 2, 4], [(1, REJECTED), (3, REJECTED), (5, REJECTED)])
    until(lambda: spool.count == 0)


def test_record_what_is_not_sent_stays_in_the_spool_for_the_next_start(record, frame, counts, spool):
    outbox = record(Server(away))
    for _ in range(5):
        outbox.put(frame(0))
    started = time.monotonic()
    outbox.close()
    assert time.monotonic() - started < 2
    assert spool.count == 5
    assert counts.dropped == []
    again = record(Server())
    assert again.flush(10), "at the start what waits is sent, without a new frame"
    assert counts.sent == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_record_goes_on_recording_while_a_server_refuses_all(record, frame, counts, spool):
    willing = threading.Event()
    server = Server(lambda f: None if willing.is_set() else refuse(f))
    outbox = record(server)
    outbox.put(frame(0, b"0"))
    until(lambda: len(server.tried) >= 2)
    assert outbox.ready
    assert (outbox.failure, outbox.refusal, outbox.trouble) == (None, None, "server answered 401")
    outbox.put(frame(0, b"1"))
    assert spool.count == 2
    willing.set()
    assert outbox.flush(10)
    assert (counts.sent, counts.dropped, outbox.trouble) == ([0, 1], [], None)


@pytest.mark.slow
def test_record_a_frame_over_which_the_server_fails_is_tried_again_and_given_up_in_the_end(
    record, frame, counts, spool, monkeypatch
):
    def fail(f):
        if f.jpeg == b"bad":
            raise FaultError("server answered 500")

    server = Server(fail)
    outbox = record(server)
    for jpeg in (b"good", b"bad", b"fine", b"fine", b"fine"):
        outbox.put(frame(0, jpeg))
    until(lambda: len(server.tried) >= 4)
    assert [f.sequence for f in server.tried[:4]] == [0, 1, 1, 1], "its fault may pass"
    assert spool.count == 4
    monkeypatch.setattr("device.delivery.record.FAULT_SECONDS", 0.5)
    assert outbox.flush(10), "but it does not hold up the others for ever"
    assert counts.sent == [0, 2, 3, 4]
    assert counts.dropped == [(1, REJECTED)]


@pytest.mark.slow
def test_record_while_a_server_fails_over_every_frame_none_is_given_up_and_then_all_arrive_once(
    record, frame, counts, spool, monkeypatch
):
    monkeypatch.setattr("device.delivery.record.FAULT_SECONDS", 0.0)
    out_of_order = threading.Event()
    out_of_order.set()

    def fail(_frame):
        if out_of_order.is_set():
            raise FaultError("server answered 500")

    server = Server(fail)
    outbox = record(server)
    for number in range(6):
        outbox.put(frame(0, b"%d" % number))
    until(lambda: len({f.sequence for f in server.tried}) >= 3, 20)
    assert (spool.count, counts.dropped) == (6, []), "it is not the frames"
    out_of_order.clear()
    assert outbox.flush(20)
    assert counts.dropped == []
    assert sorted(counts.sent) == list(range(6))
    assert sorted(f.sequence for f in server.taken) == list(range(6)), "each once"


@pytest.mark.slow
@pytest.mark.release
def test_record_of_several_frames_that_a_proxy_keeps_out_each_is_given_up_and_no_other(
    record, frame, counts, spool, monkeypatch
):
    monkeypatch.setattr("device.delivery.record.FAULT_SECONDS", 0.3)
    large = {1, 2, 5}

    def keep_out(f):
        if f.sequence in large:
            raise FaultError("server answered 413 with no reason of the server's own")

    outbox = record(Server(keep_out))
    for number in range(16):
        outbox.put(frame(0, b"%d" % number))
    assert outbox.flush(30)
    assert counts.dropped == [(number, REJECTED) for number in sorted(large)]
    assert sorted(counts.sent) == [number for number in range(16) if number not in large]
    until(lambda: spool.count == 0)


@pytest.mark.slow
def test_record_a_last_frame_over_which_the_server_fails_is_kept_while_there_is_no_other_to_try(
    record, frame, counts, spool, monkeypatch
):
    monkeypatch.setattr("device.delivery.record.FAULT_SECONDS", 0.0)
    server = Server(lambda f: (_ for _ in ()).throw(FaultError("500")) if f.sequence == 0 else None)
    outbox = record(server)
    outbox.put(frame(0))
    until(lambda: len(server.tried) >= 4)
    assert (spool.count, counts.dropped) == (1, [])
    for _ in range(3):
        outbox.put(frame(0))
    assert outbox.flush(20)
    assert (counts.sent, counts.dropped) == ([1, 2, 3], [(0, REJECTED)])


def test_record_close_cuts_a_try_that_hangs_and_the_frame_stays(record, frame, counts, spool):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        outbox = record(HttpSender(url, timeout=30), close_seconds=0.2)
        outbox.put(frame(0))
        with silent.accept()[0] as connection:
            assert connection.recv(1), "the try is under way"
            started = time.monotonic()
            outbox.close()
            assert time.monotonic() - started < 1
    assert not threads("record outbox cam")
    assert (spool.count, counts.sent, counts.dropped) == (1, [], [])


@pytest.mark.slow
@needs_broker
def test_close_cuts_a_goodbye_to_a_broker_that_hangs(broker, frame, counts):
    tried = []

    class Noted(MqttSender):
        def send(self, frame):
            tried.append(frame)
            return super().send(frame)

    outbox = counts.of(LiveOutbox(Link(Noted(broker.url, "cam", timeout=30))))
    outbox.put(frame(0))
    assert outbox.flush(10)
    broker.process.send_signal(signal.SIGSTOP)
    try:
        outbox.put(frame(1))
        until(lambda: len(tried) == 2)
        started = time.monotonic()
        outbox.close()
        assert time.monotonic() - started < 2
        assert not threads("live outbox")
    finally:
        broker.process.send_signal(signal.SIGCONT)
    # nobody has subscribed
    assert (counts.sent, counts.dropped) == ([], [(0, UNHEARD), (1, STOPPED)])


@pytest.mark.slow
def test_record_a_server_that_rejects_everything_does_not_empty_the_spool_in_no_time(record, frame, counts, spool):
    started = time.monotonic()
    outbox = record(Server(reject))
    for number in range(50):
        outbox.put(frame(0, b"%d" % number))
    until(lambda: len(counts.dropped) >= 3)
    assert time.monotonic() - started >= 0.7, "pauses of 0.25 and 0.5 s lie between them"
    assert spool.count >= 46


def test_record_cameras_share_a_spool_and_one_that_is_stuck_holds_up_no_other(record, moment, counts, spool):
    stuck, fine = Server(away), Server()
    one, two = record(stuck, "one"), record(fine, "two")
    for number in range(10):
        for camera, outbox in (("one", one), ("two", two)):
            outbox.put(OutgoingFrame(camera, 0, moment, b"%d" % number))
    assert two.flush(10)
    assert [f.sequence for f in fine.taken] == list(range(10))
    assert (spool.waiting("one"), spool.waiting("two")) == (10, 0)


@pytest.mark.slow
def test_record_keeps_to_the_pace_and_close_interrupts_the_wait(record, frame):
    bucket = Bucket(1000)
    server = Server()
    outbox = record(server, pace=bucket)
    started = time.monotonic()
    for _ in range(3):
        outbox.put(frame(0, bytes(200)))
    assert outbox.flush(10)
    assert time.monotonic() - started >= 0.55
    assert bucket.spent == 3 * 300
    bucket.rate = 1
    for _ in range(2):
        outbox.put(frame(0, bytes(200)))
    until(lambda: len(server.taken) == 4)
    started = time.monotonic()
    outbox.close()
    assert time.monotonic() - started < 1


def test_record_a_full_disk_drops_frames_and_is_tried_again_with_each(
    record, frame, counts, spool, monkeypatch, caplog
):
    caplog.set_level("INFO")
    outbox = record(Server())
    real = Database.insert

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Database, "insert", full)
    for sequence in range(3):
        assert outbox.put(frame(sequence)) == -1
    assert counts.dropped == [(sequence, DISK_FULL) for sequence in range(3)]
    assert outbox.failure is None
    monkeypatch.setattr(Database, "insert", real)
    assert outbox.put(frame(3)) == 3, "a number is not used again, whatever became of its frame"
    assert outbox.flush(10)
    assert counts.sent == [3]
    assert caplog.text.count("frames are dropped until that changes") == 1
    assert caplog.text.count("the spool takes frames again") == 1


def test_record_a_disk_that_cannot_delete_does_not_send_a_frame_again_and_again(
    record, frame, counts, spool, monkeypatch
):
    real = Database.delete

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Database, "delete", full)
    outbox = record(Server())
    for _ in range(4):
        outbox.put(frame(0))
    assert outbox.flush(10)
    assert counts.sent == [0, 1, 2, 3]
    assert spool.count == 4
    monkeypatch.setattr(Database, "delete", real)
    outbox.put(frame(0))
    assert outbox.flush(10)
    until(lambda: spool.count == 0)
    assert counts.sent == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_a_frame_of_a_file_waits_until_the_server_takes_it(recorder, frame, wait, counts, caplog):
    caplog.set_level("INFO")
    recorder.answers = [(503, {}), (429, {}), (201, {})]
    outbox = wait(HttpSender(recorder.url))
    assert outbox.put(frame(3)) == 3
    assert [headers["Rjpeg-Sequence"] for _, headers, _ in recorder.requests] == ["3", "3", "3"]
    assert counts.sent == [3]
    assert "trying again for 20 s" in caplog.text
    assert f"{recorder.url} takes frames again" in caplog.text
    assert outbox.flush(1)
    outbox.close()


def test_a_rejected_frame_of_a_file_is_counted_and_the_run_goes_on(frame, wait, counts, caplog):
    outbox = wait(Server(reject))
    assert outbox.put(frame(3)) == -1
    assert counts.dropped == [(3, REJECTED)]
    assert "frame 3: server answered 422" in caplog.text
    assert outbox.failure is None
    outbox.close()


def test_a_refusal_of_files_is_raised_at_once(frame, wait):
    outbox = wait(Server(refuse))
    with pytest.raises(RefusedError):
        outbox.put(frame(0))
    assert isinstance(outbox.failure, RefusedError)
    outbox.close()


@pytest.mark.slow
def test_an_unreachable_server_is_given_up_in_time(frame, wait):
    outbox = wait(HttpSender("http://127.0.0.1:1"), retry_seconds=1)
    started = time.monotonic()
    with pytest.raises(DeliveryError, match=r"http://127.0.0.1:1 can't be reached: Connection refused; gave up"):
        outbox.put(frame(0))
    assert 1 <= time.monotonic() - started < 3
    outbox.close()


@pytest.mark.slow
def test_a_server_that_never_answers_is_given_up_in_time(frame, wait):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        sender = HttpSender(url, timeout=0.3)
        outbox = wait(sender, retry_seconds=0)
        started = time.monotonic()
        with pytest.raises(DeliveryError, match="no answer in time; gave up after"):
            outbox.put(frame(0))
        assert time.monotonic() - started < 2
        outbox.close()


def test_a_wait_for_the_server_ends_when_the_program_does(frame, wait, counts):
    server = Server(away)
    outbox = wait(server, retry_seconds=1000)
    thread = threading.Thread(target=outbox.put, args=[frame(0)])
    thread.start()
    until(lambda: server.tried)
    outbox.close()
    thread.join(5)
    assert not thread.is_alive()
    assert counts.dropped == [(0, STOPPED)]


@pytest.mark.slow
def test_a_file_s_frame_whose_try_hangs_at_the_end_counts_once(frame, wait, counts):
    release = threading.Event()
    server = Server(lambda _: release.wait(20))
    outbox = wait(server, retry_seconds=1000, close_seconds=0.1)
    thread = threading.Thread(target=outbox.put, args=[frame(0)])
    thread.start()
    until(lambda: server.tried)
    started = time.monotonic()
    outbox.close()
    assert time.monotonic() - started < 2
    assert server.is_cut
    assert counts.dropped == [(0, STOPPED)]
    release.set()
    thread.join(5)
    assert (counts.sent, counts.dropped) == ([], [(0, STOPPED)])


def test_a_file_in_the_folder_is_whole_named_by_time_and_number_and_as_readable_as_any(tmp_path, moment):
    sender = FolderSender(tmp_path / "new")
    path = Path(sender.send(OutgoingFrame("cam", 7, moment, b"jpeg")))
    assert path == tmp_path / "new" / "20260304T050607.000089Z-00000007.jpg"
    assert path.read_bytes() == b"jpeg"
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_cameras_that_share_a_folder_have_their_names_in_the_files(tmp_path, moment):
    def name(out, camera, *, is_alone):
        sender = open_sender(DeliveryConfig(out=str(out)), camera, is_alone=is_alone)
        return Path(sender.send(OutgoingFrame(camera, 7, moment, b"jpeg"))).relative_to(tmp_path)

    alone = "20260304T050607.000089Z-00000007.jpg"
    assert name(tmp_path, "front", is_alone=True) == Path(alone)
    for camera in ("front", "back"):
        assert name(tmp_path, camera, is_alone=False) == Path(f"{camera}-{alone}")
        assert name(tmp_path / "of-{camera}", camera, is_alone=False) == Path(f"of-{camera}") / alone


def test_a_full_disk_leaves_neither_half_a_file_nor_a_temporary_one(tmp_path, frame, monkeypatch, wait):
    real_open = Path.open

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, data):
            self.file.write(data[:2])
            self.file.flush()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "open", lambda self, mode: Full(real_open(self, mode)))
    outbox = wait(FolderSender(tmp_path), retry_seconds=10)
    with pytest.raises(StorageError, match=r"00000007\.jpg: No space left on device"):
        outbox.put(frame(7))
    assert list(tmp_path.iterdir()) == []
    outbox.close()


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path, frame):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Not a directory"):
        FolderSender(tmp_path / "file" / "out").send(frame(7))


def test_the_settings_choose_the_way_and_the_policy(tmp_path, spool):
    for server, kind in (("http://127.0.0.1:1", HttpSender), ("mqtt://127.0.0.1:1", MqttSender)):
        sender = open_sender(DeliveryConfig(server=server), "cam")
        assert type(sender) is kind
        sender.close()
    out = DeliveryConfig(out=str(tmp_path / "out"))
    assert type(open_sender(out, "cam")) is FolderSender
    server = DeliveryConfig(server="http://127.0.0.1:1")
    record = DeliveryConfig(server="http://127.0.0.1:1", policy="record")
    for config, live, kind in (
        (out, True, WaitOutbox),
        (server, False, WaitOutbox),
        (server, True, LiveOutbox),
        (record, True, RecordOutbox),
        (record, False, RecordOutbox),
    ):
        outbox = open_outbox(config, Link(open_sender(config, "cam")), "cam", spool, live=live)
        assert type(outbox) is kind
        outbox.close()
    with pytest.raises(ConfigError, match="record needs a spool"):
        open_outbox(record, Link(open_sender(record, "cam")), "cam", None, live=True)


@pytest.mark.release
def test_record_delivers_every_frame_once_to_a_server_that_is_killed_again_and_again(record, spool, moment, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    outbox = record(HttpSender(f"http://127.0.0.1:{port}", timeout=10))
    jpeg = rjpeg.Encoder().encode(np.zeros((16, 16, 3), np.uint8), quality=50)
    number = 60
    put = threading.Thread(target=lambda: [outbox.put(OutgoingFrame("cam", 0, moment, jpeg)) for _ in range(number)])
    put.start()
    records = []
    for round_number in range(3):
        server = Service("--workers", "1", data=tmp_path / "data", port=port)
        until(lambda server=server, enough=15 * (round_number + 1): len(server.frames()) >= enough, 30)
        server.stop(signal.SIGKILL)
        records += server.records()
    server = Service("--workers", "1", data=tmp_path / "data", port=port)
    put.join()
    assert outbox.flush(30)
    outbox.close()
    kept = server.frames()
    server.stop(signal.SIGKILL)
    records += server.records()
    assert [record["sequence"] for record in kept] == list(range(number))
    said = [record["sequence"] for record in records]
    assert len(said) == len(set(said)), "no frame is stored twice"
    assert spool.count == 0
