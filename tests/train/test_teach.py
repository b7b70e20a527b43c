"""A camera's map: what it says, where its frames come from, and that a newcomer is seen where nothing ever was."""

import datetime
import itertools
import json
import signal

import cv2
import numpy as np
import pytest

import rjpeg
from rjpeg._files import network_folder
from rjpeg.client import Client
from rjpeg.errors import ConfigError, InputError
from tests.service import Service
from tests.train.tiny_graph import nanodet
from tests.train.tiny_onnx import sighted
from train import teach
from train.camera_map import MapSettings, camera_map
from train.frame_importance import FrameImportance
from train.teach_frames import from_archive, from_video, is_like
from train.teach_report import Shares, expected_shares
from train.teachers import load_teacher
from train.tfjs_teacher import FILE, FOLDER

RNG = np.random.default_rng(3)
GRID = (9, 16)
HEIGHT, WIDTH = GRID[0] * 16, GRID[1] * 16
START = datetime.datetime(2026, 5, 4, 6, tzinfo=datetime.UTC)


def ground(noise: float = 2.0, seed: int = 0) -> np.ndarray:
    """A dim scene with texture on it and the noise of a sensor."""
    texture = np.random.default_rng(9).normal(90, 18, (HEIGHT, WIDTH, 3))
    smooth = cv2.GaussianBlur(texture, (0, 0), 1.5)
    return np.clip(smooth + np.random.default_rng(seed).normal(0, noise, smooth.shape), 0, 255).astype(np.uint8)


def with_thing(left: int, top: int, seed: int = 0, side: int = 32) -> np.ndarray:
    """The scene with something bright in it, with texture."""
    frame = ground(seed=seed)
    thing = np.random.default_rng(7).normal(200, 25, (side, side, 1))
    frame[top : top + side, left : left + side] = np.clip(thing, 0, 255).astype(np.uint8)
    return frame


def on_the_path(number: int) -> np.ndarray:
    """Frame `number` of a camera where things pass in the lower third, and nowhere else."""
    return with_thing(left=8 * number % (WIDTH - 32), top=HEIGHT - 40, seed=number)


@pytest.fixture(scope="module")
def teacher_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("sighted") / "sighted.onnx"
    sighted(path)
    return path


@pytest.fixture(scope="module")
def measure(teacher_file):
    return FrameImportance(load_teacher(str(teacher_file), None))


@pytest.fixture(scope="module")
def learned(measure):
    return [measure(np.ascontiguousarray(on_the_path(number)[..., ::-1]))[..., 0] for number in range(0, 32, 2)]


@pytest.mark.slow
def test_the_map_is_high_where_things_pass_and_low_where_none_do(learned):
    octaves = camera_map(learned)
    assert octaves.shape == GRID
    settings = MapSettings()
    assert octaves[-3:].mean() > octaves[:4].mean() + 0.8
    assert (settings.floor <= octaves).all()
    assert (octaves <= settings.ceiling).all()


def test_few_frames_say_little():
    frame = RNG.normal(0, 3, GRID)
    one, many = (camera_map([frame] * count, MapSettings(middle=0, floor=-99, ceiling=99)) for count in (1, 60))
    np.testing.assert_allclose(one, (frame - frame.mean()) / 5, atol=1e-4)
    np.testing.assert_allclose(many, (frame - frame.mean()) * 60 / 64, atol=1e-4)
    with pytest.raises(InputError, match="there is none"):
        camera_map([])


def test_frames_of_another_size_join_the_others():
    assert camera_map([np.zeros(GRID), np.zeros((5, 8)), np.zeros(GRID)]).shape == GRID


