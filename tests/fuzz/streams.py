"""Damaged and forged streams: files of several cameras that are changed, lost, doubled, mixed and given other bases.

From a seed and a number comes always the same stream.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

import rjpeg
from rjpeg import _marker as marker
from tests.fuzz import corpus, mutator
from tests.rjpeg.streams import coded_film

MOST_FILES = 14


@dataclass(frozen=True)
class File:
    """A file of a stream. signed: whether it was changed and its checksum made to fit."""

    jpeg: bytes
    signed: bool = False


@dataclass(frozen=True)
class Mutant:
    """A stream to decode, file by file. steps: how it was made."""

    files: tuple[File, ...]
    steps: tuple[str, ...]


@cache
def films() -> dict[str, list[bytes]]:
    """Every stream by name: a key, followers and patches each, tiles and whole frames, baseline and progressive."""
    made = {}
    for name, size, view, seed in (
        ("tiles", (48, 64), "tiles", 1),
        ("tiles of another scene", (48, 64), "tiles", 2),
        ("tiles, odd", (50, 75), "tiles", 1),
        ("soft", (48, 64), "soft", 1),
        ("soft, odd", (50, 75), "soft", 3),
        ("one column", (70, 9), "tiles", 1),
    ):
        made[name] = [each.jpeg for each in coded_film(*size, 9, seed=seed, view=view)]
    made["lit"] = [each.jpeg for each in coded_film(96, 128, 9, lit=True)]
    made["shaken"] = [each.jpeg for each in coded_film(96, 128, 9, shaken=True)]
    for name in ("tiles", "soft"):
        made[f"{name}, progressive"] = [corpus.transcoded(jpeg, "-progressive") for jpeg in made[name]]
    made["tiles, restarts"] = [corpus.transcoded(jpeg, "-restart", "1B") for jpeg in made["tiles"]]
    return made


@cache
def originals() -> dict[str, np.ndarray]:
    """The frame of every file by its id, also of single ones: changes may put one in a stream's place."""
    found, decoder = {}, rjpeg.Decoder()
    for jpeg in corpus.region_files().values():
        try:
            decoded = decoder.decode_with_details(jpeg)
        except rjpeg.JpegError:
            continue  # arithmetic coding is refused
        found[decoded.identity.id] = decoded.frame
    for film in films().values():
        stream = rjpeg.StreamDecoder(max_bases=9)
        for jpeg in film:
            decoded = stream.decode_with_details(jpeg)
            found[decoded.identity.id] = decoded.frame
    return found


@cache
def bases() -> dict[str, rjpeg.Base]:
    """What later files need of every key and patch, by its id."""
    decoder, found = _decoder(), {}
    for film in films().values():
        for jpeg in film:
            identity = rjpeg.identify(jpeg)
            if identity.kind in ("key", "patch"):
                found[identity.id] = decoder.base_of(jpeg, found.get(identity.base_id))
    return found


def make(seed: int, number: int) -> Mutant:
    """Stream `number` of a run with `seed`."""
    rng = random.Random(f"streams/{seed}/{number}")
    name = rng.choice(list(films()))
    files = [File(jpeg) for jpeg in films()[name]]
    steps = [name]
    for _ in range(rng.choice((1, 1, 2, 2, 3, 4))):
        change = rng.choices(CHANGES, WEIGHTS)[0]
        files = change(rng, files)[:MOST_FILES] or files
        steps.append(change.__name__.lstrip("_"))
    return Mutant(tuple(files), tuple(steps))


