"""The codecs that are compared, behind one face.

Every codec has a scale of whole qualities, larger is better, and is asked for the best file of it that
fits a number of bytes, by the same search. Region JPEG searches by itself: that is a part of it.
Files are counted whole.
"""

import hashlib
import importlib
import importlib.metadata
import io
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import rjpeg
from evaluate import side_maps
from evaluate.variants import FULL_SYSTEM, VARIANTS
from rjpeg.errors import InputError, RjpegError, TargetError
from train.framing import resize

__all__ = [
    "PEERS",
    "Codec",
    "CodecMissingError",
    "Coded",
    "LibjpegTurbo",
    "Reduced",
    "family",
    "fingerprint",
    "make_codec",
]

# file size falls a little here and there while quality rises; so far past the first file that is too large
# the search looks for one that fits
LOOK_AHEAD = 2


class CodecMissingError(RjpegError):
    """A package that a codec comes with, or something else that it needs, is not there."""


@dataclass(frozen=True)
class Coded:
    """A whole file, and whether it is within the bytes that were asked for."""

    data: bytes
    fits: bool


class Codec(ABC):
    """Encoder and decoder of one format at one set of options.

    `qualities` are the whole numbers that `encode` takes, `version` names the library and its release.
    """

    name: str
    version: str
    qualities: range = range(1, 101)

    @abstractmethod
    def encode(self, frame: np.ndarray, quality: int) -> bytes:
        """Encode a (H, W, 3) uint8 BGR frame at a quality of `qualities`."""

    @abstractmethod
    def decode(self, data: bytes) -> np.ndarray:
        """Decode a file, (H, W, 3) uint8 BGR; Reduced gives it at the size it was coded at."""

    def encode_within(self, frame: np.ndarray, max_bytes: int, known: dict[int, bytes]) -> Coded:
        """Encode at the highest quality that fits `max_bytes`; at the lowest if none fits.

        `known` holds the files of this frame by quality from earlier searches, and gets those of this one.
        """

        def fits(quality: int) -> bool:
            if quality not in known:
                known[quality] = self.encode(frame, quality)
            return len(known[quality]) <= max_bytes

        lowest, highest = self.qualities[0], self.qualities[-1]
        below = max((q for q in known if fits(q)), default=lowest - 1)
        above = min((q for q in known if q > below and not fits(q)), default=highest + 1)
        while above - below > 1:
            middle = (below + above) // 2
            below, above = (middle, above) if fits(middle) else (below, middle)
        for quality in range(above + 1, min(above + LOOK_AHEAD, highest) + 1):
            if fits(quality):
                below = quality
        return Coded(known[below], True) if below >= lowest else Coded(known[lowest], False)


class LibjpegTurbo(Codec):
    """libjpeg-turbo with optimized Huffman tables, 4:2:0, as OpenCV carries it."""

    name = "libjpeg-turbo"
    version = f"OpenCV {cv2.__version__}"

    def encode(self, frame: np.ndarray, quality: int) -> bytes:
        """Encode a (H, W, 3) uint8 BGR frame at a quality."""
        options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
        return bytes(cv2.imencode(".jpg", frame, options)[1])

    def decode(self, data: bytes) -> np.ndarray:
        """Decode a file, (H, W, 3) uint8 BGR."""
        return _decode_jpeg(data)


class MozJpeg(Codec):
    """mozjpeg with its own tables, trellis quantization and deringing, 4:2:0, as libvips carries it.

    Of the baseline file and the progressive one with optimized scans, the smaller.
    """

    name = "mozjpeg"

    def __init__(self) -> None:
        self._vips = _import("pyvips")
        self.version = f"libvips {self._vips.version(0)}.{self._vips.version(1)}.{self._vips.version(2)}"
        self._options = {
            "keep": "none",
            "subsample_mode": "on",
            "optimize_coding": True,
            "trellis_quant": True,
            "overshoot_deringing": True,
            "quant_table": 3,  # mozjpeg's default
        }
        black = self._vips.Image.black(16, 16, bands=3)
        if b"\xff\xc2" not in black.jpegsave_buffer(interlace=True, optimize_scans=True, **self._options):
            raise CodecMissingError("the installed libvips writes JPEG without mozjpeg")

    def encode(self, frame: np.ndarray, quality: int) -> bytes:
        """Encode a (H, W, 3) uint8 BGR frame at a quality."""
        rgb = np.ascontiguousarray(frame[:, :, ::-1])
        image = self._vips.Image.new_from_array(rgb).copy(interpretation="srgb")
        files = (
            image.jpegsave_buffer(Q=quality, interlace=progressive, optimize_scans=progressive, **self._options)
            for progressive in (False, True)
        )
        return bytes(min(files, key=len))

    def decode(self, data: bytes) -> np.ndarray:
        """Decode a file, (H, W, 3) uint8 BGR."""
        return _decode_jpeg(data)


class Jpegli(Codec):
    """jpegli at the options that its package fixes: progressive, adaptive quantization, 4:2:0."""

    name = "jpegli"

    def __init__(self) -> None:
        self._jpegli = _import("pyjpegli")
        self.version = f"pyjpegli {importlib.metadata.version('pyjpegli')}"

    def encode(self, frame: np.ndarray, quality: int) -> bytes:
        """Encode a (H, W, 3) uint8 BGR frame at a quality."""
        height, width = frame.shape[:2]
        return bytes(self._jpegli.encode(frame[:, :, ::-1].tobytes(), width, height, quality))

    def decode(self, data: bytes) -> np.ndarray:
        """Decode a file, (H, W, 3) uint8 BGR."""
        return _decode_jpeg(data)