@pytest.mark.slow
@pytest.mark.parametrize("quality", [20, 40])
def test_somebody_where_nothing_was_ever_seen_is_sent(learned, quality):
    left, top = 96, 16
    never = [one.copy() for one in learned]
    for one in never:
        one[: top // 16 + 2] -= 20
    octaves = camera_map(never)
    assert (octaves[top // 16 : top // 16 + 2, left // 16 : left // 16 + 2] == octaves.min()).all()
    encoder = rjpeg.StreamEncoder(importance=octaves)
    encoder.encode(ground(seed=50), quality=quality)
    coded = encoder.encode(with_thing(left, top, seed=51), quality=quality)
    assert coded.kind != "key"
    assert not coded.kept[top // 16 : top // 16 + 2, left // 16 : left // 16 + 2].any()


@pytest.mark.slow
def test_the_map_saves_on_frames_that_it_was_not_made_of(measure):
    frames = []
    for number in range(16):
        frame = on_the_path(number)
        # dark leaves that the teacher does not care for
        leaves = cv2.GaussianBlur(RNG.normal(0, 60, (HEIGHT // 2, WIDTH)), (0, 0), 2)[..., None]
        frame[: HEIGHT // 2] = np.clip(frame[: HEIGHT // 2] + leaves - 40, 0, 255)
        frames.append(frame)
    found = [measure(np.ascontiguousarray(frame[..., ::-1]))[..., 0] for frame in frames]
    shares = expected_shares(frames, found, measure, MapSettings())
    assert 0.2 < shares.taught < 0.9
    assert shares.taught < shares.flat - 0.05, "places say more than a flat map"
    assert expected_shares(frames[:6], found[:6], measure, MapSettings()) == Shares(None, None)


def film(path, count: int = 24):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 4, (WIDTH, HEIGHT))
    for number in range(count):
        writer.write(on_the_path(number))
    writer.release()
    return path


def test_frames_of_a_half_are_of_that_half_and_none_is_like_another(tmp_path):
    path = film(tmp_path / "yard.avi")
    halves = [from_video(path, 6, half) for half in ("first", "second")]
    assert [len(half) for half in halves] == [6, 6]
    lefts = [[int((frame[..., 0] > 150).any(0).argmax()) for frame in half] for half in halves]
    assert max(lefts[0]) < min(lefts[1]) + 8
    assert not any(is_like(one, other) for half in halves for one, other in itertools.pairwise(half))
    assert from_video(path, 6, "whole", 128)[0].shape == (72, 128, 3)
    with pytest.raises(InputError, match=r"none\.avi is not a file"):
        from_video(tmp_path / "none.avi", 6)


def test_a_still_video_gives_one_frame(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "still.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 4, (WIDTH, HEIGHT))
    for number in range(8):
        writer.write(ground(seed=number))
    writer.release()
    assert len(from_video(tmp_path / "still.avi", 6)) == 1


@pytest.mark.slow
def test_a_video_becomes_a_map_and_a_report(tmp_path, teacher_file, capsys):
    out, report = tmp_path / "yard.importance", tmp_path / "report"
    video = film(tmp_path / "yard.avi")
    arguments = ["--video", video, "--teacher", teacher_file, "--out", out, "--report", report, "--frames", "12"]
    assert teach.main([*map(str, arguments), "--least-saving=-1", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["handed_over"]
    assert facts["frames"] == 12
    assert facts["teachers"] == ["sighted.onnx"]
    assert 0 < facts["expected_bytes"] < 1.5
    assert 0 < facts["expected_bytes_flat"] < 1.5
    octaves = rjpeg.unpack_importance(out.read_bytes()).octaves
    assert octaves.shape == (facts["rows"], facts["cols"]) == GRID
    assert octaves[-3:].mean() > octaves[:4].mean() + 0.8
    assert cv2.imread(str(report / "map.jpg")).shape == (HEIGHT, 2 * WIDTH, 3)
    assert json.loads((report / "report.json").read_text("utf-8"))["expected_bytes"] == facts["expected_bytes"]


@pytest.mark.slow
def test_if_no_teacher_is_named_the_detector_that_was_fetched_teaches(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = network_folder(FOLDER) / FILE
    file.parent.mkdir(parents=True)
    nanodet(file)
    arguments = ["--video", film(tmp_path / "yard.avi"), "--out", tmp_path / "y", "--report", tmp_path / "report"]
    assert teach.main([*map(str, arguments), "--frames", "4", "--no-try", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["teachers"] == ["detector"]
    assert rjpeg.unpack_importance((tmp_path / "y").read_bytes()).octaves.shape == GRID


@pytest.mark.slow
def test_a_map_that_is_not_expected_to_pay_is_in_the_report_alone(archive, tmp_path, teacher_file, capsys):
    taken = ["--teacher", teacher_file, "--report", tmp_path / "report", "--frames", "12", "--least-saving", "0.99"]
    video = ["--video", film(tmp_path / "yard.avi"), "--out", tmp_path / "yard.importance"]
    assert teach.main([*map(str, [*video, *taken])]) == 0
    assert "less than --least-saving asks for" in capsys.readouterr().out
    assert rjpeg.unpack_importance((tmp_path / "report" / "map.importance").read_bytes()).octaves.shape == GRID
    assert not (tmp_path / "yard.importance").exists()
    assert teach.main([*map(str, ["--server", archive.url, "--camera", "yard", *taken]), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["handed_over"], facts["version"]) == (False, None)


@pytest.fixture(scope="module")
def archive():
    """A server with tokens, to which a camera sent a stream over two days: keys and followers."""
    service = Service()
    try:
        encoder = rjpeg.StreamEncoder(key_seconds=1e9)
        with Client(service.url) as client:
            for number in range(20):
                when = START + datetime.timedelta(hours=2.5 * number)
                coded = encoder.encode(on_the_path(number), quality=60)
                client.send("yard", coded.jpeg, sequence=number, capture_time=when)
        yield service
    finally:
        service.stop(signal.SIGKILL)


@pytest.mark.slow
def test_frames_are_spread_over_the_days_and_followers_are_decoded(archive):
    with Client(archive.url) as client:
        kinds = {frame.kind for frame in client.frames("yard")}
        frames = from_archive(client, "yard", 8, days=7)
        recent = from_archive(client, "yard", 50, days=1)
    assert "follower" in kinds
    assert len(frames) == 8
    # a follower without its key would be mostly gray
    assert all(np.abs(frame[:64].astype(int) - ground()[:64]).mean() < 12 for frame in frames)
    assert 5 <= len(recent) <= 10
    with Client(archive.url) as client, pytest.raises(InputError):
        from_archive(client, "nobody", 8, days=7)


@pytest.mark.slow
def test_the_server_gets_the_map_of_its_camera(archive, tmp_path, teacher_file, capsys):
    arguments = ["--server", archive.url, "--camera", "yard", "--teacher", teacher_file, "--frames", "10"]
    assert teach.main([*map(str, arguments), "--report", str(tmp_path), "--no-try"]) == 0
    assert "the server has it as version 1" in capsys.readouterr().out
    with Client(archive.url) as client:
        found = client.importance("yard")
    assert found.version == 1
    assert found.octaves[-3:].mean() > found.octaves[:4].mean() + 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--teacher", "a"], "either --server URL"),
        (["--teacher", "a", "--server", "http://x"], "--camera"),
        (["--teacher", "a", "--video", "x.avi"], "--out"),
        (["--teacher", "a", "--video", "x.avi", "--out", "y", "--every", "24h"], "--every needs --server"),
        (["--teacher", "a", "--server", "http://x", "--camera", "c", "--every", "daily"], "daily"),
        (["--teacher", "a", "--server", "http://x", "--camera", "c", "--frames", "1"], "--frames is 1"),
        (["--server", "http://x", "--camera", "c", "--least-saving", "1"], "--least-saving is 1, expected a share"),
        (["--teacher", "a", "--server", "http://127.0.0.1:9", "--camera", "c"], "127.0.0.1:9"),
        (["--teacher", "nobody.onnx", "--video", "{film}", "--out", "{folder}/y"], "nobody.onnx"),
        (["--video", "{film}", "--out", "{folder}/y"], "teacher 'detector' is not in"),
    ],
)
def test_mistakes_are_said_in_one_line(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    places = {"film": str(film(tmp_path / "yard.avi", 4)), "folder": str(tmp_path)}
    assert teach.main([part.format(**places) for part in arguments]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith("error: ")
    assert message in said[-1]


def test_times_have_units():
    assert [teach.parse_time(text) for text in (None, "90s", "30m", "24h", "7d")] == [None, 90, 1800, 86400, 604800]
    for text in ("", "24", "0h", "h", "-1d"):
        with pytest.raises(ConfigError, match="expected a time"):
            teach.parse_time(text)
