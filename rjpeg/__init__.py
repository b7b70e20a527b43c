"""Region JPEG: plain JPEG files whose regions have the quality that a neural network needs.

encoder = rjpeg.Encoder()
jpeg = encoder.encode(frame, target_bytes=2400)
frame = rjpeg.Decoder().decode(jpeg)
"""

from rjpeg._codec import Planes
from rjpeg._inspection import inspect, region_bits
from rjpeg._model import Model, load_model
from rjpeg.decoder import DecodedFrame, Decoder
from rjpeg.encoder import EncodedFrame, Encoder
from rjpeg.errors import (
    CameraError,
    InputError,
    JpegError,
    MarkerError,
    ModelError,
    RjpegError,
    StorageError,
    TargetError,
)
from rjpeg.reader import VideoReader

__version__ = "0.1.0"

__all__ = [
    "CameraError",
    "DecodedFrame",
    "Decoder",
    "EncodedFrame",
    "Encoder",
    "InputError",
    "JpegError",
    "MarkerError",
    "Model",
    "ModelError",
    "Planes",
    "RjpegError",
    "StorageError",
    "TargetError",
    "VideoReader",
    "inspect",
    "load_model",
    "region_bits",
]
