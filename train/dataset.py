"""Shards of importance as batches for the networks, and how well a network does on them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import keras
import numpy as np

from rjpeg._codec import REGION, forward_dct, planes_from_frame
from rjpeg._features import generator_features, predictor_features
from train import transforms
from train.config import CodecConfig, ImportanceConfig
from train.photos import resize
from train.workers import ALONE, Workers, share

__all__ = [
    "Batches",
    "Crops",
    "Rates",
    "Targets",
    "centered",
    "coefficients",
    "correlation",
    "generator_batch",
    "load_crops",
    "maps_of",
    "predictor_batch",
    "target_of",
]

MAX_OFFSET = 3.0
MAX_ABSOLUTE_OFFSET = 6.0
"""Octaves. Without centering, targets span whole frames: a standard deviation of 2."""


class Crops(NamedTuple):
    """Crops of one coding size. n crops, rows x cols regions."""

    features: np.ndarray  # (n, rows, cols, 73) int8, the generator's at rate 0
    luma_dc: np.ndarray  # (n, 2 * rows, 2 * cols) float32, not quantized
    chroma_dc: np.ndarray  # (n, rows, cols, 2) float32, not quantized
    teachers: np.ndarray  # (n, teachers, rows, cols, 2) float32, every teacher's own target
    target: np.ndarray  # (n, rows, cols, 2) float32, octaves, centered
    quality: np.ndarray  # (n,) uint8


def coefficients(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute the Y, Cb and Cr coefficients at 4:2:0 of an RGB picture with sides that are multiples of 16."""
    y, cb, cr = planes_from_frame(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), "4:2:0")
    return forward_dct(y), forward_dct(cb), forward_dct(cr)


def centered(maps: np.ndarray) -> np.ndarray:
    """Subtract from maps (..., rows, cols, channels) their mean over the grid."""
    return maps - maps.mean(axis=(-3, -2), keepdims=True)


def target_of(importance: np.ndarray) -> np.ndarray:
    """Compute step offsets in octaves for log2 importance (..., rows, cols, 2): -1/2 of it, centered, limited."""
    return centered(np.clip(centered(-0.5 * importance), -MAX_OFFSET, MAX_OFFSET))


class Targets(NamedTuple):
    """How log2 importance becomes targets.

    means: (teachers, 2) that are average, or None to center every crop. blur: deviation of a Gaussian, in regions.
    sizes: the coding sizes that every crop is reduced to, or none for the shards' own.
    """

    means: np.ndarray | None = None
    blur: float = 0.0
    sizes: tuple[int, ...] = ()

    @classmethod
    def of(cls, shards: Sequence[Path], config: ImportanceConfig, window: int | None) -> "Targets":
        """Derive them for a run. window: the map's; without one, means are those of the crops that are trained on."""
        means = None if window is not None else mean_importance(shards)
        return cls(means, config.blur, config.coding_sizes if config.crop_sides else ())

    def __call__(self, importance: np.ndarray) -> np.ndarray:
        """Compute step offsets in octaves for log2 importance (n, teachers, rows, cols, 2)."""
        if self.means is None:
            return target_of(importance)
        offsets = -0.5 * (importance - self.means[:, None, None])
        return np.clip(offsets, -MAX_ABSOLUTE_OFFSET, MAX_ABSOLUTE_OFFSET)

    def mean(self, teachers: np.ndarray) -> np.ndarray:
        """Join the targets of all teachers, (n, teachers, rows, cols, 2)."""
        joined = teachers.mean(axis=1)
        return centered(joined) if self.means is None else joined


def mean_importance(shards: Sequence[Path]) -> np.ndarray:
    """Return the mean log2 importance of the crops that are trained on, (teachers, 2)."""
    means = []
    for path in shards:
        with np.load(path) as shard:
            means.append(shard["importance"][~shard["held_back"]].mean(axis=(2, 3)))
    return np.concatenate(means).mean(axis=0)


