"""A camera's stream from its encoder to the outbox: what refers to what, and what it may cost."""

import itertools
import threading

import pytest

import rjpeg
from device.budget import KEY_GAP, Budget
from device.config import CameraConfig, EncodingConfig, SkipConfig
from device.delivery import LiveOutbox, RecordOutbox
from device.delivery.outbox import KEY_MISSING, REJECTED, SERVER_AWAY, UNHEARD, Link
from device.delivery.pacer import WINDOW_SECONDS, Pacer
from device.delivery.sender import BaseMissingError, RejectedError, UnheardError
from device.encoding import FrameEncoder, NoRoom
from device.frames import BASES, OutgoingFrame
from device.metrics import Metrics
from device.pipeline import KEY_UNDER_WAY, CameraSettings, Observers, Pipeline
from device.report import Report
from device.spool import Spool
from device.stream import CameraStream
from rjpeg.errors import DeliveryError, KeyMissingError
from tests.device.fakes import START, Clock, LiveSource, Records
from tests.device.scenes import scene
from tests.waiting import until


@pytest.fixture(scope="module")
def encoder():
    return rjpeg.Encoder()


class Server:
    """Decodes what it is sent. Its acknowledgments may be lost, its keys forgotten, and it may be away."""

    name = "server"

    def __init__(self, overhead=300):
        self.frames, self.tried = [], []
        self.lost = set()
        self.is_away = False
        self._overhead = overhead
        self._decoder = rjpeg.StreamDecoder(max_bases=1000)

    def send(self, frame):
        self.tried.append(frame)
        if self.is_away:
            raise DeliveryError("server can't be reached")
        identity = frame.identity
        if identity.base_id in self.lost:
            raise BaseMissingError(f"server answered 409: key missing ({identity.base_id})", identity.base_id)
        try:
            decoded = self._decoder.decode(frame.jpeg)
        except KeyMissingError as error:
            raise BaseMissingError(f"server answered 409: {error}", error.id) from error
        self.lost.discard(identity.id)
        self.frames.append((frame, decoded))
        return f"there/{frame.sequence}"

    @property
    def kinds(self):
        return [frame.identity.kind for frame, _ in self.frames]

    def overhead(self, size, *, is_base=False):
        return self._overhead

    def cut(self):
        pass

    def close(self):
        pass


class Scene(LiveSource):
    """A live camera: frame after frame whenever it is asked."""

    fps = 5.0

    def __init__(self, clock, seconds=0.2, place=lambda number: 0):
        super().__init__(clock)
        self._seconds, self._place = seconds, place
        self.number, self.ended = 0, False
        self.may_go_on = threading.Semaphore(0)

    def read(self, timeout):
        if not self.may_go_on.acquire(timeout=0.02):
            return None
        number, self.number = self.number, self.number + 1
        return self.captured(scene(number, width=160, height=128, place=self._place(number)), self._seconds)


class Camera:
    """A pipeline with its outbox and server, which takes frames when a test says so."""

    def __init__(self, encoder, server, spool=None, **scene):
        self.clock, self.server, self.records = Clock(), server, Records()
        self.source, self.report, self.metrics = Scene(self.clock, **scene), Report(), Metrics(["cam"])
        link = Link(server, clock=self.clock)
        self.outbox = LiveOutbox(link) if spool is None else RecordOutbox(link, "cam", spool)
        stream = CameraStream(rjpeg.StreamEncoder(encoder, acknowledge="explicit", clock=self.clock))
        self.pipeline = Pipeline(
            CameraSettings(CameraConfig("cam"), SkipConfig()),
            self.source,
            FrameEncoder(encoder, EncodingConfig(quality=50), None, server, stream),
            self.outbox,
            Observers(self.metrics, self.report, self.records),
            clock=self.clock,
        )
        self.pipeline.start()

    def take(self, number, settle=True):
        """Take so many frames, each after the one before was sent or dropped."""
        for _ in range(number):
            before = self.settled
            self.source.may_go_on.release()
            until(lambda: self.settled > before or not settle)  # noqa: B023

    @property
    def settled(self):
        return len(self.records) + sum(self.report.not_sent.values())

    def close(self):
        self.source.ended = True
        self.pipeline.close(5)
        self.pipeline.raise_failure()


