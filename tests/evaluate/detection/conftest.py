"""Four small pictures with a red square each, where it is in COCO's format, and which pixels it has."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

HEIGHT, WIDTH, SIDE = 96, 128, 40


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory, photographs) -> Path:
    """A folder squares: in each picture a red square on a bluish photograph, at another place."""
    folder = tmp_path_factory.mktemp("data") / "squares"
    (folder / "images").mkdir(parents=True)
    ground = cv2.resize(photographs[0], (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    ground[..., 2] //= 3
    images, boxes = [], []
    for number in range(4):
        frame = ground.copy()
        left, top = 8 + 20 * number, 40 - 8 * number
        frame[top : top + SIDE, left : left + SIDE] = (30, 30, 220)
        cv2.imwrite(str(folder / "images" / f"{number}.png"), frame)
        images.append({"id": 100 + number, "file_name": f"{number}.png"})
        boxes.append({"id": number, "image_id": 100 + number, "category_id": 7, "bbox": [left, top, SIDE, SIDE]})
    categories = [{"id": 9, "name": "lake"}, {"id": 7, "name": "square"}]
    text = json.dumps({"images": images, "annotations": boxes, "categories": categories})
    (folder / "annotations.json").write_text(text, "utf-8")
    return folder


@pytest.fixture(scope="session")
def segments(tmp_path_factory: pytest.TempPathFactory, squares) -> Path:
    """The same pictures with labels: 0 where the square is, 2 elsewhere, 255 in the upper eight rows."""
    folder = tmp_path_factory.mktemp("data") / "segments"
    (folder / "labels").mkdir(parents=True)
    for path in sorted((squares / "images").iterdir()):
        frame = cv2.imread(str(path))
        labels = np.where(frame[..., 2].astype(int) - frame[..., 1] > 100, 0, 2).astype(np.uint8)
        labels[:8] = 255
        cv2.imwrite(str(folder / path.name), frame)
        cv2.imwrite(str(folder / "labels" / path.name), labels)
    return folder
