"""Delay, and connections that break or fall silent, through a TCP proxy between the device's program and the server."""

import asyncio
import contextlib
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
DELAY = 0.15  # seconds each way

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


class Proxy:
    """Passes bytes on after DELAY; cuts one connection in so many packets, and lets as many fall silent for ever."""

    def __init__(self, port: int, trouble: float) -> None:
        self.cut = self.silenced = 0
        self._target, self._trouble = port, trouble
        self._chance = random.Random(3)
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await asyncio.gather(self._pass(reader, back), self._pass(there, writer))
        for stream in (writer, back):
            stream.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await asyncio.sleep(DELAY)
            luck = self._chance.random() / self._trouble if self._trouble else 9.0
            if luck < 1:
                self.cut += 1
                raise ConnectionResetError
            if luck < 2:
                self.silenced += 1
                await asyncio.sleep(3600)
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError

    def close(self) -> None:
        async def end() -> None:
            self._server.close()
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@pytest.fixture
def lines(tmp_path: Path) -> Iterator[tuple[int, list[tuple[float, dict]]]]:
    """A server's port, and what it prints with the time of it."""
    server = subprocess.Popen(
        [sys.executable, "-u", "-m", "server", "--listen", "127.0.0.1:0", "--data", str(tmp_path / "data"), "--json"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdout is not None
    assert server.stderr is not None
    found: list[tuple[float, dict]] = []
    output, messages = server.stdout, server.stderr

    def read() -> None:
        with output:
            found.extend((time.time(), json.loads(line)) for line in output)

    port = int(messages.readline().rsplit(":", 1)[1])
    threads = [threading.Thread(target=read), threading.Thread(target=lambda: messages.read())]
    for thread in threads:
        thread.start()
    yield port, found
    server.terminate()
    server.wait(30)
    for thread in threads:
        thread.join(10)
    messages.close()


def run(tmp_path: Path, video: Path, port: int, policy: str, seconds: float) -> None:
    path = tmp_path / "kit.yaml"
    path.write_text(
        f"cameras: [{{id: cam, source: {video}, live: true, fps: 5}}]\nencoding: {{quality: 10}}\n"
        f"delivery: {{server: 'http://127.0.0.1:{port}', policy: {policy}, timeout_seconds: 1, "
        f"spool: {{folder: {tmp_path / 'spool'}}}}}\n"
    )
    camera = subprocess.Popen(
        [sys.executable, "device/capture.py", "--config", str(path)], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    time.sleep(seconds)
    camera.send_signal(signal.SIGTERM)
    assert camera.wait(30) == 0


def test_live_frames_are_fresh_through_delay_cuts_and_silence(tmp_path, video, lines):
    port, found = lines
    proxy = Proxy(port, trouble=0.05)
    try:
        run(tmp_path, video, proxy.port, "live", 25)
    finally:
        proxy.close()
    ages = [at - float(np.datetime64(record["capture_time"][:-1], "us").astype(np.int64)) / 1e6 for at, record in found]
    assert proxy.cut >= 1
    assert proxy.silenced >= 1
    assert len(ages) > 20
    assert max(ages) < 2
    print(f"{len(ages)} frames, {proxy.cut} cut, {proxy.silenced} silent, at most {max(ages):.2f} s old")


def test_recorded_frames_all_arrive_once_and_in_order(tmp_path, video, lines):
    port, found = lines
    proxy = Proxy(port, trouble=0.05)
    try:
        run(tmp_path, video, proxy.port, "record", 20)
    finally:
        proxy.close()
    straight = Proxy(port, trouble=0.0)
    try:
        run(tmp_path, video, straight.port, "record", 20)
    finally:
        straight.close()
    sequences = [record["sequence"] for _, record in found]
    assert proxy.cut >= 1
    assert proxy.silenced >= 1
    assert sequences == list(range(len(sequences)))
    assert len(sequences) > 60
    print(f"{len(sequences)} frames, {proxy.cut} cut, {proxy.silenced} silent")