@pytest.fixture
def camera(encoder):
    cameras = []

    def start(*arguments, **options):
        cameras.append(Camera(encoder, *arguments, **options))
        return cameras[-1]

    yield start
    for each in cameras:
        each.close()


def test_a_still_camera_sends_a_key_and_then_followers_that_cost_a_tenth(camera):
    server = Server()
    device = camera(server)
    device.take(8)
    assert server.kinds[0] == "key"
    assert "key" not in server.kinds[1:]
    sizes = [len(frame.jpeg) for frame, _ in server.frames]
    assert max(sizes[1:]) < sizes[0] / 5
    assert device.report.not_sent == {}
    counted = device.metrics.camera("cam").values()
    assert counted["sent_of_kinds"]["key"] == 1
    assert counted["bytes_of_kinds"]["key"] == sizes[0]
    assert sum(counted["sent_of_kinds"].values()) == 8
    assert device.report.summary()["summary"]["kinds"]["key"] == {"frames": 1, "bytes": sizes[0]}
    assert "follower" in device.report.total()
    assert [record["kind"] for record in device.records] == server.kinds
    assert device.records[0]["kept"] is None
    assert 0.5 < device.records[1]["kept"] < 1
    assert device.records[1]["base_id"] == device.records[0]["id"]


def test_nothing_refers_to_a_key_that_did_not_arrive(camera):
    server = Server()
    server.is_away = True
    device = camera(server)
    device.take(1)
    assert device.report.not_sent == {SERVER_AWAY: 1}
    server.is_away = False
    device.clock.now += 10
    device.take(3)
    assert server.kinds[0] == "key"
    assert len(server.frames) == 3


def test_followers_refer_to_a_key_that_nobody_took_if_the_broker_keeps_it(camera):
    server = Server()
    send = server.send

    def unheard(frame):
        send(frame)
        raise UnheardError("nobody has subscribed", is_kept=frame.identity.kind in BASES)

    server.send = unheard
    device = camera(server)
    device.take(4)
    assert device.report.not_sent == {UNHEARD: 4}
    assert device.records == []
    server.send = send
    device.take(2)
    assert (server.kinds[0], server.kinds.count("key")) == ("key", 1)
    assert [record["kind"] for record in device.records] == server.kinds[-2:]


def test_while_a_key_is_on_its_way_no_other_frame_is_encoded(camera):
    server, go = Server(), threading.Event()
    send = server.send
    server.send = lambda frame: go.wait(10) and send(frame)
    device = camera(server)
    device.take(1, settle=False)
    until(lambda: device.source.number == 1)
    device.take(3)
    assert device.report.not_sent == {KEY_UNDER_WAY: 3}
    go.set()
    until(lambda: len(device.records) == 1)
    device.take(2)
    assert server.kinds[0] == "key"
    assert set(server.kinds[1:]) <= {"follower", "patch"}


def test_a_server_that_lost_the_key_gets_it_again_and_then_the_frame(camera):
    server = Server()
    device = camera(server)
    device.take(2)
    server.lost.add(server.frames[0][0].identity.id)
    device.take(2)
    kinds = server.kinds
    assert kinds.count("key") == 2
    assert kinds.index("key", 1) == 2
    assert server.frames[0][0] == server.frames[2][0], "under its own number and time"
    assert device.report.not_sent == {}


def test_a_key_that_is_lost_on_both_sides_costs_one_live_frame(camera):
    server = Server()
    device = camera(server)
    device.take(2)
    server.lost.add(server.frames[0][0].identity.id)
    device.outbox._resender._kept.clear()
    device.take(1)
    assert device.report.not_sent == {KEY_MISSING: 1}
    device.clock.now += 10
    device.take(2)
    assert server.kinds[2] == "key"
    assert "key" not in server.kinds[3:]


