"""Photographs for int8 calibration, and some kept apart for evaluation; manifest.json describes each."""

import hashlib
from pathlib import Path
from typing import Literal

import msgspec

from rjpeg.errors import StorageError

__all__ = ["FOLDER", "Picture", "check", "read_manifest"]

FOLDER = Path(__file__).resolve().parent

Use = Literal["calibration", "evaluation"]


class Picture(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of the manifest.

    Attributes:
        file: name of the JPEG file in the manifest's folder.
        title: what it shows.
        source: the package, its version and the path in it, or where else the picture comes from.
        author: who made it.
        license: SPDX identifier, or `LicenseRef-` and a word for what has none.
        use: `calibration`, or `evaluation` for a picture that no calibration sees.
        width, height: pixels.
        bytes: length of the file.
        sha256: of the file, in hexadecimal.
    """

    file: str
    title: str
    source: str
    author: str
    license: str
    use: Use
    width: int
    height: int
    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal[1]
    pictures: list[Picture]


def read_manifest(folder: Path = FOLDER) -> list[Picture]:
    """Read the entries of `folder`'s manifest.json, by file name.

    Raises:
        StorageError: the manifest can't be read or isn't one.
    """
    path = folder / "manifest.json"
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except OSError as error:
        raise StorageError(f"can't read {path}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise StorageError(f"{path} is not a manifest of pictures: {error}") from error
    return sorted(manifest.pictures, key=lambda picture: picture.file)


def check(picture: Picture, folder: Path = FOLDER) -> Path:
    """Return the path of a picture if its file is the one that the manifest describes.

    Raises:
        StorageError: the file is missing or another one.
    """
    path = folder / picture.file
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise StorageError(f"can't read {path}: {error.strerror}") from error
    if digest != picture.sha256:
        raise StorageError(f"{path} has SHA-256 {digest}, the manifest says {picture.sha256}")
    return path
