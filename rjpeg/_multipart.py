"""Take pictures out of a stream of multipart/x-mixed-replace, as cameras send it: by its boundaries and lengths."""

from __future__ import annotations

import email.message
import re

from rjpeg._films import Splitter
from rjpeg.errors import JpegError

__all__ = ["PartReader", "boundary_of"]

MAX_LINE_BYTES = 8192
MAX_HEADERS = 100
LONG_BOUNDARY = 8
JPEG_BEGINS, PICTURE_ENDS = b"\xff\xd8\xff", b"\xff\xd9"


def boundary_of(content_type: str) -> str | None:
    """Return the boundary that a Content-Type names; "": it is multipart and names none; None: it isn't multipart."""
    message = email.message.Message()
    message["Content-Type"] = content_type
    if message.get_content_maintype() != "multipart":
        return None
    boundary = message.get_param("boundary", "")
    return boundary if isinstance(boundary, str) else ""


class PartReader:
    """Takes the parts of a multipart stream out of bytes that come in pieces. One part is one picture.

    Cameras are not strict, so this isn't either. The first boundary may be missing, and so may a part's headers, its
    length, or the dashes before a boundary. A part whose headers say that it is no picture is passed over. If there is
    neither boundary nor length, files are told apart by their own ends.

    Args:
        boundary: that the answer's headers name; "": the first line that looks like one.
        max_bytes: of one picture.
    """

    def __init__(self, boundary: str, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._boundary = b"" if not boundary else b"--" + boundary.encode("latin-1", "replace").removeprefix(b"--")
        self._headers: dict[str, str] = {}
        self._in_headers = self._in_body = self._met_boundary = False
        # up to where no boundary is, in a body of unknown length
        self._searched = 0
        self._skipping = False
        # for a stream that says nothing of its parts
        self._splitter: Splitter | None = None

    def feed(self, data: bytes) -> list[bytes | JpegError]:
        """Take more bytes. Return the pictures that they complete, with an error in place of one that is too large."""
        if self._splitter is not None:
            return self._splitter.feed(data)
        self._buffer += data
        found: list[bytes | JpegError] = []
        while self._splitter is None and (self._take_body(found) if self._in_body else self._take_line()):
            pass
        return found + self._split_rest()

    def _split_rest(self) -> list[bytes | JpegError]:
        """Hand what is left over to the splitter, if it was found that the stream says nothing of its parts."""
        if self._splitter is None:
            return []
        rest = bytes(self._buffer)
        self._buffer.clear()
        return self._splitter.feed(rest)

    def finish(self) -> list[bytes]:
        """Return what is left when no more comes: at most one picture, without its end."""
        if self._splitter is not None:
            return self._splitter.finish()
        left = bytes(self._buffer) if self._in_body and not self._skipping else b""
        return [left] if JPEG_BEGINS in left else []

    def _take_line(self) -> bool:
        """Go past a line between two bodies. Return False if there is no whole one."""
        buffer = self._buffer
        if buffer.startswith(JPEG_BEGINS):
            # a part without headers, or one whose length was wrong
            self._begin_body()
            return True
        end = buffer.find(b"\n")
        if end < 0 or end > MAX_LINE_BYTES:
            if len(buffer) > MAX_LINE_BYTES:
                # no line of headers: what is left of a body, up to where a picture or a line may begin
                at = buffer.find(JPEG_BEGINS)
                del buffer[: at if at >= 0 else len(buffer) - 2 if end < 0 else end + 1]
                return True
            return False
        line = bytes(buffer[:end]).strip()
        del buffer[: end + 1]
        self._note_line(line)
        return True

    def _note_line(self, line: bytes) -> None:
        if self._is_boundary(line):
            self._boundary = line if not self._met_boundary and line.startswith(b"--") else self._boundary
            self._headers, self._in_headers, self._met_boundary = {}, True, True
        elif re.match(rb"[A-Za-z0-9-]+\s*:", line) and len(self._headers) < MAX_HEADERS:
            if self._in_headers or not self._met_boundary:
                # without a boundary before it, since the first one may be missing
                self._in_headers = True
                name, _, value = line.decode("latin-1").partition(":")
                self._headers[name.strip().lower()] = value.strip()
        elif not line and self._headers:
            self._begin_body()

    def _is_boundary(self, line: bytes) -> bool:
        if self._met_boundary:
            return line.removesuffix(b"--") in (self._boundary, self._boundary[2:])
        # some cameras announce another boundary than they send
        return line in (self._boundary, self._boundary[2:]) if line[:2] != b"--" else len(line) > 2

    def _begin_body(self) -> None:
        self._in_headers, self._in_body, self._searched = False, True, 0
        if not self._boundary and self._length() is None:
            self._splitter = Splitter(self._max_bytes)

    def _length(self) -> int | None:
        """Return how long the body is said to be. What no picture can have says nothing: its end has to be found."""
        text = self._headers.get("content-length", "")
        length = int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None
        return length if length is not None and length <= self._max_bytes else None

    def _take_body(self, found: list[bytes | JpegError]) -> bool:
        """Take a body out, once it is whole. Return False if it isn't."""
        length = self._length()
        if length is None:
            length = self._find_end()
            if length is None:
                self._keep_within_limit(found)
                return False
        elif len(self._buffer) < length:
            # a length that is too large would swallow the pictures that follow
            length = self._find_end()
            if length is None or not self._buffer.endswith(PICTURE_ENDS, 0, length):
                return False
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        is_picture = JPEG_BEGINS in body[:MAX_LINE_BYTES] or self._headers.get("content-type", "").startswith("image/")
        if is_picture and not self._skipping and body.strip():
            found.append(body[max(0, body.find(JPEG_BEGINS)) :])
        self._headers, self._in_body, self._skipping = {}, False, False
        return True

    def _find_end(self) -> int | None:
        """Return where a body of unknown length ends; None: its boundary has not come yet."""
        # a short one may stand in a picture by chance, if neither a line nor the picture ends before it
        befores = (b"",) if len(self._boundary) >= LONG_BOUNDARY else (b"\n", PICTURE_ENDS)
        places = [self._buffer.find(before + self._boundary, self._searched) for before in befores]
        ends = [at + len(before) for at, before in zip(places, befores, strict=True) if at >= 0]
        if not ends:
            self._searched = max(0, len(self._buffer) - len(PICTURE_ENDS) - len(self._boundary) - 1)
            return None
        at = min(ends)
        for ending in (b"\r\n", b"\n"):
            if self._buffer.endswith(ending, 0, at):
                return at - len(ending)
        return at

    def _keep_within_limit(self, found: list[bytes | JpegError]) -> None:
        if len(self._buffer) > self._max_bytes:
            self._report_too_large(found)
            del self._buffer[: self._searched]
            self._searched = 0

    def _report_too_large(self, found: list[bytes | JpegError]) -> None:
        if not self._skipping:
            found.append(JpegError(f"a picture is larger than {self._max_bytes} bytes, the limit that max_bytes sets"))
        self._skipping = True
