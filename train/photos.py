"""The folder of training photographs: which files, which are held back, and random crops of them."""

import hashlib
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from rjpeg._files import path_for_opencv
from rjpeg.errors import InputError

__all__ = [
    "center_crop",
    "check_count",
    "data_hash",
    "gather",
    "held_back_photos",
    "is_held_back",
    "list_photos",
    "native_crop",
    "random_crop",
    "read_photo",
    "resize",
    "samples",
    "sharpened",
    "split",
]

logger = logging.getLogger(__name__)

# The chance that among so many photos as a message calls enough none is held back.
MISS_CHANCE = 1e-3
# Fewer photos than these are trained on with a warning.
FEW = 1000
ENOUGH = "The model that comes with rjpeg learned from 3,149"

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff"}


def list_photos(folder: Path) -> list[str]:
    """List the paths of the pictures under `folder`, relative to it, sorted. Raises InputError if there are none."""
    if not folder.is_dir():
        raise InputError(f"data folder {folder}: no such folder")
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not names:
        raise InputError(f"data folder {folder}: no pictures ({', '.join(sorted(SUFFIXES))}) in it")
    return names


def gather(folders: Sequence[Path]) -> tuple[Path, list[str]]:
    """List the pictures under several folders. Return the folder that holds them all, and their paths in it, sorted.

    A single folder is the one that holds them all, so that its photos keep their names. Raises InputError.
    """
    whole = [folder.resolve() for folder in folders]
    for one in whole:
        if any(one != other and one.is_relative_to(other) for other in whole) or whole.count(one) > 1:
            raise InputError(f"data folder {one} is there twice")
    root = Path(os.path.commonpath(whole))
    names = [(folder.relative_to(root) / name).as_posix() for folder in whole for name in list_photos(folder)]
    return root, sorted(names)


def is_held_back(name: str, fraction: float) -> bool:
    """Tell whether a photo is kept out of training. Its name decides, so that added photos move none."""
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:4], "big") < fraction * 2**32


def held_back_photos(folder: Path, fraction: float) -> list[str]:
    """List the photos under `folder` that are kept out of training. Raises InputError if it has no pictures."""
    return [name for name in list_photos(folder) if is_held_back(name, fraction)]


def split(folder: Path, fraction: float) -> tuple[list[str], list[str]]:
    """Split the photos under `folder` into those trained on and those held back. Raises InputError if one is empty."""
    names = list_photos(folder)
    kept = [name for name in names if not is_held_back(name, fraction)]
    held = [name for name in names if is_held_back(name, fraction)]
    check_count(folder, len(names), len(held), fraction)
    return kept, held


def check_count(folder: Path, photos: int, held: int, fraction: float) -> None:
    """Check that some photos are held back, and not all are. Log it if there are few.

    folder: for messages. photos: how many there are. held: how many of them are held back. fraction: that should be.
    Raises InputError, which says how many are enough.
    """
    if not 0 < held < photos:
        which = "none is held back to check the training on" if held == 0 else "all are held back, and none is left"
        enough = math.ceil(math.log(MISS_CHANCE) / math.log(1 - min(fraction, 1 - fraction)))
        raise InputError(
            f"data folder {folder} has {photos} photos, of which {which}. Their names decide, for {fraction:.0%} of "
            f"them: {enough} photos are enough to begin. {ENOUGH}"
        )
    if photos < FEW:
        logger.warning("%d photos are enough to try this out, and few to learn from. %s", photos, ENOUGH)


def samples(folder: Path, names: Sequence[str], size: int) -> np.ndarray:
    """Cut out middle squares of up to 32 photos, evenly spread over `names`, (n, size, size, 3) uint8 RGB."""
    chosen = names[:: max(1, len(names) // 32)][:32]
    return np.stack([center_crop(read_photo(folder / name), size) for name in chosen])


def data_hash(folder: Path, names: list[str]) -> str:
    """Return the SHA-256 (hex) over the names and contents of the photos."""
    total = hashlib.sha256()
    for name in names:
        total.update(name.encode() + b"\0" + hashlib.sha256((folder / name).read_bytes()).digest())
    return total.hexdigest()


def read_photo(path: Path) -> np.ndarray:
    """Read a photo, (H, W, 3) uint8 RGB. Raises InputError if the file is not a picture."""
    picture = cv2.imread(path_for_opencv(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise InputError(f"{path}: not a readable picture")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def random_crop(photo: np.ndarray, size: int, area: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Cut out a random part of the photo, randomly mirrored, at (size, size, 3) uint8.

    `area` bounds the part's share of the photo; its aspect ratio is drawn from 3/4 .. 4/3 (Szegedy et al.,
    "Going Deeper with Convolutions", 2015).
    """
    height, width = photo.shape[:2]
    aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    pixels = rng.uniform(*area) * height * width
    crop_height = int(np.clip(round(np.sqrt(pixels / aspect)), 1, height))
    crop_width = int(np.clip(round(np.sqrt(pixels * aspect)), 1, width))
    top = int(rng.integers(height - crop_height + 1))
    left = int(rng.integers(width - crop_width + 1))
    crop = photo[top : top + crop_height, left : left + crop_width]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    return resize(crop, (size, size))


def native_crop(photo: np.ndarray, side: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Cut out a random square of `side` pixels, randomly mirrored, at (size, size, 3) uint8.

    Of a photo that is smaller it is as large as the photo allows.
    """
    side = min(side, *photo.shape[:2])
    top, left = (int(rng.integers(length - side + 1)) for length in photo.shape[:2])
    crop = photo[top : top + side, left : left + side]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    return resize(crop, (size, size))


def center_crop(photo: np.ndarray, size: int) -> np.ndarray:
    """Cut out the middle square of the photo at (size, size, 3) uint8."""
    height, width = photo.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resize(photo[top : top + side, left : left + side], (size, size))


def sharpened(picture: np.ndarray, amount: float) -> np.ndarray:
    """Add `amount` times what a Gaussian of one pixel takes from the uint8 picture: an unsharp mask."""
    return cv2.addWeighted(picture, 1 + amount, cv2.GaussianBlur(picture, (0, 0), 1), -amount, 0)


def resize(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize the picture to (height, width): area-averaged when it shrinks, cubic when it grows."""
    shrinks = picture.shape[0] >= size[0] and picture.shape[1] >= size[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(np.ascontiguousarray(picture), size[::-1], interpolation=method)
