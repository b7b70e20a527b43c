"""Pictures with boxes, for those who are told of an alert."""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["boxed_jpeg", "draw_boxes"]

COLOR, INK = (59, 212, 255), (0, 0, 0)
"""BGR, those of the page."""
QUALITY = 80
MAX_SIDE = 1280
"""Larger pictures are reduced."""
MAX_BOXES = 100


def draw_boxes(frame: npt.NDArray[np.uint8], results: Any) -> npt.NDArray[np.uint8]:
    """Return a picture, (H, W, 3) uint8 BGR, with the boxes of a task's answer, their names and scores."""
    drawn = frame.copy()
    height, width = drawn.shape[:2]
    thick = max(1, round(max(height, width) / 400))
    scale = max(0.4, max(height, width) / 1600)
    boxes = [item for item in results if _has_box(item)] if isinstance(results, list) else []
    # the best are drawn last, over the others
    for item in reversed(boxes[:MAX_BOXES]):
        left, top, right, bottom = (
            int(np.clip(side, 0, limit)) for side, limit in zip(item["box"], (width, height) * 2, strict=True)
        )
        cv2.rectangle(drawn, (left, top), (right, bottom), COLOR, thick)
        name = str(item.get("label", f"class {item.get('index', '?')}")).encode("ascii", "replace").decode()
        text = f"{name[:40]} {item.get('score', 0):.2f}"
        (wide, high), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thick)
        cv2.rectangle(drawn, (left, top), (left + wide, top + high + base), COLOR, cv2.FILLED)
        cv2.putText(drawn, text, (left, top + high), cv2.FONT_HERSHEY_SIMPLEX, scale, INK, thick, cv2.LINE_AA)
    return drawn


def boxed_jpeg(frame: npt.NDArray[np.uint8], results: Any) -> bytes:
    """Return a picture with boxes as a JPEG file, its longer side at most MAX_SIDE."""
    drawn = draw_boxes(frame, results)
    factor = MAX_SIDE / max(drawn.shape[:2])
    if factor < 1:
        drawn = cv2.resize(drawn, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def _has_box(item: Any) -> bool:
    if not isinstance(item, dict) or not isinstance(item.get("score"), (int, float)):
        return False
    box = item.get("box")
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(side, (int, float)) and abs(side) < 1e6 for side in box)
    )
