"""Sending, and trying again."""

import errno
import os
import socket
import time
from pathlib import Path

import pytest

from device.delivery import Delivery, FolderSender, HttpSender, RefusedError, RejectedError
from rjpeg.errors import DeliveryError, StorageError


def test_a_frame_travels_with_its_camera_number_and_time(recorder, moment):
    sender = HttpSender(recorder.url + "/", token="s3cret")
    assert sender.send(b"jpeg", "cam-1", 7, moment) == f"{recorder.url}/v1/cameras/cam-1/frames"
    [(path, headers, body)] = recorder.requests
    assert (path, body) == ("/v1/cameras/cam-1/frames", b"jpeg")
    assert headers["Content-Type"] == "image/jpeg"
    assert headers["Rjpeg-Sequence"] == "7"
    assert headers["Rjpeg-Capture-Time"] == "2026-03-04T05:06:07.000089Z"
    assert headers["Authorization"] == "Bearer s3cret"
    sender.close()


def test_no_proxy_or_netrc_comes_between_this_machine_and_itself(recorder, moment, monkeypatch, tmp_path):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    sender = HttpSender(recorder.url, token="s3cret")
    sender.send(b"jpeg", "cam", 0, moment)
    assert recorder.requests[0][1]["Authorization"] == "Bearer s3cret"
    sender.close()


@pytest.mark.parametrize(
    ("status", "error"),
    [(429, DeliveryError), (503, DeliveryError), (507, DeliveryError), (422, RejectedError), (413, RejectedError),
     (401, RefusedError), (404, RefusedError), (302, RefusedError)],
)  # fmt: skip
def test_answers_are_told_apart(recorder, moment, status, error):
    recorder.answers = [(status, {"Location": "http://127.0.0.1:1/"})]
    sender = HttpSender(recorder.url)
    with pytest.raises(DeliveryError, match=str(status)) as caught:
        sender.send(b"jpeg", "cam", 0, moment)
    assert type(caught.value) is error
    sender.close()


def test_a_frame_of_a_file_waits_until_the_server_takes_it(recorder, moment):
    recorder.answers = [(503, {}), (429, {}), (201, {})]
    delivery = Delivery(HttpSender(recorder.url), "cam", live=False, retry_seconds=20)
    assert delivery.send(b"jpeg", 3, moment) is not None
    assert [headers["Rjpeg-Sequence"] for _, headers, _ in recorder.requests] == ["3", "3", "3"]
    delivery.close()


def test_a_frame_of_a_live_source_is_tried_once_and_the_next_only_after_a_pause(recorder, moment):
    recorder.answers = [(503, {}), (201, {})]
    delivery = Delivery(HttpSender(recorder.url), "cam", live=True, retry_seconds=20)
    assert delivery.ready
    assert delivery.send(b"jpeg", 0, moment) is None
    assert not delivery.ready
    time.sleep(0.3)
    assert delivery.ready
    assert delivery.send(b"jpeg", 1, moment) is not None
    assert len(recorder.requests) == 2
    delivery.close()


@pytest.mark.parametrize("live", [True, False])
def test_an_unreachable_server_is_given_up_in_time(moment, live):
    delivery = Delivery(HttpSender("http://127.0.0.1:1"), "cam", live=live, retry_seconds=1)

    def send_until_given_up():
        while True:
            if delivery.ready:
                delivery.send(b"jpeg", 0, moment)

    started = time.monotonic()
    with pytest.raises(DeliveryError, match=r"http://127.0.0.1:1 can't be reached: Connection refused; gave up"):
        send_until_given_up()
    assert 1 <= time.monotonic() - started < 3
    delivery.close()


def test_a_server_that_never_answers_is_given_up_in_time(moment):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        delivery = Delivery(HttpSender(url, timeout=0.3), "cam", live=False, retry_seconds=0)
        with pytest.raises(DeliveryError, match="no answer in time; gave up"):
            delivery.send(b"jpeg", 0, moment)
        delivery.close()


def test_files_in_a_folder_sort_by_time_and_are_whole(tmp_path, moment):
    sender = FolderSender(tmp_path / "new")
    path = Path(sender.send(b"jpeg", "cam", 7, moment))
    assert path == tmp_path / "new" / "20260304T050607.000089Z-00000007.jpg"
    assert path.read_bytes() == b"jpeg"
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_full_disk_leaves_neither_half_a_file_nor_a_temporary_one(tmp_path, moment, monkeypatch):
    sender = FolderSender(tmp_path)
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
    with pytest.raises(StorageError, match=r"00000007\.jpg: No space left on device"):
        sender.send(b"jpeg", "cam", 7, moment)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path, moment):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Not a directory"):
        FolderSender(tmp_path / "file" / "out").send(b"jpeg", "cam", 7, moment)
