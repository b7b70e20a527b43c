"""GStreamer pipelines, for an OpenCV that was built with GStreamer."""

import cv2

from device.sources.opencv import CaptureSource
from rjpeg._secrets import masked_text
from rjpeg.errors import CameraError

__all__ = ["open_gstreamer"]


def open_gstreamer(pipeline: str) -> CaptureSource:
    """Open a pipeline that ends in appsink.

    Args:
        pipeline: as gst-launch-1.0 takes it.

    Raises:
        CameraError: it can't be opened, or this OpenCV has no GStreamer.
    """
    name = f"gstreamer:{masked_text(pipeline)}"
    if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        raise CameraError(
            f"{name} can't be opened: this OpenCV ({cv2.__version__}) was built without GStreamer, as pip's are. "
            "Debian's has it: sudo apt install python3-opencv, and remove opencv-python-headless from a virtual "
            "environment that sees the system's packages (python3 -m venv --system-site-packages)"
        )
    return CaptureSource(
        cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER),
        name,
        advice="check it with gst-launch-1.0; it has to end in appsink and give BGR, GRAY8 or what OpenCV converts",
    )
