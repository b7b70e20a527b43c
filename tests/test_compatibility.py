"""Programs of other people, each on real files: docs/compatibility.md has a row for each.

A program that the system lacks is skipped.
"""

import re
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
import requests

import rjpeg
from rjpeg.reader import VideoReader
from tests.rjpeg.streams import coded_film
from tests.service import Service

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


def run(*command, cwd=None):
    """The output of a program; the test is skipped if the system lacks it."""
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()[-500:]
    return done.stdout.decode() + done.stderr.decode()


@pytest.fixture(scope="module")
def photograph():
    return cv2.imread(str(ROOT / "calibration_data" / "chelsea.jpg"))[:301, :451]


@pytest.fixture(scope="module")
def files(tmp_path_factory, photograph):
    """A key, a patch and followers, in both layouts, and a single file whose sides are odd: paths by name."""
    folder = tmp_path_factory.mktemp("files")
    contents = {"single": rjpeg.Encoder().encode(photograph, 60)}
    contents |= {f"{each.kind}{number}": each.jpeg for number, each in enumerate(coded_film(64, 96, 9))}
    soft = rjpeg.StreamEncoder(plain_view="soft")
    for number in range(3):
        frame = photograph[:160, :208].copy()
        frame[40:72, 16 * number : 16 * number + 32] = 255
        contents[f"soft{number}"] = soft.encode(frame, 60).jpeg
    for name, jpeg in contents.items():
        (folder / f"{name}.jpg").write_bytes(jpeg)
    return sorted(folder.glob("*.jpg"))


def is_plain_view(picture, path):
    """Whether a picture is what a viewer is to show of a file. Decoders differ in how they enlarge chroma."""
    expected = rjpeg.Decoder().decode_plain(path.read_bytes())
    assert picture is not None
    assert picture.shape == expected.shape
    luma, expected_luma = (cv2.cvtColor(each, cv2.COLOR_BGR2GRAY).astype(int) for each in (picture, expected))
    return np.abs(luma - expected_luma).mean() < 2


def test_jpeginfo_finds_no_fault(files):
    for path in files:
        assert re.search(r"\bOK\b", run("jpeginfo", "-c", path))


def test_exiftool_finds_no_fault_and_what_it_adds_changes_no_picture(files, tmp_path):
    for path in files:
        warnings = run("exiftool", "-s3", "-warning", "-a", path).splitlines()
        assert set(warnings) <= {"[minor] Unknown APP10 segment"}
        changed = tmp_path / path.name
        run("exiftool", "-artist=somebody", "-comment=here", "-o", changed, path)
        assert rjpeg.identify(changed.read_bytes()) == rjpeg.identify(path.read_bytes())
    single = next(path for path in files if path.stem == "single")
    changed = tmp_path / single.name
    np.testing.assert_array_equal(
        rjpeg.Decoder().decode(changed.read_bytes()), rjpeg.Decoder().decode(single.read_bytes())
    )


def test_imagemagick_shows_the_plain_view(files, tmp_path):
    # other programs have this name, too
    found = (
        subprocess.run(["convert", "-version"], capture_output=True, check=False) if shutil.which("convert") else None
    )
    if found is None or b"Version: ImageMagick" not in found.stdout:
        pytest.skip("ImageMagick is not installed")
    for path in files:
        run("convert", path, "png:" + str(tmp_path / "a.png"))
        assert is_plain_view(cv2.imread(str(tmp_path / "a.png")), path)


def test_libvips_shows_the_plain_view(files, tmp_path):
    for path in files:
        run("vips", "copy", f"{path}[fail]", tmp_path / "a.png")
        assert is_plain_view(cv2.imread(str(tmp_path / "a.png")), path)


def test_gstreamer_shows_the_plain_view(files, tmp_path):
    for path in files:
        shown = tmp_path / "a.png"
        decoding = ["filesrc", f"location={path}", "!", "jpegparse", "!", "jpegdec", "max-errors=0"]
        drawing = ["videoconvert", "!", "pngenc", "snapshot=true", "!", "filesink", f"location={shown}"]
        run("gst-launch-1.0", "-q", *decoding, "!", *drawing)
        assert is_plain_view(cv2.imread(str(shown)), path)


