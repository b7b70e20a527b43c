"""The whole chain as programs of their own: cameras, server, broker, workers and their store, each to be killed."""

import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from device.delivery.http_sender import HttpSender
from device.delivery.mqtt_sender import MqttSender
from device.delivery.outbox import Link
from device.delivery.resending import Resender
from device.spool import Spool
from rjpeg.errors import RjpegError
from server.store import Store
from tests.brokers import Broker, free_ports
from tests.server.stores import PostgreSQL
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
# after a start on a busy machine, and after the longest pause between two tries
PATIENCE = 900.0
POLL_SECONDS = 0.3
WAYS = [(way, policy) for way in ("http", "mqtt") for policy in ("live", "record")]

# what is killed: beside each other, as one part of each side is away at a time; of several, one after another
HTTP_SIDE, MQTT_SIDE = ("server", "http device"), ("worker", "broker", "mqtt device")

__all__ = ["HTTP_SIDE", "MQTT_SIDE", "PATIENCE", "WAYS", "Chain", "Program", "crc"]


class Program:
    """A process that is killed and started again; its lines go to a file, its messages to another.

    Args:
        name: Of the files.
        folder: Where they go.
        command: Module and arguments of Python.
    """

    def __init__(self, name: str, folder: Path, *command: str | Path) -> None:
        self.name, self.lines = name, folder / f"{name}.lines"
        self._messages = folder / f"{name}.log"
        self._command = [sys.executable, "-m", *map(str, command)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, once more."""
        with self.lines.open("ab") as lines, self._messages.open("ab") as messages:
            # the line before may have been cut
            lines.write(b"\n")
            lines.flush()
            self._process = subprocess.Popen(
                self._command, cwd=ROOT, stdout=lines, stderr=messages, env=os.environ | {"OMP_NUM_THREADS": "1"}
            )

    def stop(self, number: int = signal.SIGKILL) -> None:
        """Send a signal and wait for the end."""
        if self._process is not None:
            assert self._process.poll() is None, f"{self.name} ended by itself: {self.said()[-2000:]}"
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None

    def said(self) -> str:
        """Return all that it logged."""
        return self._messages.read_text(errors="replace")

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield its JSON lines, but for those that a kill cut."""
        for line in self.lines.read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                yield json.loads(line)


class Chain:
    """Four cameras, over HTTP and MQTT, live and recorded; a server, a broker and two workers that share a store.

    Args:
        folder: Of everything.
        broker: With persistence.
        database: URL.
        postgresql: The program behind the URL, if it is one.
        film: What the cameras see.
    """

    def __init__(self, folder: Path, broker: Broker, database: str, postgresql: PostgreSQL | None, film: Path) -> None:
        self.folder, self.broker, self.postgresql = folder, broker, postgresql
        self._database = database
        self._port = free_ports(1)[0]
        self.targets = {"http": f"http://127.0.0.1:{self._port}", "mqtt": broker.url}
        self.pictures = folder / "pictures.txt"
        store = ("--data", folder / "data", "--database", database, "--workers", "1")
        self.server = Program("server", folder, "server", "--listen", f"127.0.0.1:{self._port}", *store)
        queue = ("--broker", broker.url, "--pending", "8")
        self.workers = [
            Program(f"worker{number}", folder, "server", "worker", *queue, "--name", f"worker{number}", *store)
            for number in range(2)
        ]
        self.cameras = {f"{way}-{policy}": self._camera(film, way, policy) for way, policy in WAYS}

    def _camera(self, film: Path, way: str, policy: str) -> Program:
        name = f"{way}-{policy}"
        path = self.folder / f"{name}.yaml"
        path.write_text(
            f"cameras: [{{id: {name}, source: {film}, live: true, fps: 2}}]\n"
            f"encoding: {{quality: 40, stream: {{key_seconds: 4, importance_folder: {self.folder / 'maps'}}}}}\n"
            f"delivery: {{server: '{self.targets[way]}', policy: {policy}, timeout_seconds: 5, "
            f"spool: {{folder: {self.spool(name)}}}}}\n"
        )
        watched = ("tests.faults.watched", self.pictures, "--config", path, "--json")
        return Program(name, self.folder, *watched)

    def spool(self, name: str) -> Path:
        """Return the folder of a camera's spool."""
        return self.folder / f"spool-{name}"

    @property
    def programs(self) -> list[Program]:
        """All that are processes of Python."""
        return [self.server, *self.workers, *self.cameras.values()]

    def start(self) -> None:
        """Start everything. A broker throws live frames away until a worker has subscribed."""
        self.server.start()
        until(lambda: "listening on" in self.server.said(), PATIENCE)
        for worker in self.workers:
            worker.start()
        for worker in self.workers:
            until(lambda worker=worker: "takes frames of" in worker.said(), PATIENCE)
        for camera in self.cameras.values():
            camera.start()

    def close(self) -> None:
        """End everything at once."""
        for program in self.programs:
            with contextlib.suppress(AssertionError):
                program.stop()

    @contextlib.contextmanager
    def store(self) -> Iterator[Store]:
        """Open the store."""
        store = Store.open(self._database, str(self.folder / "data" / "frames"))
        try:
            yield store
        finally:
            store.close()

    def kill(self, kind: str, number: int) -> Callable[[], None]:
        """Kill a part of a kind; return what starts it again.

        Args:
            kind: One of HTTP_SIDE and MQTT_SIDE, or database.
            number: Chooses among several of the kind.
        """
        if kind == "database":
            assert self.postgresql is not None
            self.postgresql.stop(signal.SIGQUIT)
            return self.postgresql.start
        if kind == "broker":
            assert self.broker.process is not None
            self.broker.process.kill()
            self.broker.process.wait()
            return self.broker.start
        way, policy = kind.split(" ")[0], ("live", "record")[number % 2]
        program = {"server": self.server, "worker": self.workers[number % 2]}.get(kind)
        program = program or self.cameras[f"{way}-{policy}"]
        program.stop()
        return program.start

    def counts(self, store: Store) -> Counter[str]:
        """Return how many frames of each camera are stored; none while the database is away."""
        try:
            return Counter({each.name: each.frames for each in store.cameras()})
        except RjpegError:
            return Counter()

    def flows(self, store: Store, frames: int) -> None:
        """Wait until so many more frames of each camera are stored."""
        before = Counter[str]()

        def more() -> bool:
            nonlocal before
            # each look costs the parts that are to start some of the processor
            time.sleep(POLL_SECONDS)
            now = self.counts(store)
            before = before or now
            return bool(now) and all(now[name] >= before[name] + frames for name in self.cameras)

        try:
            until(more, PATIENCE)
        except AssertionError:
            now = self.counts(store)
            said = {program.name: program.said()[-1500:] for program in self.programs}
            raise AssertionError(f"from {before} to {now}: {said}") from None

    def acknowledged(self) -> set[tuple[str, int, str]]:
        """Return camera, sequence and capture time of each frame whose camera said that it was delivered."""
        return {
            (record["camera"], record["sequence"], record["capture_time"])
            for program in self.cameras.values()
            for record in program.records()
            if "capture_time" in record
        }

    def shown(self) -> dict[str, str]:
        """Return by CRC-32 of a file that of its picture, as its camera decoded it."""
        return dict(line.split() for line in self.pictures.read_text().splitlines())

    def empty_spool(self, name: str, seconds: float) -> int:
        """Send what a stopped camera has in its spool; return the number that its next frame would get."""
        target = self.targets[name.split("-")[0]]
        sender: HttpSender | MqttSender
        sender = HttpSender(target, timeout=5) if name.startswith("http") else MqttSender(target, name, timeout=5)
        with contextlib.closing(Spool(self.spool(name), 10**9)) as spool:
            resender, done, never = Resender(Link(sender), spool), -1, threading.Event()

            def sent() -> bool:
                nonlocal done
                while (frame := spool.oldest(name, done)) is not None:
                    try:
                        resender.send(frame, never)
                    except RjpegError:
                        return False
                    done = frame.sequence
                    spool.delivered(name, done)
                return True

            until(sent, seconds)
            sender.close()
            return spool.append(name, datetime.datetime.now(datetime.UTC), b"")


def crc(data: bytes) -> str:
    """Return CRC-32 as the cameras write it down."""
    return f"{zlib.crc32(data):08x}"
