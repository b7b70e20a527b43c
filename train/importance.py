"""What the teachers look at: squared gradients of their disagreement with themselves, region by region.

A random crop is reduced to a coding size, coded coarsely as a JPEG and enlarged again. The gradient of
`train.disagreement` (for a classifier KL(output on the clean crop || output on the coded one)) with respect to the
decoded picture says how much an error at each sample would matter; its square, averaged over a region, is the
region's importance. It may be taken at several points of the way from the clean picture to the coded one, and averaged.

Crops of whole frames (`crop_sides`) are not reduced before coding. Their importance serves for all coding sizes, see
`train.dataset`.

Reverse water-filling then wants quantization steps proportional to importance^-1/2 (Cover and Thomas,
"Elements of Information Theory", section 10.3.3).

The results are kept in shards, one .npz file each, so that an interrupted run continues where it stopped:
  pictures    (n, size, size, 3) uint8 RGB, the crops at the coding size
  importance  (n, teachers, rows, cols, 2) float32, log2 of the mean squared gradient: luma, chroma
  spectrum    (n, teachers, 2, 64) float32, mean squared gradient by DCT frequency: luma, chroma
  quality     (n,) uint8, the IJG quality of the coarse coding
  held_back   (n,) bool
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from keras import ops
from tqdm import tqdm

from train.config import ImportanceConfig
from train.disagreement import divergence, parameters
from train.gradients import value_and_gradient
from train.photos import is_held_back, native_crop, random_crop, read_photo
from train.photos import resize as resize_picture
from train.teachers import Teacher
from train.transforms import YCBCR_TO_RGB, dct_matrix, resize
from train.workers import ALONE, Workers, ahead, wait_for

__all__ = [
    "Photos",
    "block_energy",
    "compute_importance",
    "gradient_statistics",
    "jpeg_round_trip",
    "region_energy",
    "teacher_gradient",
]

REGION = 16


def block_energy(plane: np.ndarray) -> np.ndarray:
    """Map (N, H, W) to (N, 64): mean square of the 8x8 blocks' DCT coefficients, natural order."""
    n, height, width = plane.shape
    blocks = plane.reshape(n, height // 8, 8, width // 8, 8)
    coefficients = np.einsum("vy,nryqx,ux->nrqvu", dct_matrix(), blocks, dct_matrix(), optimize=True)
    return np.square(coefficients).mean(axis=(1, 2)).reshape(n, 64)


def gradient_statistics(gradient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reduce a (N, s, s, 3) gradient in RGB to log2 importance (N, rows, cols, 2) and spectrum (N, 2, 64)."""
    luma, *chroma = _planes_of(gradient)
    # means of the samples of a region
    importance = np.log2(_region_sums(luma, chroma) / (REGION**2, (REGION // 2) ** 2) + 1e-60)
    spectrum = np.stack([block_energy(luma), (block_energy(chroma[0]) + block_energy(chroma[1])) / 2], 1)
    return importance.astype(np.float32), spectrum.astype(np.float32)


def region_energy(gradient: np.ndarray) -> np.ndarray:
    """Sum the squares of a (N, H, W, 3) gradient in RGB over regions: (N, rows, cols, 2), luma and chroma."""
    luma, *chroma = _planes_of(gradient)
    return _region_sums(luma, chroma)


def _planes_of(gradient: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the gradient with respect to Y, Cb and Cr. A chroma sample at 4:2:0 feeds four pixels: it is their sum."""
    # Far from all that matters squares are below what float32 holds.
    luma, cb, cr = np.moveaxis(gradient.astype(np.float64) @ YCBCR_TO_RGB.T, -1, 0)
    n, height, width = luma.shape
    cb, cr = (plane.reshape(n, height // 2, 2, width // 2, 2).sum((2, 4)) for plane in (cb, cr))
    return luma, cb, cr


def _region_sums(luma: np.ndarray, chroma: Sequence[np.ndarray]) -> np.ndarray:
    """Return the sums of squares of every region, (N, rows, cols, 2). Cb and Cr share a level, and are averaged."""
    n, height, width = luma.shape
    rows, cols, half = height // REGION, width // REGION, REGION // 2
    of_luma = np.square(luma).reshape(n, rows, REGION, cols, REGION).sum((2, 4))
    of_chroma = (np.square(chroma[0]) + np.square(chroma[1])).reshape(n, rows, half, cols, half).sum((2, 4)) / 2
    return np.stack([of_luma, of_chroma], -1)


def jpeg_round_trip(picture: np.ndarray, quality: int) -> np.ndarray:
    """Code a picture (RGB uint8) with libjpeg-turbo, 4:2:0, at an IJG quality, and return it decoded."""
    encoded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1]


def teacher_gradient(teacher: Teacher, size: int | None = None):
    """Compile (decoded (N, s, s, 3), *parameters of the answer on the clean picture) -> (nats, gradient).

    size: that pictures are resized to; None: they have the size of the teacher's input.
    """

    def disagreement(decoded, *clean):
        answer = teacher(decoded if size is None else resize(decoded, size, size), training=False)
        return ops.sum(divergence(teacher.kinds, clean, parameters(teacher.kinds, answer)))

    return value_and_gradient(disagreement)


class _Shard(NamedTuple):
    file: str
    photos: list[str]
    coding_size: int
    side: int | None
    area: tuple[float, float]
    seed: int


def _plan(names: list[str], config: ImportanceConfig, seed: int) -> Iterator[_Shard]:
    for round_ in range(config.rounds + config.detail_rounds):
        area = config.crop_area if round_ < config.rounds else config.detail_area
        rng = np.random.default_rng((seed, round_))
        order = rng.permutation(len(names))
        for number, start in enumerate(range(0, len(order), config.shard)):
            photos = [names[index] for index in order[start : start + config.shard]]
            if config.crop_sides:
                size, side = config.crop_size, int(rng.choice(config.crop_sides))
            else:
                size, side = int(rng.choice(config.coding_sizes)), None
            yield _Shard(f"{round_:03d}-{number:05d}.npz", photos, size, side, area, int(rng.integers(2**62)))


class Photos(NamedTuple):
    """The photos to learn from. names: of the files in `folder`. held_back: share that is not trained on, 0..1."""

    folder: Path
    names: list[str]
    held_back: float


class _Prepared(NamedTuple):
    """A shard's pictures. crops, pictures, coded: (n, side, side, 3) uint8 RGB, the last two at the coding size."""

    crops: np.ndarray
    pictures: np.ndarray
    quality: np.ndarray
    coded: np.ndarray


def compute_importance(
    photos: Photos,
    teachers: list[Teacher],
    config: ImportanceConfig,
    out: Path,
    seed: int,
    workers: Workers = ALONE,
) -> list[Path]:
    """Compute the shards that are missing under `out`. Return the paths of all of them, in order.

    Of several workers each computes its share, and waits for the others'. Raises WorkerError when they don't come,
    InputError for a photo that can't be read.
    """
    out.mkdir(parents=True, exist_ok=True)
    plan = list(_plan(photos.names, config, seed))
    mine = plan[workers.index :: workers.count]
    missing = [shard for shard in mine if not (out / shard.file).exists()]
    gradients = [teacher_gradient(teacher, config.crop_size) for teacher in teachers]
    progress = tqdm(missing, desc="importance", unit="shard", initial=len(mine) - len(missing), total=len(mine))
    prepared_ahead = ahead(functools.partial(_prepare, photos.folder, config), missing)
    for shard, prepared in zip(progress, prepared_ahead, strict=True):
        found = [
            _ask(teacher, gradient, prepared, config) for teacher, gradient in zip(teachers, gradients, strict=True)
        ]
        importance, spectrum = (np.stack(each, 1) for each in zip(*found, strict=True))
        held_back = np.array([is_held_back(name, photos.held_back) for name in shard.photos])
        partial = out / (shard.file + ".partial")
        with partial.open("wb") as stream:
            np.savez(
                stream,
                pictures=prepared.pictures,
                importance=importance,
                spectrum=spectrum,
                quality=prepared.quality,
                held_back=held_back,
            )
        partial.replace(out / shard.file)
    paths = [out / shard.file for shard in plan]
    wait_for(paths, workers)
    return paths


def _prepare(folder: Path, config: ImportanceConfig, shard: _Shard) -> _Prepared:
    """Read a shard's photos, cut them and code them coarsely."""
    rng = np.random.default_rng(shard.seed)
    photos = (read_photo(folder / name) for name in shard.photos)
    if shard.side is None:
        crops = np.stack([random_crop(photo, config.crop_size, shard.area, rng) for photo in photos])
    else:
        crops = np.stack([native_crop(photo, shard.side, config.crop_size, rng) for photo in photos])
    pictures = np.stack([resize_picture(crop, (shard.coding_size, shard.coding_size)) for crop in crops])
    quality = rng.integers(config.quality[0], config.quality[1] + 1, len(crops)).astype(np.uint8)
    coded = np.stack([jpeg_round_trip(*pair) for pair in zip(pictures, quality.tolist(), strict=True)])
    return _Prepared(crops, pictures, quality, coded)


def _ask(
    teacher: Teacher, gradient: Callable[..., tuple[Any, Any]], prepared: _Prepared, config: ImportanceConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Return a teacher's importance and spectrum of a shard, as `gradient_statistics` gives them."""
    count = len(prepared.crops)
    squares = []
    for start in range(0, count, config.batch):
        # The last batch is filled up so that every batch has one shape and nothing is compiled twice.
        index = np.arange(start, start + config.batch).clip(max=count - 1)
        clean = parameters(teacher.kinds, teacher.predict_on_batch(prepared.crops[index].astype(np.float32)))
        pictures, coded = (group[index].astype(np.float32) for group in (prepared.pictures, prepared.coded))
        at_points = []
        for point in config.points:
            _, slope = gradient(pictures + np.float32(point) * (coded - pictures), *clean)
            at_points.append(gradient_statistics(ops.convert_to_numpy(slope)[: count - start]))
        squares.append([np.stack(each) for each in zip(*at_points, strict=True)])
    importance, spectrum = (np.concatenate(each, 1) for each in zip(*squares, strict=True))
    return np.logaddexp2.reduce(importance, 0) - np.float32(np.log2(len(importance))), spectrum.mean(0)
