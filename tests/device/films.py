"""Films and streams for the tests, made with FFmpeg's own encoders and muxers (PyAV)."""

import fractions
import io
from collections.abc import Sequence

import av
import cv2
import numpy as np

FORMATS = {"mjpeg": "yuvj420p", "ffv1": "bgr0"}


def moving(picture: np.ndarray, size: tuple[int, int], count: int, first: int = 0) -> list[np.ndarray]:
    """So many pictures of `size` (width, height), no two alike: the picture moves, and a bar goes across."""
    picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    frames = []
    for number in range(first, first + count):
        frame = np.roll(picture, 5 * number, axis=1)
        left = 4 * number % size[0]
        frame[:, left : left + 4] = 255 if number % 2 else 0
        frames.append(frame)
    return frames


def film(
    frames: Sequence[np.ndarray | av.VideoFrame],
    container: str,
    codec: str = "libx264",
    *,
    fps: int = 25,
    times: Sequence[float] | None = None,
    sound: float = 0.0,
    gop: int = 12,
) -> bytes:
    """Encode pictures, (H, W, 3) BGR or FFmpeg's frames, into a container that FFmpeg calls so.

    Args:
        times: of the pictures, in seconds from 0, if they don't come at even distances.
        sound: seconds of silence beside them.
        gop: pictures from one that is complete in itself to the next.
    """
    base = fractions.Fraction(1, fps) if times is None else fractions.Fraction(1, 1000)
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=fps)
        voice = _voice(output) if sound else None
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24") if isinstance(picture, np.ndarray) else picture
            frame.time_base = base
            frame.pts = number if times is None else round(1000 * times[number])
            if number == 0:
                stream.width, stream.height = frame.width, frame.height
                stream.pix_fmt = FORMATS.get(codec) or ("yuv444p" if frame.width % 2 or frame.height % 2 else "yuv420p")
                if not isinstance(picture, np.ndarray):
                    stream.pix_fmt = frame.format.name
                    stream.codec_context.colorspace = frame.colorspace
                    stream.codec_context.color_range = frame.color_range
                stream.codec_context.time_base, stream.codec_context.gop_size = base, gop
                if codec == "libx264":
                    stream.codec_context.options = {"preset": "veryfast", "tune": "zerolatency", "crf": "18"}
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        if voice is not None:
            output.mux(voice.encode(_silence(round(8000 * sound))))
            output.mux(voice.encode(None))
    return file.getvalue()


def sound_only() -> bytes:
    """A WAV file: a second of silence."""
    file = io.BytesIO()
    with av.open(file, "w", format="wav") as output:
        voice = _voice(output)
        output.mux(voice.encode(_silence(8000)))
        output.mux(voice.encode(None))
    return file.getvalue()


def _voice(output: av.container.OutputContainer) -> av.AudioStream:
    voice = output.add_stream("pcm_s16le", rate=8000)
    voice.codec_context.layout = "mono"
    return voice


def _silence(samples: int) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(np.zeros((1, samples), np.int16), format="s16", layout="mono")
    frame.sample_rate, frame.pts = 8000, 0
    return frame


def turned(mp4: bytes, matrix: Sequence[int]) -> bytes:
    """The same film with another display matrix, (a, b, c, d), in its track's header (ISO 14496-12, 8.3.2)."""
    content = bytearray(mp4)
    header = content.index(b"tkhd") + 4
    assert content[header] == 0, "version 0"
    at = header + 4 + 5 * 4 + 4 * 4
    a, b, c, d = matrix
    content[at : at + 36] = np.array([a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30], ">i4").tobytes()
    return bytes(content)
