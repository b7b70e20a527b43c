"""Crops of photos and what is left of them after coding: what the restorer learns from."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

import rjpeg
from rjpeg import _codec as codec
from rjpeg._region_file import coded_picture, octaves_of, read_region_file
from rjpeg._restoration import restoration_features
from rjpeg.errors import TargetError
from train.photos import center_crop, random_crop, read_photo

__all__ = ["CROP_SIZE", "Pairs", "make_pairs", "network_inputs"]

CROP_SIZE = 224
# A crop's share of the photo: as teachers see their object, or a small part of it, enlarged, since a large frame's
# surfaces are as smooth as that and have to stay so.
CROP_AREA, DETAIL_AREA, DETAIL_SHARE = (0.35, 1.0), (0.06, 0.35), 0.5
BPP = (0.08, 0.9)
# Whole frames are coded otherwise than small ones, see rjpeg._sizing.negligible_energy and Model.edge_reach_for. Of a
# frame of this side a quarter is taken, which is a crop's size.
FRAME_SIZE = 2 * CROP_SIZE


class Pairs(NamedTuple):
    """Coded and clean crops of one coding size. n crops, RGB."""

    coded: np.ndarray  # (n, size, size, 3) uint8
    octaves: np.ndarray  # (n, rows, cols, 2) float32, of rjpeg._restoration.step_octaves
    clean: np.ndarray  # (n, 224, 224, 3) uint8
    imitated: np.ndarray  # (n, 224, 224, 3) uint8, what another restorer makes of them; `clean` if there is none


def make_pairs(
    photos: Sequence[Path],
    model: rjpeg.Model,
    rounds: int,
    seed: int,
    imitated: rjpeg.Model | None = None,
    frames: float = 0.0,
) -> dict[int, Pairs]:
    """Make pairs of crops and what is left of them, by coding size, the usual one or one beside it.

    Rates are drawn with equal logarithms. Crops that fit none of their rate are left out, and frames that have no
    quarter of whole regions. frames: the share of pairs that are parts of whole frames.
    """
    rng = np.random.default_rng(seed)
    encoder = rjpeg.Encoder(model)
    restoring = None if imitated is None else rjpeg.Decoder(imitated, restore=True)
    groups: dict[int, list[tuple[np.ndarray, ...]]] = {}
    for path in tqdm([path for _ in range(rounds) for path in photos], desc="files", unit="file", disable=None):
        whole = rng.random() < frames
        photo = read_photo(path)
        crop = random_crop(photo, FRAME_SIZE, CROP_AREA, rng) if whole else _crop(photo, rng)
        try:
            jpeg = _coded(encoder, np.ascontiguousarray(crop[..., ::-1]), rng)
        except TargetError:
            continue
        file = read_region_file(jpeg, model)
        octaves = octaves_of(file, model)
        goal = crop if restoring is None else restoring.decode(jpeg)[..., ::-1]
        pair: tuple[np.ndarray, ...] = (coded_picture(file, model)[..., ::-1], octaves, crop, goal)
        if whole:
            if any(regions % 2 for regions in octaves.shape[:2]):
                continue
            down, right = rng.integers(2, size=2)
            pair = tuple(_quarter(part, down, right) for part in pair)
        groups.setdefault(pair[0].shape[0], []).append(pair)
    return {size: Pairs(*map(np.stack, zip(*rows, strict=True))) for size, rows in sorted(groups.items())}


def _crop(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cut out what is coded as a small frame, (224, 224, 3)."""
    middle, detail = rng.random() < 0.25, rng.random() < DETAIL_SHARE
    area = DETAIL_AREA if detail else CROP_AREA
    return center_crop(photo, CROP_SIZE) if middle else random_crop(photo, CROP_SIZE, area, rng)


def _quarter(picture: np.ndarray, down: int, right: int) -> np.ndarray:
    height, width = picture.shape[0] // 2, picture.shape[1] // 2
    return picture[down * height :][:height, right * width :][:, :width]


def _coded(encoder: rjpeg.Encoder, frame: np.ndarray, rng: np.random.Generator) -> bytes:
    """Code a frame, BGR, at a random rate, with the usual coding size or one beside it. Raises TargetError."""
    frame_size = (frame.shape[0], frame.shape[1])
    sizes = [codec.coding_size_of(frame_size, fraction) for fraction in encoder.model.coding_fractions]
    bpp = float(np.exp(rng.uniform(*np.log(BPP))))
    target = int(bpp * frame_size[0] * frame_size[1] / 8)
    coded = encoder.encode_with_details(frame, target_bytes=target)
    place = sizes.index(coded.coding_size) + rng.choice([-1, 0, 0, 0, 1])
    size = sizes[int(np.clip(place, 0, len(sizes) - 1))]
    return coded.jpeg if size == coded.coding_size else encoder.encode(frame, target_bytes=target, coding_size=size)


def network_inputs(pairs: Pairs, index: np.ndarray, mirrored: bool) -> dict[str, np.ndarray]:
    """Make a batch of pairs for `Restoring`, float32."""
    coded, octaves, clean, imitated = (part[index] for part in pairs)
    if mirrored:
        coded, octaves, clean, imitated = (part[:, :, ::-1] for part in (coded, octaves, clean, imitated))
    reduction = coded.shape[1] / clean.shape[1]
    bgr = np.ascontiguousarray(coded[..., ::-1])
    features = [restoration_features(*part, reduction) for part in zip(bgr, octaves, strict=True)]
    return {
        "features": np.stack(features).astype(np.float32),
        "coded": coded.astype(np.float32),
        "clean": clean.astype(np.float32),
        "imitated": imitated.astype(np.float32),
    }
