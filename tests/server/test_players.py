"""Real players show a camera by the addresses that /docs lists."""

import itertools
import os
import re
import shutil
import socket
import subprocess
import threading
import urllib.parse
from pathlib import Path

import cv2
import pytest
import requests

import rjpeg
from server.store import tokens
from tests.server.test_viewers import tokens_of
from tests.service import Service

SIZE = (320, 240)
DOCS = Path(__file__).resolve().parents[2] / "server" / "page" / "docs.html"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def needs(*programs):
    lacking = [name for name in programs if shutil.which(name) is None]
    return pytest.mark.skipif(bool(lacking), reason=f"needs {', '.join(lacking)}")


@pytest.fixture(scope="module")
def camera(tmp_path_factory, photograph):
    """A service with a camera that sends; its address with a reader's token in it, and a signed link to the stream."""
    data = tmp_path_factory.mktemp("players")
    with tokens_of(data) as store:
        sender, reader = tokens.make(store, "camera", "yard"), tokens.make(store, "reader", "yard")
    service = Service("--auth", "on", data=data)
    frame, encoder = cv2.resize(photograph, SIZE, interpolation=cv2.INTER_CUBIC), rjpeg.Encoder()
    headers = {"Content-Type": "image/jpeg", "Authorization": f"Bearer {sender}"}
    stop = threading.Event()

    def send():
        for number in itertools.count():
            # a file of another size than the frame, which changes in mid-run
            size = (160, 208) if number % 2 else (240, 320)
            jpeg = encoder.encode(frame + (number % 2), quality=30, coding_size=size)
            requests.post(service.post_url("yard"), data=jpeg, headers=headers, timeout=30).raise_for_status()
            if stop.wait(0.1):
                return

    thread = threading.Thread(target=send)
    thread.start()
    address = service.url.replace("://", f"://viewer:{reader}@")
    bearer = {"Authorization": f"Bearer {reader}"}
    while (answer := service.get("/v1/cameras/yard/link?seconds=600", headers=bearer)).status_code == 404:
        stop.wait(0.1)
    yield address, service.url + answer.json()["path"]
    stop.set()
    thread.join()
    service.stop()
    assert reader not in "".join(service.messages)


def run(*command, **options):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60, **options)


def shape_of(video):
    """Return width, height and frames of a video."""
    asked = "stream=width,height,nb_read_frames"
    told = run("ffprobe", "-v", "error", "-count_frames", "-show_entries", asked, "-of", "csv=p=0", video)
    return tuple(int(number) for number in re.findall("[0-9]+", told.stdout.split()[0]))


@needs("ffmpeg")
@pytest.mark.parametrize("way", ["password", "link"])
def test_ffmpeg_records_the_stream(camera, tmp_path, way):
    address, link = camera
    source = f"{address}/v1/cameras/yard/stream" if way == "password" else link
    done = run("ffmpeg", "-loglevel", "error", "-i", source, "-frames:v", 10, tmp_path / "film.mkv")
    assert done.returncode == 0, done.stderr
    assert shape_of(tmp_path / "film.mkv") == (*SIZE, 10)


@needs("ffmpeg")
def test_ffmpeg_takes_a_snapshot(camera, tmp_path):
    source = f"{camera[0]}/v1/cameras/yard/snapshot"
    done = run("ffmpeg", "-loglevel", "error", "-f", "image2", "-i", source, tmp_path / "picture.png")
    assert done.returncode == 0, done.stderr
    assert cv2.imread(str(tmp_path / "picture.png")).shape == (*SIZE[::-1], 3)


@needs("mpv")
def test_mpv_shows_the_stream(camera, tmp_path):
    output = [f"--vo-image-outdir={tmp_path}", "--vo=image", "--ao=null", "--frames=5", "--really-quiet"]
    done = run("mpv", "--no-config", *output, f"{camera[0]}/v1/cameras/yard/stream")
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("*.jpg"))) == 5
    assert cv2.imread(str(next(tmp_path.glob("*.jpg")))).shape == (*SIZE[::-1], 3)


