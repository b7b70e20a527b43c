"""Region JPEG as a stream: as it is shipped, or with a part of it changed."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import rjpeg
from evaluate.codecs import CodecMissingError, fingerprint
from evaluate.streams.clips import Clip
from evaluate.streams.codecs import Coded, StreamCodec
from evaluate.streams.oracle import Oracle
from rjpeg import _native
from rjpeg._policy import Policy
from rjpeg.errors import StorageError

__all__ = ["STREAMS", "Options", "StreamJpeg"]

# the whole clip hangs on the keys that the encoder itself thinks worth their bytes
NO_FURTHER_KEY = 1e9


@dataclass(frozen=True)
class Options:
    """What is changed, in plain values.

    row: what a table says of it; another text is another version. encoder, decoder, stream: options of `rjpeg.Encoder`,
    `rjpeg.Decoder` and `rjpeg.StreamEncoder`. importance: whether the camera's map is used, if there is one.
    deflated: count the regions that are sent as a deflated bitmap. single_sizes: keys have the model's coding sizes.
    oracle: whether a teacher says of each frame which change matters.
    """

    row: str
    encoder: Mapping[str, Any] = field(default_factory=dict)
    decoder: Mapping[str, Any] = field(default_factory=dict)
    stream: Mapping[str, Any] = field(default_factory=dict)
    importance: bool = True
    deflated: bool = False
    single_sizes: bool = False
    oracle: bool = False


STREAMS = {
    "stream": Options("full system"),
    "stream-restored": Options("with restoration at the decoder", decoder={"restore": True}),
    "stream-no-importance": Options("without the camera's map", importance=False),
    "stream-oracle": Options("oracle: a teacher's gradients on each change, free of charge", oracle=True),
    "stream-soft": Options("followers for viewers: the whole frame, soft", stream={"plain_view": "soft"}),
    "stream-deflated": Options("the regions that are sent as a deflated bitmap", deflated=True),
    "stream-no-patches": Options("without patches", stream={"policy": Policy(patches=False)}),
    "stream-one-quality": Options("keys of the followers' quality", stream={"policy": Policy(key_octaves=0.0)}),
    "stream-no-light": Options("without gain and offset of the key", stream={"policy": Policy(light=False)}),
    "stream-no-shift": Options("without a shift of the key", stream={"policy": Policy(moved_share=1.0)}),
    "stream-single-sizes": Options("keys of the coding sizes of single files", single_sizes=True),
    "stream-no-trim": Options("coefficients not weighed against bits", stream={"policy": Policy(trim=0.0)}),
}
"""All streams by the name of their codec, in the order of the ablation's rows."""


class StreamJpeg(StreamCodec):
    """A stream of Region JPEG. Each frame is decoded from its file and from files before it.

    Args:
        options: what is changed.
        name: of the codec; `@FRACTION` after it is added by `fraction`.
        model: model folder, None for the shipped one.
        fraction: coding size as a fraction of the sides; None leaves it to the encoder.
        importance: file with a camera's map, or a folder with CLIP.importance of each clip; None: no map.
        teacher: file of the network that an oracle asks.

    Raises:
        ModelError: the model, or the teacher, is broken.
        CodecMissingError: it lacks what the options need.
    """

    settings: Sequence[float] = (2, 4, 6, 8, 11, 14, 17, 21, 25, 30, 37, 45, 55, 65, 75, 85, 92)

    def __init__(
        self,
        options: Options,
        name: str = "stream",
        *,
        model: str | None = None,
        fraction: float | None = None,
        importance: Path | None = None,
        teacher: Path | None = None,
    ) -> None:
        loaded = rjpeg.load_model(model)
        if options.decoder.get("restore") and "restorer" not in loaded.manifest:
            raise CodecMissingError("the model has no restorer")
        if options.oracle and teacher is None:
            raise CodecMissingError("--teacher names no network")
        self._oracle = Oracle(teacher) if options.oracle and teacher is not None else None
        self.name = name if fraction is None else f"{name}@{fraction:g}"
        self._options, self._fraction = options, fraction
        self._importance = importance if options.importance else None
        self._encoder = rjpeg.Encoder(loaded, **options.encoder)
        self._decoder = rjpeg.Decoder(loaded, **options.decoder)
        files = " ".join(fingerprint(folder) for folder in (Path(rjpeg.__file__).parent, loaded.folder))
        self.version = f"files {files}, {options} {self._importance_mark()}"
        if self._oracle is not None:
            self.version += f" {self._oracle.version}"

    def run(self, clip: Clip, setting: float) -> list[Coded]:
        """Code all frames of a clip at a quality."""
        return [
            Coded(self._size_of(coded), frame, coded.kind if coded.kind in ("key", "patch") else "follower")
            for coded, frame in self.files(clip, setting)
        ]

    def files(self, clip: Clip, setting: float) -> list[tuple[rjpeg.EncodedFrame, np.ndarray]]:
        """Return every frame's `rjpeg.EncodedFrame`, and what a decoder makes of it, (H, W, 3) uint8 BGR."""
        clock = _Clock()
        options = {"key_seconds": NO_FURTHER_KEY, "importance": self._map_of(clip), **self._options.stream}
        if self._options.single_sizes:
            options["policy"] = Policy(sizes_by_quality=self._encoder.model.sizes_by_quality)
        encoder = rjpeg.StreamEncoder(self._encoder, clock=clock, **options)
        decoder = rjpeg.StreamDecoder(self._decoder)
        height, width = clip.frames[0].shape[:2]
        fraction = self._fraction
        size = None if fraction is None else (round(height * fraction), round(width * fraction))
        found, key = [], 0
        for number, frame in enumerate(clip.frames):
            if self._oracle is not None and number:
                encoder.importance = self._oracle.octaves(clip, number, key)
            coded = encoder.encode(frame, quality=setting, coding_size=size)
            key = number if coded.kind == "key" else key
            found.append((coded, decoder.decode(coded.jpeg)))
            clock.seconds += clip.spacing
        return found

    def _size_of(self, coded: rjpeg.EncodedFrame) -> int:
        if not self._options.deflated or coded.kept is None:
            return len(coded.jpeg)
        sent = (~coded.kept).astype(np.uint8)
        return len(coded.jpeg) - len(_native.encode_flags(sent)) + len(zlib.compress(np.packbits(sent).tobytes(), 9))

    def _map_of(self, clip: Clip) -> Any:
        path = self._importance
        if path is not None and path.is_dir():
            path = path / f"{clip.name}.importance"
        if path is None or not path.is_file():
            return None
        return rjpeg.unpack_importance(path.read_bytes()).octaves

    def _importance_mark(self) -> str:
        """Return what results depend on of the maps."""
        path = self._importance
        if path is None:
            return ""
        if not path.exists():
            raise StorageError(f"importance {path} is neither a file nor a folder")
        folder = path if path.is_dir() else path.parent
        return fingerprint(folder)


class _Clock:
    """Shows the time of the frame, in seconds."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds
