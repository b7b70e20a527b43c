"""`python -m server` as a process of its own, for tests of the server and of what sends to it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import requests

ROOT = Path(__file__).resolve().parent.parent


class Service:
    """`python -m server --listen 127.0.0.1:0 --json` with further arguments.

    Args:
        data: folder of database and files; None: one of its own, which `stop` removes.
        port: to listen on.
    """

    def __init__(
        self,
        *arguments: str | Path,
        data: Path | None = None,
        port: int = 0,
        environment: dict[str, str] | None = None,
        command: tuple[str, ...] = (sys.executable, "-m", "server"),
    ) -> None:
        self._own = tempfile.mkdtemp(prefix="rjpeg-service-") if data is None else None
        self.data = Path(self._own) if data is None else data
        self.token: str | None = None
        self.messages: list[str] = []
        self.lines: list[str] = []
        self.url = ""
        listen = ["--listen", f"127.0.0.1:{port}"] if "--listen" not in arguments else []
        self.process = subprocess.Popen(
            [*command, *listen, "--data", str(self.data), "--json", *map(str, arguments)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | (environment or {}),
        )
        started = threading.Event()

        def read_messages(stream: Any) -> None:
            for line in stream:
                self.messages.append(line)
                if found := re.match(r"listening on (https?://\S+)$", line):
                    self.url = found[1]
                    started.set()
            started.set()

        self._readers = [
            threading.Thread(target=read_messages, args=[self.process.stderr]),
            threading.Thread(target=self.lines.extend, args=[self.process.stdout]),
        ]
        for reader in self._readers:
            reader.start()
        assert started.wait(60), self.messages
        assert self.url, self.messages

    def post_url(self, camera: str = "cam") -> str:
        return f"{self.url}/v1/cameras/{camera}/frames"

    def get(self, path: str, **options: Any) -> requests.Response:
        """An answer of the service, asked for with `token` if there is one."""
        if self.token is not None:
            options["headers"] = {"Authorization": f"Bearer {self.token}"} | options.get("headers", {})
        return requests.get(self.url + path, timeout=30, **options)

    def frames(self, camera: str = "cam") -> list[dict[str, Any]]:
        """Records of all stored frames of a camera, in the order of their ids."""
        found: list[dict[str, Any]] = []
        url: str | None = f"/v1/cameras/{camera}/frames?limit=1000"
        while url is not None:
            answer = self.get(url)
            if answer.status_code == 404:
                return []
            found += answer.json()["frames"]
            url = answer.json()["next"]
        return found[::-1]

    def jpeg(self, record: dict[str, Any]) -> bytes:
        """The stored file of a frame."""
        return self.get(f"/v1/cameras/{record['camera']}/frames/{record['id']}/jpeg").content

    def picture(self, record: dict[str, Any]) -> Any:
        """The decoded picture of a frame, (H, W, 3) uint8 BGR."""
        # only here: not all tests that need a server have a reason to load these
        import io

        import numpy as np

        url = f"/v1/cameras/{record['camera']}/frames/{record['id']}/picture?format=npy"
        return np.load(io.BytesIO(self.get(url).content), allow_pickle=False)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; the exit code, once everything it said has been read."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(30)
        for reader in self._readers:
            reader.join(30)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)
        return code

    def records(self) -> list[dict[str, Any]]:
        """The JSON lines, but for a last one that was cut when the process was killed."""
        return [json.loads(line) for line in self.lines if line.endswith("\n")]


def make_token(data: Path, *arguments: str) -> str:
    """A new token for the service of a folder, by `python -m server tokens add`."""
    command = [sys.executable, "-m", "server", "tokens", "add", "--data", str(data), *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    return result.stdout.strip()