@needs("gst-launch-1.0")
@pytest.mark.parametrize("way", ["password", "link"])
def test_gstreamer_shows_the_stream(camera, tmp_path, way):
    address, link = camera
    source = f"{address}/v1/cameras/yard/stream" if way == "password" else link
    # the password goes by properties, as GStreamer's documentation has it
    parts = urllib.parse.urlsplit(source)
    properties = [f"location={parts._replace(netloc=parts.netloc.rpartition('@')[2]).geturl()}"]
    if parts.username is not None:
        properties += [f"user-id={parts.username}", f"user-pw={parts.password}"]
    decoding = ["multipartdemux", "!", "jpegdec", "max-errors=0", "!", "identity", "error-after=6", "!"]
    showing = ["videoconvert", "!", "pngenc", "!", "multifilesink", f"location={tmp_path}/%d.png"]
    run("gst-launch-1.0", "-q", "souphttpsrc", *properties, "!", *decoding, *showing)
    shown = [cv2.imread(str(path)) for path in tmp_path.glob("*.png")]
    # the source's end is an error that was asked for
    assert [picture.shape for picture in shown] == [(*SIZE[::-1], 3)] * 5


@needs("cvlc", "ffprobe", "setpriv")
def test_vlc_shows_the_stream(camera, tmp_path):
    folder = tmp_path / "vlc"
    folder.mkdir()
    folder.chmod(0o777)
    # with workers there is one folder more
    for above in folder.parents[:4]:
        above.chmod(0o711)
    # VLC does not run as root
    who = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.geteuid() == 0 else []
    command = [*who, "env", f"HOME={folder}", "cvlc", "-I", "dummy", "--no-audio", "--run-time=5", "--sout"]
    film = folder / "film.ts"
    output = f"#transcode{{vcodec=mp4v,vb=800}}:std{{access=file,mux=ts,dst={film}}}"
    player = subprocess.Popen(
        [*command, output, f"{camera[0]}/v1/cameras/yard/stream", "vlc://quit"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        # it stops by itself when the stream ends, which this one does not
        player.wait(15)
    except subprocess.TimeoutExpired:
        player.kill()
        player.wait()
    width, height, frames = shape_of(film)[:3]
    assert (width, height) == SIZE
    assert frames > 5


@needs("ffmpeg")
def test_rtsp_gets_the_stream_as_the_recipe_for_mediamtx_publishes_it(camera, tmp_path):
    recipe = re.search(r"ffmpeg (-nostdin .*?) rtsp://127\.0\.0\.1:8554/CAMERA", DOCS.read_text("utf-8"), re.DOTALL)
    with socket.create_server(("127.0.0.1", 0)) as free:
        rtsp = f"rtsp://127.0.0.1:{free.getsockname()[1]}/yard"
    options = recipe[1].replace("ADDRESS_WITH_TOKEN", camera[0]).replace("CAMERA", "yard").split()
    film = tmp_path / "film.mp4"
    # in the place of MediaMTX, an ffmpeg that lets others publish
    listening = ["ffmpeg", "-loglevel", "error", "-rtsp_flags", "listen", "-i", rtsp, "-frames:v", "10", "-c", "copy"]
    server = subprocess.Popen([*listening, str(film)], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        publisher = None
        while server.poll() is None:
            if publisher is None or publisher.poll() is not None:
                # until the other one listens
                publisher = subprocess.Popen(["ffmpeg", *options, rtsp], stderr=subprocess.DEVNULL)
            try:
                server.wait(1)
            except subprocess.TimeoutExpired:
                continue
    finally:
        server.kill()
        publisher.kill()
        publisher.wait()
        server.communicate()
    assert shape_of(film)[:2] == SIZE
    assert shape_of(film)[2] >= 8
