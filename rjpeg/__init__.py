"""Region JPEG: plain JPEG files whose regions have the quality that a neural network needs.

encoder = rjpeg.Encoder()
jpeg = encoder.encode(frame, target_bytes=2400)
frame = rjpeg.Decoder().decode(jpeg)

stream = rjpeg.StreamEncoder()  # a camera that stands still: what was sent is not sent again
coded = stream.encode(frame, quality=50)
frame = rjpeg.StreamDecoder().decode(coded.jpeg)
"""

from rjpeg._base import Base
from rjpeg._codec import Planes
from rjpeg._importance import Importance, pack_importance, unpack_importance
from rjpeg._inspection import inspect, region_bits
from rjpeg._marker import FileIdentity
from rjpeg._model import Model, load_model
from rjpeg.decoder import DecodedFrame, Decoder, identify
from rjpeg.encoder import EncodedFrame, Encoder
from rjpeg.errors import (
    CameraError,
    InputError,
    JpegError,
    KeyMissingError,
    MarkerError,
    ModelError,
    RjpegError,
    StorageError,
    TargetError,
)
from rjpeg.reader import VideoReader
from rjpeg.stream import StreamDecoder, StreamEncoder

__version__ = "0.1.0"

__all__ = [
    "Base",
    "CameraError",
    "DecodedFrame",
    "Decoder",
    "EncodedFrame",
    "Encoder",
    "FileIdentity",
    "Importance",
    "InputError",
    "JpegError",
    "KeyMissingError",
    "MarkerError",
    "Model",
    "ModelError",
    "Planes",
    "RjpegError",
    "StorageError",
    "StreamDecoder",
    "StreamEncoder",
    "TargetError",
    "VideoReader",
    "identify",
    "inspect",
    "load_model",
    "pack_importance",
    "region_bits",
    "unpack_importance",
]
