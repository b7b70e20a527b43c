"""A small server that decodes what it is sent, and may be closed, opened again and made to forget keys."""

import http.server
import json
import threading
import time
from typing import Any

import rjpeg
from device.frames import identity_of
from rjpeg.errors import KeyMissingError
from tests.device.conftest import acknowledgment

__all__ = ["DecodingServer"]


class DecodingServer:
    """Keeps every file that it acknowledged, and the bases among them.

    Attributes:
        files: (camera, sequence) to the file.
        times: When each frame was acknowledged, in seconds of the monotonic clock.
        again: Frames that came more than once.
        missing: Answers 409 so far.
    """

    def __init__(self) -> None:
        self.files: dict[tuple[str, int], bytes] = {}
        self.times: list[float] = []
        self.again = self.missing = 0
        self._decoder = rjpeg.Decoder()
        self._bases: dict[str, rjpeg.Base] = {}
        self._lock = threading.Lock()
        self._server: http.server.ThreadingHTTPServer | None = None
        self.port = 0
        self.open()

    def open(self) -> None:
        """Listen, on the same port as before."""
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, answer = outer.take(self.path, self.headers, body)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, *_: Any) -> None:
                """Say nothing of clients that were killed."""

        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def take(self, path: str, headers: Any, jpeg: bytes) -> tuple[int, bytes]:
        """Decode a frame; return the answer's status and body."""
        if self._server is None:
            return 503, b"closed"
        camera, sequence = path.split("/")[3], int(headers["Rjpeg-Sequence"])
        with self._lock:
            try:
                self._decode(jpeg)
            except KeyMissingError as error:
                self.missing += 1
                return 409, json.dumps({"error": "key missing", "id": error.id}).encode()
            self.again += (camera, sequence) in self.files
            self.files[camera, sequence] = jpeg
            self.times.append(time.monotonic())
        return 201, acknowledgment(path, headers)

    def forget_keys(self) -> None:
        """Lose every key and patch."""
        with self._lock:
            self._bases.clear()

    def close(self) -> None:
        """Answer nothing any more. Connections that are open get a 503."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def decoded_again(self) -> int:
        """Decode all that was acknowledged, in order; return how many frames that are."""
        decoder = rjpeg.StreamDecoder(max_bases=1000)
        for place in sorted(self.files):
            decoder.decode(self.files[place])
        return len(self.files)

    def _decode(self, jpeg: bytes) -> None:
        identity = identity_of(jpeg)
        base = self._bases.get(identity.base_id or "")
        self._decoder.decode(jpeg, base)
        if identity.kind in ("key", "patch"):
            self._bases[str(identity.id)] = self._decoder.base_of(jpeg, base)
