"""Codecs of films, by PyAV, as a live camera would use them: low delay, and one key at the start."""

import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from evaluate.codecs import CodecMissingError
from evaluate.streams.clips import Clip
from evaluate.streams.codecs import Coded, StreamCodec
from rjpeg.errors import RjpegError

__all__ = ["FILMS", "Film", "Kind"]

NO_FURTHER_KEY = 100_000


@dataclass(frozen=True)
class Kind:
    """An encoder of FFmpeg and its options; the setting is its constant rate factor."""

    encoder: str
    options: Mapping[str, str] = field(default_factory=dict)
    settings: Sequence[float] = (48, 45, 42, 39, 36, 33, 30, 27, 24, 21, 18)


def _x264(preset: str) -> Kind:
    return Kind("libx264", {"preset": preset, "tune": "zerolatency", "x264-params": "scenecut=0"})


FILMS = {
    "x264-veryfast": _x264("veryfast"),
    "x264-medium": _x264("medium"),
    "x265": Kind(
        "libx265",
        {
            "preset": "medium",
            "tune": "zerolatency",
            "x265-params": f"log-level=none:keyint={NO_FURTHER_KEY}:scenecut=0:pools=none:frame-threads=1",
        },
    ),
    "svt-av1": Kind(
        "libsvtav1",
        {"preset": "8", "svtav1-params": f"pred-struct=1:keyint={NO_FURTHER_KEY}:scd=0:lp=1"},
        (62, 58, 54, 50, 46, 42, 38, 34, 30, 26, 22),
    ),
}


class Film(StreamCodec):
    """A codec of FILMS. Raises CodecMissingError without PyAV or this encoder in it."""

    def __init__(self, name: str) -> None:
        try:
            self._av: Any = importlib.import_module("av")
        except ImportError as error:
            raise CodecMissingError("package av is not installed") from error
        # SVT-AV1 tells standard error everything, unless it is told not to
        os.environ.setdefault("SVT_LOG", "1")
        kind = FILMS[name]
        try:
            self._av.codec.Codec(kind.encoder, "w")
        except self._av.codec.codec.UnknownCodecError as error:
            raise CodecMissingError(f"the installed PyAV has no {kind.encoder}") from error
        self._kind = kind
        self.name, self.settings = name, kind.settings
        libavcodec = ".".join(map(str, self._av.library_versions["libavcodec"]))
        self.version = f"PyAV {self._av.__version__}, libavcodec {libavcodec}, {sorted(kind.options.items())}"

    def run(self, clip: Clip, setting: float) -> list[Coded]:
        """Code all frames of a clip at a constant rate factor, as 4:2:0. Raises RjpegError where one gets lost."""
        packets = self._encode(clip, setting)
        frames = self._decode(packets)
        if len(packets) != len(clip.frames) or len(frames) != len(clip.frames):
            raise RjpegError(
                f"{self.name}: {len(clip.frames)} frames became {len(packets)} packets and {len(frames)} frames"
            )
        sizes = [len(packet) for packet in packets]
        return [
            Coded(size, frame, "follower" if number else "key")
            for number, (size, frame) in enumerate(zip(sizes, frames, strict=True))
        ]

    def _encode(self, clip: Clip, setting: float) -> list[bytes]:
        height, width = clip.frames[0].shape[:2]
        encoder = self._av.CodecContext.create(self._kind.encoder, "w")
        encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
        encoder.framerate = Fraction(1 / clip.spacing).limit_denominator(1000)
        encoder.time_base = 1 / encoder.framerate
        encoder.gop_size, encoder.thread_count = NO_FURTHER_KEY, 1
        encoder.options = {**self._kind.options, "crf": f"{setting:g}"}
        packets: list[Any] = []
        for number, pixels in enumerate(clip.frames):
            frame = self._av.VideoFrame.from_ndarray(pixels, format="bgr24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, encoder.time_base
            packets += encoder.encode(frame)
        packets += encoder.encode(None)
        return [bytes(packet) for packet in packets]

    def _decode(self, packets: Sequence[bytes]) -> list[np.ndarray]:
        name = {"libx264": "h264", "libx265": "hevc", "libsvtav1": "libdav1d"}[self._kind.encoder]
        decoder = self._av.CodecContext.create(name, "r")
        decoder.thread_count = 1
        frames: list[Any] = []
        for packet in packets:
            frames += decoder.decode(self._av.Packet(packet))
        frames += decoder.decode(None)
        return [frame.to_ndarray(format="bgr24") for frame in frames]
