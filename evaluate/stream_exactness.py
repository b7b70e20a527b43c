"""Films for `evaluate.exactness`: is what a decoder shows of a stream what the encoder's own decoder shows?"""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

import rjpeg
from evaluate.data import Picture, load
from rjpeg._policy import Policy
from rjpeg.errors import RjpegError

__all__ = ["Film", "FilmFile", "Shown", "encode_film", "make_films", "show_film", "tally_films"]

FRAMES = 8
NOISE = 2.0
"""Gray levels of a sensor's noise in a film."""
LEAST_SIDE = 48


@dataclass(frozen=True)
class Film:
    """A still picture in which a piece of another one moves.

    eager: whether patches are made early. shaken: whether the camera is beside its place in every third frame.
    """

    picture: Picture
    other: Picture
    quality: float
    plain_view: Literal["tiles", "soft"]
    eager: bool
    shaken: bool


@dataclass(frozen=True)
class Shown:
    """What a decoder makes of a file. kept_crc: of the map of kept regions, None for a key."""

    kind: str
    id: str | None
    kept_crc: int | None
    frame_crc: int


@dataclass(frozen=True)
class FilmFile:
    """A file of a film, and what it shows on the encoder's side, by the encoder's own word on what is kept."""

    jpeg: bytes
    shown: Shown


def make_films(pictures: list[Picture], count: int, qualities: tuple[float, ...]) -> list[Film]:
    """Make at most so many films of the pictures that are large enough."""
    large = [picture for picture in pictures if picture.window and min(picture.window[2:]) >= LEAST_SIDE][:count]
    return [
        Film(
            picture=picture,
            other=large[index - 1],
            quality=qualities[index % len(qualities)],
            plain_view="soft" if index % 4 == 3 else "tiles",
            eager=index % 2 == 0,
            shaken=index % 5 == 1,
        )
        for index, picture in enumerate(large)
    ]


def _frames(film: Film) -> list[np.ndarray]:
    still, other = (load(picture, "whole", (0, 0)).astype(np.float32) for picture in (film.picture, film.other))
    height, width = still.shape[:2]
    rng = np.random.default_rng(zlib.crc32(film.picture.name.encode()))
    piece = other[: height // 3, : width // 3]
    rows, cols = piece.shape[:2]
    frames = []
    for number in range(FRAMES):
        frame = still.copy()
        if film.shaken and number % 3 == 2:
            frame = np.roll(frame, (1, -2), (0, 1))
        if number:
            frame[height // 2 : height // 2 + rows, :cols] = piece
            left = (number * width // FRAMES) % (width - cols + 1)
            frame[:rows, left : left + cols] = piece
        frame += rng.normal(0, NOISE, frame.shape)
        frames.append(np.clip(np.rint(frame), 0, 255).astype(np.uint8))
    return frames


def encode_film(film: Film, encoder: rjpeg.Encoder, decoder: rjpeg.Decoder) -> list[FilmFile]:
    """Encode the frames of a film, and show them here."""
    policy = replace(Policy(), patch_price=0.0) if film.eager else Policy()
    stream = rjpeg.StreamEncoder(encoder, plain_view=film.plain_view, policy=policy)
    here = rjpeg.StreamDecoder(decoder)
    files = []
    for frame in _frames(film):
        coded = stream.encode(frame, quality=film.quality)
        kept = None if coded.kept is None else zlib.crc32(coded.kept.tobytes())
        files.append(
            FilmFile(coded.jpeg, Shown(coded.kind, coded.id, kept, zlib.crc32(here.decode(coded.jpeg).tobytes())))
        )
    return files


def show_film(jpegs: list[bytes], decoder: rjpeg.Decoder) -> list[Shown | str]:
    """Decode the files of a film one after another: what each shows, or the error."""
    stream = rjpeg.StreamDecoder(decoder)
    found: list[Shown | str] = []
    for jpeg in jpegs:
        try:
            decoded = stream.decode_with_details(jpeg)
        except RjpegError as error:
            found.append(f"{type(error).__name__}: {error}")
            continue
        kept = None if decoded.kept is None else zlib.crc32(decoded.kept.tobytes())
        found.append(Shown(decoded.identity.kind, decoded.identity.id, kept, zlib.crc32(decoded.frame.tobytes())))
    return found


def tally_films(films: list[Film], coded: list[list[FilmFile]], found: list[list[Shown | str]]) -> dict[str, Any]:
    """Add up files by kind, and those that are shown otherwise than on the encoder's side."""
    differing = []
    kinds: Counter[str] = Counter()
    for film, files, shown in zip(films, coded, found, strict=True):
        for number, (file, there) in enumerate(zip(files, shown, strict=True)):
            kinds[file.shown.kind] += 1
            if there != file.shown:
                what = there if isinstance(there, str) else f"{there}, expected {file.shown}"
                differing.append(f"film of {film.picture.name}, frame {number}: {what}")
    return {
        "films": len(films),
        "film_keys": kinds["key"],
        "film_patches": kinds["patch"],
        "film_followers": kinds["follower"],
        "film_files_differing": len(differing),
        "differing_film_files": differing,
    }