def test_djpeg_and_jpegtran_take_every_file(files, tmp_path):
    for path in files:
        assert run("djpeg", "-outfile", tmp_path / "a.ppm", path) == ""
        assert is_plain_view(cv2.imread(str(tmp_path / "a.ppm")), path)
        run("jpegtran", "-copy", "all", "-optimize", "-outfile", tmp_path / "a.jpg", path)
        assert rjpeg.identify((tmp_path / "a.jpg").read_bytes()) == rjpeg.identify(path.read_bytes())


def test_ffmpeg_shows_the_plain_view(files, tmp_path):
    for path in files:
        assert run("ffmpeg", "-v", "error", "-y", "-i", path, tmp_path / "a.png") == ""
        assert is_plain_view(cv2.imread(str(tmp_path / "a.png")), path)


def test_ffmpeg_reads_a_film_of_our_files_and_we_read_its_films(files, photograph, tmp_path):
    single = next(path for path in files if path.stem == "single").read_bytes()
    (tmp_path / "ours.mjpeg").write_bytes(single * 5)
    run("ffmpeg", "-v", "error", "-f", "mjpeg", "-i", tmp_path / "ours.mjpeg", tmp_path / "frame%d.png")
    assert len(list(tmp_path.glob("frame*.png"))) == 5
    source = ["-f", "lavfi", "-i", "testsrc=size=96x64:rate=10:duration=1", "-c:v", "mjpeg"]
    for container in ("mjpeg", "mpjpeg"):
        run("ffmpeg", "-v", "error", *source, "-f", container, tmp_path / f"theirs.{container}")
        with VideoReader(tmp_path / f"theirs.{container}") as capture:
            assert [frame.shape for frame in capture] == [(64, 96, 3)] * 10


def test_ffmpeg_and_curl_watch_a_camera_of_the_server(files, tmp_path):
    single = next(path for path in files if path.stem == "single").read_bytes()
    service = Service(data=tmp_path / "data")
    try:
        headers = {"Content-Type": "image/jpeg"}
        requests.post(f"{service.url}/v1/cameras/yard/frames", data=single, headers=headers, timeout=30)
        address = f"{service.url}/v1/cameras/yard"
        run("ffmpeg", "-v", "error", "-y", "-i", f"{address}/stream", "-frames:v", "1", tmp_path / "live.png")
        # FFmpeg's converter leaves out the last row of an odd height
        assert cv2.imread(str(tmp_path / "live.png")).shape in ((300, 451, 3), (301, 451, 3))
        run("curl", "-sf", "-o", tmp_path / "a.jpg", f"{address}/frames/latest/jpeg")
        assert (tmp_path / "a.jpg").read_bytes() == single
        assert '"bins"' in run("curl", "-sf", f"{address}/timeline")
    finally:
        service.stop()


def test_promtool_finds_no_fault_in_the_metrics(tmp_path):
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    service = Service(data=tmp_path / "data")
    try:
        text = requests.get(f"{service.url}/metrics", timeout=30).text
    finally:
        service.stop()
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


def test_openapi_python_client_makes_a_client_that_can_send_a_frame(tmp_path):
    if shutil.which("openapi-python-client") is None:
        pytest.skip("openapi-python-client is not installed")
    service = Service(data=tmp_path / "data")
    try:
        (tmp_path / "openapi.json").write_bytes(requests.get(f"{service.url}/openapi.json", timeout=30).content)
    finally:
        service.stop()
    said = run("openapi-python-client", "generate", "--path", "openapi.json", "--output-path", "made", cwd=tmp_path)
    assert "Endpoint will not be generated" not in said
    [sending] = (tmp_path / "made").rglob("send_frame*.py")
    assert '"application/octet-stream"' in sending.read_text()
    # the one that never ends
    omitted = re.findall(r"WARNING parsing (\S+ \S+) within .*\n\nCannot parse response", said)
    assert omitted == ["GET /v1/cameras/{camera}/stream"]
