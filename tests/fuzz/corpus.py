"""Small files of every kind, the seeds of mutants: Region JPEGs of the shipped model, and anyone's."""

import io
import subprocess
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

import rjpeg

PICTURES = Path(__file__).resolve().parents[2] / "calibration_data"


@cache
def files() -> dict[str, bytes]:
    """Every seed by name, Region JPEGs named "region ...". jpegtran and cjpeg (libjpeg-turbo-progs) are needed."""
    return region_files() | ordinary_files()


@cache
def region_files() -> dict[str, bytes]:
    """Region JPEGs: sizes, samplings, every way of saying a map, transcodings without loss."""
    encoder = rjpeg.Encoder()
    made = {
        "region 48x64": encoder.encode(_picture(0, 48, 64), 40, coding_size=(48, 64)),
        "region 90x122 fine": encoder.encode(_picture(1, 90, 122), 90, coding_size=(90, 122)),
        "region 17x33": encoder.encode(_picture(2, 17, 33), 60, coding_size=(17, 33)),
        "region 1x1": encoder.encode(_picture(3, 1, 1), 50),
        "region 16x16": encoder.encode(_picture(0, 16, 16), 5),
        "region reduced": encoder.encode(_picture(1, 131, 99), 25, coding_size=(66, 50)),
        "region 4:4:4": encoder.encode(_picture(2, 50, 70), 50, coding_size=(50, 70), subsampling="4:4:4"),
        "region 4:4:4 odd": encoder.encode(_picture(3, 9, 23), 30, coding_size=(9, 23), subsampling="4:4:4"),
    }
    random = np.random.default_rng(5)
    levels = random.integers(0, len(encoder.model.map_quantizer.scales), (5, 7, 2)).astype(np.uint8)
    made["region own map"] = encoder.encode(_picture(0, 80, 112), 70, quality_map=levels)
    even = np.full((5, 7, 2), 3, np.uint8)
    made["region even map"] = encoder.encode(_picture(1, 77, 110), 70, quality_map=even)
    for name, flags in (("progressive", ["-progressive"]), ("restarts", ["-restart", "2B"])):
        for source in ("region 48x64", "region reduced", "region 4:4:4"):
            made[f"{source} {name}"] = transcoded(made[source], *flags)
    made["region arithmetic"] = transcoded(made["region 48x64"], "-arithmetic")
    made["region reduced restarts progressive"] = transcoded(made["region reduced"], "-progressive", "-restart", "1")
    return made


@cache
def ordinary_files() -> dict[str, bytes]:
    """Files of others: baseline, progressive, arithmetic, gray, CMYK, RGB, 16-bit tables, every subsampling."""
    made = {}
    for index, (kind, size) in enumerate(
        [("4:4:4", (40, 57)), ("4:2:2", (33, 17)), ("4:2:0", (64, 48)), ("L", (31, 66)), ("CMYK", (24, 40))]
    ):
        image = Image.fromarray(_picture(index % 4, *size)[..., ::-1])
        for name, options in (
            ("", {}),
            ("progressive", {"progressive": True}),
            ("restarts", {"restart_marker_blocks": 3}),
        ):
            sampling = {"subsampling": kind} if ":" in kind else {}
            image_of_kind = image if ":" in kind else image.convert(kind)
            buffer = io.BytesIO()
            image_of_kind.save(buffer, "JPEG", quality=70, **sampling, **options)
            made[f"{kind} {name}".strip()] = buffer.getvalue()
    picture = _picture(2, 45, 61)
    for name, flags in (
        ("arithmetic", ["-arithmetic"]),
        ("arithmetic progressive", ["-arithmetic", "-progressive"]),
        ("rgb", ["-rgb"]),
        ("coarse", ["-quality", "1"]),
        ("4x1", ["-sample", "4x1"]),
        ("1x4", ["-sample", "1x4"]),
        ("3x1", ["-sample", "3x1"]),
        ("odd chroma", ["-sample", "2x2,2x1,1x2"]),
    ):
        made[name] = _cjpeg(picture, *flags)
    made["cv2"] = cv2.imencode(".jpg", picture)[1].tobytes()
    at = made["cv2"].index(b"\xff\xc0")
    made["12 bit"] = made["cv2"][: at + 4] + b"\x0c" + made["cv2"][at + 5 :]
    return made


def _picture(index: int, height: int, width: int) -> np.ndarray:
    """A real photograph at a size, (height, width, 3) uint8 BGR."""
    paths = sorted(PICTURES.glob("*.jpg"))
    frame = cv2.imread(str(paths[index * 7 % len(paths)]))
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)


def transcoded(jpeg: bytes, *flags: str) -> bytes:
    """The file after jpegtran, which keeps its coefficients."""
    command = ["jpegtran", "-copy", "all", *flags]
    return subprocess.run(command, input=jpeg, capture_output=True, check=True, timeout=30).stdout


def _cjpeg(picture: np.ndarray, *flags: str) -> bytes:
    height, width = picture.shape[:2]
    ppm = b"P6 %d %d 255\n" % (width, height) + picture[..., ::-1].tobytes()
    return subprocess.run(["cjpeg", *flags], input=ppm, capture_output=True, check=True, timeout=30).stdout
