"""Two hosts on this machine: network namespaces, joined by a link (a veth pair) that tests make narrow or faulty."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
CAMERA, SERVER = "192.0.2.1", "192.0.2.2"  # RFC 5737: for documentation, never routed


def ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


class Hosts:
    """A camera's host and a server's, with a link between them."""

    def __init__(self) -> None:
        self.camera, self.server = f"rjpeg-c{os.getpid()}", f"rjpeg-s{os.getpid()}"
        self._processes: list[subprocess.Popen[str]] = []
        self.readers: list[threading.Thread] = []

    def join(self) -> None:
        """Make them. Raises OSError where this machine has no network namespaces."""
        for name in (self.camera, self.server):
            ip("netns", "add", name)
        veth = f"link add name uplink netns {self.camera} type veth peer name uplink netns {self.server}"
        ip(*veth.split())
        for name, address in ((self.camera, CAMERA), (self.server, SERVER)):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "uplink")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", "uplink", "up")

    def narrow(self, bits_per_second: int) -> None:
        """Limit what the camera's host sends."""
        shape = f"qdisc add dev uplink root tbf rate {bits_per_second}bit burst 4000 latency 500ms"
        ip("netns", "exec", self.camera, "tc", *shape.split())

    def run(self, host: str, *command: str | Path, program: str = sys.executable) -> subprocess.Popen[str]:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(
            ["ip", "netns", "exec", host, program, *map(str, command)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._processes.append(process)
        return process

    def read(self, *targets: Callable[[], None]) -> None:
        for target in targets:
            self.readers.append(threading.Thread(target=target, daemon=True))
            self.readers[-1].start()

    def silence(self, *, on: bool) -> None:
        """Have the server's host take nothing off the link, and answer nothing, as if it were cut far away."""
        rules = "table inet cut {\n chain input {\n type filter hook input priority 0;\n iifname uplink drop\n }\n}\n"
        command = ["ip", "netns", "exec", self.server, "nft", "-f", "-"]
        subprocess.run(command, input=rules if on else "delete table inet cut", text=True, check=True)

    def link(self, state: str) -> None:
        ip("-n", self.camera, "link", "set", "uplink", state)

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        for thread in self.readers:
            thread.join(5)
        for name in (self.camera, self.server):
            subprocess.run(["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)


class Lines:
    """JSON lines of a process as they come, each with the time of its coming."""

    def __init__(self, hosts: Hosts, process: subprocess.Popen[str]) -> None:
        self.found: list[tuple[float, dict[str, Any]]] = []
        self.messages: list[str] = []
        self._process = process
        hosts.read(self._read, self._listen)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                self.found.append((time.time(), json.loads(line)))

    def _listen(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            self.messages.extend(stream)

    def wait_for(self, count: int, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while len(self.found) < count:
            assert time.monotonic() < deadline, f"{len(self.found)} of {count} frames; {self.messages[-5:]}"
            time.sleep(0.05)


def seconds_old(at: float, record: dict[str, Any]) -> float:
    return at - float(np.datetime64(record["capture_time"][:-1], "us").astype(np.int64)) / 1e6