def _blurred(importance: np.ndarray, deviation: float) -> np.ndarray:
    """Blur maps (n, teachers, rows, cols, 2) by a Gaussian."""
    if not deviation:
        return importance
    planes = importance.reshape(-1, *importance.shape[2:])
    blurred = [cv2.GaussianBlur(plane, (0, 0), deviation, borderType=cv2.BORDER_REPLICATE) for plane in planes]
    return np.stack(blurred).reshape(importance.shape)


def _reduced(importance: np.ndarray, cells: int) -> np.ndarray:
    """Bring maps (n, teachers, rows, cols, 2) to a square grid of other regions."""
    if importance.shape[2:4] == (cells, cells):
        return importance
    planes = importance.reshape(-1, *importance.shape[2:])
    reduced = [cv2.resize(plane, (cells, cells), interpolation=cv2.INTER_AREA) for plane in planes]
    return np.stack(reduced).reshape(*importance.shape[:2], cells, cells, 2)


def load_crops(shards: Sequence[Path], held_back: bool, targets: Targets | None = None) -> list[Crops]:
    """Load the crops of the photos that are (or are not) held back, one entry for every coding size."""
    targets = targets or Targets()
    groups: dict[int, list[list[np.ndarray]]] = {}
    for path in shards:
        with np.load(path) as shard:
            chosen = np.flatnonzero(shard["held_back"] == held_back)
            if not len(chosen):
                continue
            pictures, quality = shard["pictures"][chosen], shard["quality"][chosen]
            importance = _blurred(shard["importance"][chosen], targets.blur)
        for size in targets.sizes or (pictures.shape[1],):
            reduced = [resize(picture, (size, size)) for picture in pictures]
            teachers = targets(_reduced(importance, size // REGION))
            groups.setdefault(size, []).append(_columns(reduced, teachers, targets.mean(teachers), quality))
    return [
        Crops(*(np.concatenate(column) for column in zip(*parts, strict=True))) for _, parts in sorted(groups.items())
    ]


def _columns(
    pictures: list[np.ndarray], teachers: np.ndarray, target: np.ndarray, quality: np.ndarray
) -> list[np.ndarray]:
    """Return the entries of `Crops` for pictures of one size."""
    parts = [coefficients(picture) for picture in pictures]
    features = [np.rint(generator_features(*part, 0)).astype(np.int8) for part in parts]
    return [
        np.stack(features),
        np.stack([y[..., 0] for y, _, _ in parts]),
        np.stack([np.stack([cb[..., 0], cr[..., 0]], -1) for _, cb, cr in parts]),
        teachers.astype(np.float32),
        target.astype(np.float32),
        quality,
    ]


class Rates(NamedTuple):
    """What the files' DQT is like, in training.

    octaves: log2 of its mean luma step at quality 50. dc: its DC step as a share of that mean, luma and chroma.
    """

    octaves: float
    dc: tuple[float, float]

    @classmethod
    def of(cls, codec: CodecConfig) -> "Rates":
        """Derive the rates: the DQT is finer than a picture's average region by the center level, see `rjpeg._maps`."""
        luma, chroma = codec.base_tables.luma, codec.base_tables.chroma
        mean = float(np.mean(luma))
        octaves = float(np.log2(mean)) - codec.center_levels[0] / codec.levels_per_octave
        return cls(octaves, (luma[0] / mean, chroma[0] / mean))


def draw_rates(quality: np.ndarray, rates: Rates, rng: np.random.Generator) -> np.ndarray:
    """Draw log2 of the mean luma step of a DQT for every crop, 0..8.

    Most are near the quality at which the crop's importance was taken, the rest anywhere, so that the networks
    know the whole range.
    """
    scale = np.where(quality < 50, 50.0 / quality, 2 - quality / 50.0)
    near = np.log2(scale) + rates.octaves + rng.normal(0, 0.6, quality.shape)
    anywhere = rng.uniform(0, 8, quality.shape)
    return np.clip(np.where(rng.random(quality.shape) < 0.75, near, anywhere), 0, 8)


def generator_batch(crops: Crops, index: np.ndarray, octaves: np.ndarray) -> np.ndarray:
    """Make generator features (n, rows, cols, 73) float32 of some crops at tables of 2**octaves mean luma step."""
    features = crops.features[index].astype(np.float32)
    features[..., -1] += np.floor(16 * octaves + 0.5)[:, None, None]
    return features


def predictor_batch(
    crops: Crops, index: np.ndarray, octaves: np.ndarray, rates: Rates, rng: np.random.Generator
) -> np.ndarray:
    """Make predictor features (n, rows, cols, 7) float32, DC terms quantized as in such a file.

    The DC step is varied around the tables' own, so that tables can be tuned without training anew.
    """
    batch = []
    for crop, octave in zip(index, octaves, strict=True):
        variation = 2.0 ** (octave + rng.uniform(-0.7, 0.7))
        luma_step, chroma_step = (max(1.0, float(np.rint(variation * ratio))) for ratio in rates.dc)
        y = np.rint(crops.luma_dc[crop] / luma_step) * luma_step
        cb, cr = np.moveaxis(np.rint(crops.chroma_dc[crop] / chroma_step) * chroma_step, -1, 0)
        batch.append(predictor_features(y, cb, cr, int(np.floor(16 * octave + 0.5))))
    return np.stack(batch)


class Batches:
    """Batches of (features, target) for one of the networks, in a new order every epoch.

    network: "generator" or "predictor". targets: (n, rows, cols, 2) for every entry of `crops`. What a batch holds is
    decided by seed, epoch and number alone, so that an interrupted run goes on as it would have; of every batch
    a worker gets its share. pictures: in an epoch, of all workers together.
    """

    def __init__(
        self,
        crops: list[Crops],
        targets: list[np.ndarray],
        network: str,
        rates: Rates,
        batch: int,
        seed: int,
        workers: Workers = ALONE,
    ) -> None:
        self._crops, self._targets, self._network = crops, targets, network
        self._rates, self._batch, self._seed, self._workers = rates, batch, seed, workers
        self.pictures = sum(len(group.quality) for group in crops)
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        """Order the batches anew. epoch: from 0."""
        rng = np.random.default_rng((self._seed, epoch))
        self._epoch, entries = epoch, []
        for group, crops in enumerate(self._crops):
            order = rng.permutation(len(crops.quality))
            entries += [(group, order[start : start + self._batch]) for start in range(0, len(order), self._batch)]
        self._entries = [entries[index] for index in rng.permutation(len(entries))]

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        group, batch = self._entries[number]
        crops, index = self._crops[group], share(self._workers, batch)
        rng = np.random.default_rng((self._seed, self._epoch, number, self._workers.index))
        octaves = draw_rates(crops.quality[index], self._rates, rng)
        if self._network == "generator":
            features = generator_batch(crops, index, octaves)
        else:
            features = predictor_batch(crops, index, octaves, self._rates, rng)
        return features, self._targets[group][index]


def correlation(maps: Sequence[np.ndarray], truth: Sequence[np.ndarray], window: int | None) -> list[float]:
    """Correlate maps with the truth (Pearson) over all regions of all crops, centered as levels: [luma, chroma]."""
    a, b = (
        np.concatenate([np.asarray(transforms.centered_nearby(part, window)).reshape(-1, 2) for part in parts]).astype(
            np.float64
        )
        for parts in (maps, truth)
    )
    if window is None:
        a, b = a - a.mean(0), b - b.mean(0)
    return [float(value) for value in (a * b).sum(0) / np.sqrt((a * a).sum(0) * (b * b).sum(0))]


def maps_of(network: keras.Model, crops: list[Crops], rates: Rates, seed: int) -> list[np.ndarray]:
    """Return the network's maps of all crops, each at a rate near the one of its importance."""
    rng = np.random.default_rng(seed)
    maps = []
    for group in crops:
        parts = []
        for start in range(0, len(group.quality), 256):
            index = np.arange(start, min(start + 256, len(group.quality)))
            octaves = draw_rates(group.quality[index], rates, rng)
            if network.name == "generator":
                features = generator_batch(group, index, octaves)
            else:
                features = predictor_batch(group, index, octaves, rates, rng)
            parts.append(network.predict_on_batch(features))
        maps.append(np.concatenate(parts))
    return maps