def test_an_older_server_that_takes_no_followers_gets_keys(camera, caplog):
    server = Server()
    send = server.send

    def old(frame):
        if frame.identity.base_id is not None:
            raise RejectedError("server answered 422: region marker has format version 2, expected 1")
        return send(frame)

    server.send = old
    device = camera(server)
    device.take(10)
    assert server.kinds == ["key"] * 7
    assert device.report.not_sent == {REJECTED: 3}
    assert "takes no file that refers to another one" in caplog.text
    server.send = send
    device.clock.now += 700
    device.take(4)
    assert server.kinds[8:] != ["key"] * 3, "it is tried again"


def test_another_view_costs_no_burst_of_keys_and_no_file_that_is_larger_than_one(camera):
    server = Server()
    device = camera(server, place=lambda number: number // 4)
    device.take(12)
    assert server.kinds[0] == "key"
    assert server.kinds.count("key") <= 6
    sizes = [len(frame.jpeg) for frame, _ in server.frames]
    assert max(sizes) < 1.3 * sizes[0]


@pytest.mark.slow
def test_what_is_recorded_while_the_server_is_away_arrives_in_order_and_is_decoded(camera, tmp_path):
    spool = Spool(tmp_path, 10_000_000)
    server = Server()
    server.is_away = True
    device = camera(server, spool, place=lambda number: number // 6)
    device.take(12, settle=False)
    until(lambda: spool.waiting("cam") == 12)
    assert server.frames == []
    server.is_away = False
    device.outbox._sleep = lambda seconds: None
    until(lambda: len(server.frames) == 12)
    assert [frame.sequence for frame, _ in server.frames] == list(range(12))
    assert server.kinds[0] == "key"
    assert 1 <= server.kinds.count("key") <= 4, "what is in the spool will arrive, so frames refer to it"
    device.close()
    spool.close()


# --- within a bitrate ---------------------------------------------------------------------------------------------


def simulate(encoder, bitrate, fps, *, cameras=1, seconds=30, key_seconds=600.0, size=(320, 240)):
    """What cameras send over a link: (time, camera, kind, bytes on the wire, quality), None for a dropped frame."""
    clock, server = Clock(), Server()
    budget, pacer = Budget(bitrate, [fps] * cameras, 0.0), Pacer(bitrate, clock)
    encoders = []
    for number in range(cameras):
        stream = rjpeg.StreamEncoder(encoder, key_seconds=key_seconds, acknowledge="explicit", clock=clock)
        settings = EncodingConfig(bitrate=bitrate)
        encoders.append(FrameEncoder(encoder, settings, budget.shares[number], server, CameraStream(stream)))
    sent, free = [], [0.0] * cameras
    for count, number in itertools.product(range(int(seconds * fps)), range(cameras)):
        clock.now = count / fps
        if clock.now < free[number]:
            continue
        pixels = scene(count, width=size[0], height=size[1], place=number)
        coded = encoders[number].encode(pixels, clock.now, 0)
        if isinstance(coded, NoRoom):
            encoders[number].save_up(coded, clock.now)
            sent.append((clock.now, number, None, 0, 0))
            continue
        wire = encoders[number].wire_bytes(len(coded.jpeg), coded.kind)
        while (pause := pacer.take(wire, str(number))) > 0:
            clock.now += pause
        free[number] = clock.now
        frame = OutgoingFrame(str(number), count, START, coded.jpeg)
        encoders[number].stream.put(frame.summary, coded)
        encoders[number].stream.arrived(frame.summary)
        sent.append((clock.now, number, coded.kind, wire, coded.quality))
    return sent


def worst_window(sent):
    return max(
        sum(size for time, _, _, size, _ in sent if start <= time < start + WINDOW_SECONDS) for start, *_ in sent
    )


@pytest.mark.slow
def test_ten_kilobits_a_second_are_kept_to_in_every_ten_seconds_with_keys_among_them(encoder):
    sent = simulate(encoder, 10_000, 1.0, seconds=60)
    assert worst_window(sent) <= 10_000 / 8 * WINDOW_SECONDS
    kinds = [kind for _, _, kind, _, _ in sent]
    assert 1 <= kinds.count("key") <= 4
    keys = [quality for _, _, kind, _, quality in sent if kind == "key"]
    assert min(keys) > 25, "it takes room ahead of time"
    assert len([kind for kind in kinds if kind]) > 0.6 * 60, "and frames go on"
    plain = rjpeg.Encoder().encode_with_details(scene(0), target_bytes=825)
    assert plain.quality < 10


@pytest.mark.slow
def test_what_followers_save_goes_into_quality(encoder):
    sent = simulate(encoder, 300_000, 5.0, seconds=10)
    assert [kind for _, _, kind, _, _ in sent].count("key") == 1
    assert None not in [kind for _, _, kind, _, _ in sent]
    assert min(quality for _, _, kind, _, quality in sent if kind == "follower") > 70
    assert 70 < sent[0][4] <= 80


@pytest.mark.slow
def test_cameras_that_need_a_new_key_at_the_same_time_send_theirs_one_after_another(encoder):
    sent = simulate(encoder, 200_000, 1.0, cameras=3, seconds=50, key_seconds=12.0, size=(160, 128))
    keys = [(time, number) for time, number, kind, *_ in sent if kind == "key"]
    first, later = keys[:3], keys[3:]
    assert first == [(0.0, 0), (0.0, 1), (0.0, 2)], "nobody can do without the first"
    assert len(later) >= 6
    assert min(after - before for (before, _), (after, _) in itertools.pairwise(later)) >= KEY_GAP
    for number in range(3):
        times = [time for time, which in keys if which == number]
        assert max(after - before for before, after in itertools.pairwise(times)) <= 12 + 3 * KEY_GAP
    assert worst_window(sent) <= 200_000 / 8 * WINDOW_SECONDS


def test_while_the_server_is_away_keys_are_small_and_a_finer_one_follows_the_first_that_arrives(encoder):
    clock, server = Clock(), Server()
    budget = Budget(20_000, [1.0], 0.0)
    stream = CameraStream(rjpeg.StreamEncoder(encoder, acknowledge="explicit", clock=clock))
    frames = FrameEncoder(encoder, EncodingConfig(bitrate=20_000), budget.shares[0], server, stream)
    probes = []
    for _ in range(5):
        clock.now += 2
        coded = frames.encode(scene(int(clock.now)), clock.now, 0, is_probe=True)
        summary = OutgoingFrame("cam", 0, START, coded.jpeg).summary
        stream.put(summary, coded)
        probes.append(len(coded.jpeg))
        assert coded.kind == "key"
        if len(probes) < 5:
            stream.dropped(summary, None)
    stream.arrived(summary)
    assert max(probes) <= 2 * 0.9 * 20_000 / 8
    kinds = []
    for _ in range(4):
        clock.now += 1
        coded = frames.encode(scene(int(clock.now)), clock.now, 0)
        kinds.append(coded.kind)
        if coded.kind == "key":
            assert len(coded.jpeg) > 1.3 * max(probes)
            break
    assert kinds[-1] == "key"
    assert kinds[0] != "key", "not at once after the last one"


def test_a_key_pays_back_what_it_took_ahead_and_frames_go_on_meanwhile():
    share = Budget(80_000, [10], 0.0).shares[0]
    assert share.key_room(0.0) == 900 + 36_000
    share.spend_on_key(18_900, 0.0)
    assert share.key_room(0.0) == 18_000, "a second one gets less"
    assert share.room(1.0) == pytest.approx(4_500, abs=1)
    share.spend(4_500)
    assert share.room(2.0) == pytest.approx(4_500, abs=1)
    share.spend(4_500)
    assert share.room(5.0) == pytest.approx(10_000, abs=1)
    assert share.key_room(5.0) == 46_000, "all is paid back"


def test_a_key_is_never_larger_than_five_seconds_of_the_cap():
    share = Budget(80_000, [0.1], 0.0).shares[0]
    share.room(100.0)
    assert share.key_room(100.0) == share.key_capacity == 50_000


def test_a_share_s_key_takes_nothing_from_another_camera():
    one, other = Budget(80_000, [5, 5], 0.0).shares
    other.spend(900)
    one.spend_on_key(one.key_room(0.0), 0.0)
    assert other.room(0.2) == 900