def _drop(rng: random.Random, files: list[File]) -> list[File]:
    lost = set(rng.sample(range(len(files)), rng.randrange(1, max(2, len(files) // 2))))
    return [file for index, file in enumerate(files) if index not in lost]


def _shuffle(rng: random.Random, files: list[File]) -> list[File]:
    return rng.sample(files, len(files))


def _double(rng: random.Random, files: list[File]) -> list[File]:
    return [*files, *rng.choices(files, k=rng.choice((1, 3)))]


def _mix(rng: random.Random, files: list[File]) -> list[File]:
    """Files of another stream among these, as if two cameras had one name."""
    others = [File(jpeg) for jpeg in rng.choice(list(films().values()))]
    mixed = files + others
    return rng.sample(mixed, len(mixed)) if rng.random() < 0.5 else mixed[: len(files) // 2] + others


def _other_base(rng: random.Random, files: list[File]) -> list[File]:
    """A follower that says to refer to another base, now and then with a checksum that fits this one."""
    other = rng.choice([*bases(), "000000", "ffffff"])

    def change(data: bytearray) -> None:
        data[6:9] = bytes.fromhex(other)

    return _on_marker(rng, files, change)


def _other_kind(rng: random.Random, files: list[File]) -> list[File]:
    kind = rng.choice((0x10, 0x20, 0x21, 0x22, 0x30, 0x31, 0x33, 0x40, 0x24, 0x36, 0x28, rng.randrange(256)))

    def change(data: bytearray) -> None:
        data[2] = kind

    return _on_marker(rng, files, change)


def _other_regions(rng: random.Random, files: list[File]) -> list[File]:
    """Other regions, in the same number or not, or another shift or light."""

    def change(data: bytearray) -> None:
        way = rng.randrange(6)
        if way == 4:
            data[9:9] = rng.randbytes(2)
            data[2] |= rng.choice((2, 4))
        elif way == 5:
            data[2] ^= rng.choice((2, 4))
        elif way == 0 and len(data) > 9:
            data[rng.randrange(9, len(data))] ^= 1 << rng.randrange(8)
        elif way == 1:
            data[9:] = rng.randbytes(rng.choice((0, 1, 5, 2000)))
        elif way == 2:
            del data[9 + rng.randrange(len(data) - 8) :]
        else:
            data += rng.choice((b"\0", b"\xff", rng.randbytes(3)))

    return _on_marker(rng, files, change)


def _other_ids(rng: random.Random, files: list[File]) -> list[File]:
    own = rng.choice(list(originals()))

    def change(data: bytearray) -> None:
        data[3:6] = bytes.fromhex(own)

    return _on_marker(rng, files, change, signed=False)


def _swap_contents(rng: random.Random, files: list[File]) -> list[File]:
    """The marker of one follower, the picture of another."""
    found = [index for index, file in enumerate(files) if _marker_of(mutator.split(file.jpeg)) is not None]
    if len(found) < 2:
        return files
    at, other = rng.sample(found, 2)
    parts, others = mutator.split(files[at].jpeg), mutator.split(files[other].jpeg)
    own = _marker_of(parts)
    for part in others:
        if part.code == marker.SEGMENT_CODE:
            part.data = own.data
    swapped = _perhaps_signed(rng, mutator.join(others))
    return _put(files, at, replace(swapped, signed=swapped.signed or files[other].signed))


def _edit_file(rng: random.Random, files: list[File]) -> list[File]:
    """Change a file as those of single files are changed."""
    at = rng.randrange(len(files))
    change = rng.choices(mutator.CHANGES, mutator.WEIGHTS)[0]
    return _put(files, at, _perhaps_signed(rng, change(rng, files[at].jpeg)[: mutator.MOST_BYTES]))


def _on_marker(
    rng: random.Random, files: list[File], change: Callable[[bytearray], None], *, signed: bool = True
) -> list[File]:
    found = [index for index, file in enumerate(files) if _marker_of(mutator.split(file.jpeg)) is not None]
    if not found:
        return files
    at = rng.choice(found)
    parts = mutator.split(files[at].jpeg)
    change(_marker_of(parts).data)
    jpeg = mutator.join(parts)
    return _put(files, at, _perhaps_signed(rng, jpeg) if signed else File(jpeg))


def _put(files: list[File], at: int, file: File) -> list[File]:
    # A forged file that is changed once more may still be the forged one.
    return [*files[:at], replace(file, signed=file.signed or files[at].signed), *files[at + 1 :]]


def _marker_of(parts: list[mutator.Part]) -> mutator.Part | None:
    """The marker of a follower or patch."""
    for part in parts:
        data = bytes(part.data)
        if marker.is_region_segment(part.code, data) and len(data) >= 9 and data[2] >> 4 in (2, 3):
            return part
    return None


def _perhaps_signed(rng: random.Random, jpeg: bytes) -> File:
    """The file, two times in five with the checksum that its contents have on the base that it names."""
    if rng.random() < 0.6:
        return File(jpeg)
    try:
        base_id = rjpeg.identify(jpeg, max_pixels=2**16).base_id
        _decoder().decode(jpeg, bases().get(base_id or ""))
        return File(jpeg)
    except rjpeg.MarkerError as error:
        found = re.match(r"checksum is ([0-9a-f]{6})", str(error))
    except Exception:  # noqa: BLE001
        # that what is no RjpegError gets out of the decoder is for the worker to find
        return File(jpeg)
    parts = mutator.split(jpeg)
    own = _marker_of(parts)
    if found is None or own is None:
        return File(jpeg)
    own.data[3:6] = bytes.fromhex(found[1])
    return File(mutator.join(parts), signed=True)


@cache
def _decoder() -> rjpeg.Decoder:
    return rjpeg.Decoder(max_pixels=2**16)


CHANGES_AND_WEIGHTS = {
    _drop: 6,
    _shuffle: 5,
    _double: 2,
    _mix: 3,
    _other_base: 8,
    _other_kind: 5,
    _other_regions: 10,
    _other_ids: 3,
    _swap_contents: 5,
    _edit_file: 20,
}
CHANGES, WEIGHTS = list(CHANGES_AND_WEIGHTS), list(CHANGES_AND_WEIGHTS.values())