class PillowCodec(Codec):
    """A format that Pillow writes and reads."""

    qualities = range(101)

    def __init__(self, name: str, feature: str, **options: Any) -> None:
        self.name = name
        self._image = _import("PIL.Image")
        features = _import("PIL.features")
        if not features.check(feature):
            raise CodecMissingError(f"the installed Pillow has no {feature}")
        self._format, self._options = feature.upper(), options
        self.version = f"{feature} {features.version(feature)}, Pillow {importlib.metadata.version('pillow')}"

    def encode(self, frame: np.ndarray, quality: int) -> bytes:
        """Encode a (H, W, 3) uint8 BGR frame at a quality."""
        stream = io.BytesIO()
        image = self._image.fromarray(np.ascontiguousarray(frame[:, :, ::-1]))
        image.save(stream, self._format, quality=quality)
        return stream.getvalue()

    def decode(self, data: bytes) -> np.ndarray:
        """Decode a file, (H, W, 3) uint8 BGR."""
        with self._image.open(io.BytesIO(data)) as image:
            return np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1])


class Reduced(Codec):
    """A codec behind a reduction of the frame by area. Whoever decodes enlarges, since no file says to what size."""

    def __init__(self, codec: Codec, fraction: float) -> None:
        self.name = f"{codec.name}@{fraction:g}"
        self.version, self.qualities = codec.version, codec.qualities
        self._codec, self._fraction = codec, fraction

    def encode(self, frame: np.ndarray, quality: int) -> bytes:
        """Encode a (H, W, 3) uint8 BGR frame at a quality."""
        height, width = (max(1, round(side * self._fraction)) for side in frame.shape[:2])
        return self._codec.encode(resize(frame, height, width), quality)

    def decode(self, data: bytes) -> np.ndarray:
        """Decode a file at the size that it was coded at."""
        return self._codec.decode(data)


class RegionJpeg(Codec):
    """Region JPEG as it is shipped, or with a part of it changed.

    `name` is one of VARIANTS, `model` the model folder, None for the shipped one. Raises ModelError for a broken model
    and CodecMissingError when the variant needs something that is not there.
    """

    def __init__(self, name: str, model: str | None = None) -> None:
        self.name = name
        variant = VARIANTS[name]
        loaded = variant.changed(rjpeg.load_model(model))
        files = [fingerprint(folder) for folder in (Path(rjpeg.__file__).parent, loaded.folder)]
        self._side_map: side_maps.SideMap | None = None
        if variant.side_map is not None:
            try:
                self._side_map = side_maps.attach(variant.side_map, loaded)
            except ImportError as error:
                raise CodecMissingError(f"package {error.name} is not installed") from error
            files.append(side_maps.fingerprint())
        if variant.decoder.get("restore") and "restorer" not in loaded.manifest:
            raise CodecMissingError("the model has no restorer")
        self._encoder = rjpeg.Encoder(loaded, **variant.encoder)
        self._decoder = rjpeg.Decoder(loaded, **variant.decoder)
        self.version = f"rjpeg {rjpeg.__version__}, model {loaded.identity.hex()}, files {' '.join(files)}"
        if variant != FULL_SYSTEM:
            self.version += f", {variant.settings()}"

    def encode(self, frame: np.ndarray, quality: int) -> bytes:
        """Encode a (H, W, 3) uint8 BGR frame at a quality."""
        self._show(frame)
        return self._encoder.encode(frame, quality=quality)

    def decode(self, data: bytes) -> np.ndarray:
        """Decode a file. Its map may not be in it: call this after `encode` of the same frame."""
        return self._decoder.decode(data)

    def encode_within(self, frame: np.ndarray, max_bytes: int, known: dict[int, bytes]) -> Coded:
        """Encode at the best quality that fits `max_bytes`, or at the lowest if none fits."""
        del known  # rjpeg searches by itself
        self._show(frame)
        try:
            return Coded(self._encoder.encode(frame, target_bytes=max_bytes), True)
        except TargetError:
            return Coded(self.encode(frame, self.qualities[0]), False)

    def _show(self, frame: np.ndarray) -> None:
        if self._side_map is not None:
            self._side_map.frame = frame


# AVIF at libavif's default speed: the slowest takes seconds a file, and a search writes many.
PEERS: dict[str, Callable[[], Codec]] = {
    "libjpeg-turbo": LibjpegTurbo,
    "mozjpeg": MozJpeg,
    "jpegli": Jpegli,
    "webp": lambda: PillowCodec("webp", "webp", method=6),
    "avif": lambda: PillowCodec("avif", "avif", speed=6, subsampling="4:2:0", max_threads=1),
}


def make_codec(name: str, model: str | None = None) -> Codec:
    """Make the codec of a name in PEERS or VARIANTS.

    With `@FRACTION` after it, a peer codes at that fraction of height and width; Region JPEG chooses by itself.
    `model` is as in RegionJpeg.
    Raises InputError for an unknown name or a fraction outside (0, 1], CodecMissingError when a package or
    something else that it needs is missing.
    """
    if name in VARIANTS:
        return RegionJpeg(name, model)
    base, _, fraction = name.partition("@")
    if base not in PEERS:
        raise InputError(f"codec {name!r} is unknown, expected one of {', '.join([*VARIANTS, *PEERS])}")
    if not fraction:
        return PEERS[base]()
    try:
        value = float(fraction)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise InputError(f"codec {name!r}: coding size must be a fraction of the frame's in (0, 1]")
    return Reduced(PEERS[base](), value)


def family(name: str) -> str:
    """Return the codec's name without the coding size."""
    return name.partition("@")[0]


def _decode_jpeg(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise CodecMissingError(f"package {module.partition('.')[0]} is not installed") from error


def fingerprint(folder: Path) -> str:
    """Return a short hash of all files of a folder: two versions of a codec never share cached results."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix not in {".pyc", ".pyi"}:
            digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]
