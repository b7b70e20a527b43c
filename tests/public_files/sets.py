"""Public sets of pictures: the tests of other programs, as Debian and PyPI keep their sources."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rjpeg._files import PICTURE_SUFFIXES
from rjpeg.errors import RjpegError

JPEG_SUFFIXES = (".jfif", ".jpe", ".jpeg", ".jpg", ".mpo")
JPEG_START = b"\xff\xd8\xff"
FETCH_SECONDS = 900
# Debian's own entries; those of others have no sources of these packages
APT_SOURCES = (Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d/debian.sources"))


class PublicSet(NamedTuple):
    """A program's sources. `registry`: "debian" or "pypi". `sha256`: of the archive, whose name is `archive`."""

    name: str
    registry: str
    archive: str
    sha256: str


class UnavailableError(RjpegError):
    """A set can't be had here, or another version of it is there."""


def _debian(name: str, archive: str, sha256: str) -> PublicSet:
    return PublicSet(name, "debian", f"{name}_{archive}", sha256)


SETS = (
    _debian("exiv2", "0.27.6.orig.tar.gz", "f16ee5ff08b6994c66106109417857f13e711fca100ac43c6a403d4f02b59602"),
    _debian("jhead", "3.06.0.1.orig.tar.gz", "5c5258c3d7a840bf831e22174e4a24cb1de3baf442f7cb73d5ab31b4ae0b0058"),
    _debian("php8.2", "8.2.32.orig.tar.xz", "e02aa173c236c12791696254d607da680e6d5516f8f5c2339642de7c4f944bd2"),
    PublicSet("wand", "pypi", "wand-0.7.2.tar.gz", "0387fd08848d00cadd1d885fcb19a17dd4250df2029e5338b6b668b7fed64b5b"),
    _debian(
        "qtbase-opensource-src",
        "5.15.8+dfsg.orig.tar.xz",
        "d1c61b777850c2953862a8d52c7afb56350a99b23af763beb44c51c6fe8c0e38",
    ),
    PublicSet(
        "pillow", "pypi", "pillow-13.0.0.tar.gz", "cdcd1ba258178f7356d74170c9a81ba4eab6a5d55748bc402a5a2a6fe6be3510"
    ),
    _debian(
        "libimage-exiftool-perl",
        "12.57+dfsg.orig.tar.xz",
        "9de7ccd6ed6adf92038c8d943b1960d087b58c00b3924d19f61a1d774b7610fc",
    ),
    _debian("vips", "8.14.1.orig.tar.gz", "a4a6b282216f7522b42ebb5cd64cfd82a0d1a632033e9c0502f021e945fed641"),
    _debian(
        "imagemagick", "6.9.11.60+dfsg.orig.tar.xz", "472fb516df842ee9c819ed80099c188463b9e961303511c36ae24d0eaa8959c4"
    ),
    _debian(
        "libmetadata-extractor-java",
        "2.11.0.orig.tar.xz",
        "916aadbe6179b352b187bbd8ab0b81f3d8185a4ed16eb988ae427ea915ca71c3",
    ),
    _debian(
        "gdk-pixbuf", "2.42.10+dfsg.orig.tar.xz", "46663e445468e92f4a0ca876b02aed4f8758595ee3acfaa6ef3ba2b29e1c1930"
    ),
    _debian("libgd2", "2.3.3.orig.tar.gz", "dd3f1f0bb016edcc0b2d082e8229c822ad1d02223511997c80461481759b1ed2"),
    _debian(
        "graphicsmagick",
        "1.4+really1.3.40.orig.tar.xz",
        "97dc1a9d4e89c77b25a3b24505e7ff1653b88f9bfe31f189ce10804b8efa7746",
    ),
    _debian("netpbm-free", "11.01.00.orig.tar.xz", "d825714cb0edba5555be2f31796523e69c99168aa215dd606cfb37bdf3c0ecae"),
    _debian("libexif", "0.6.24.orig.tar.gz", "d3fb7c47829ec4d2def39aa38f4c35a0891763448a05dbf216a329a12bf198f9"),
    _debian("libjpeg-turbo", "2.1.5.orig.tar.gz", "254f3642b04e309fee775123133c6464181addc150499561020312ec61c1bf7c"),
)


def version_of(public: PublicSet) -> str:
    """Return the version that a set's archive is of."""
    version = public.archive.removeprefix(public.name)[1:]
    return version.partition(".orig.tar")[0].removesuffix(".tar.gz")


def fetch(public: PublicSet, folder: Path) -> Path:
    """Return a set's archive in a folder, fetched if it is not there. Raise UnavailableError if it can't be had."""
    path = folder / public.archive
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        name, version = public.name, version_of(public)
        with tempfile.TemporaryDirectory(dir=folder) as fetched:
            if public.registry == "pypi":
                options = ["--quiet", "--no-deps", "--no-binary", ":all:", "--dest", fetched]
                _run(sys.executable, "-m", "pip", "download", *options, f"{name}=={version}")
            else:
                _run("apt-get", *_apt_options(folder), "source", "--download-only", "-q", name, cwd=fetched)
            found = Path(fetched, public.archive)
            if not found.exists():
                there = ", ".join(sorted(each.name for each in Path(fetched).iterdir())) or "nothing"
                raise UnavailableError(f"{public.registry} has {there}, expected {public.archive}")
            found.rename(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != public.sha256:
        raise UnavailableError(f"{path} has the SHA-256 {digest}, expected {public.sha256}")
    return path


def pictures_in(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of each picture in an archive: by its ending, or as a JPEG by its first bytes."""
    with tarfile.open(archive) as tar:
        for member in tar:
            if not member.isfile():
                continue
            file = tar.extractfile(member)
            start = file.read(len(JPEG_START))
            if start == JPEG_START or member.name.lower().endswith((*JPEG_SUFFIXES, *PICTURE_SUFFIXES)):
                yield member.name, start + file.read()


def is_jpeg(name: str, data: bytes) -> bool:
    """Return whether a file is to be tried as a JPEG: it begins as one or says so by its name."""
    return data.startswith(JPEG_START) or name.lower().endswith(JPEG_SUFFIXES)


def _apt_options(folder: Path) -> list[str]:
    """Return options by which apt knows the sources of the packages whose programs the system's own lists have."""
    lists, sources = folder / "apt" / "lists", folder / "apt" / "sources.list.d"
    options = [f"Dir::Etc::SourceList={folder / 'apt' / 'sources.list'}", f"Dir::Etc::SourceParts={sources}"]
    options = [part for option in (*options, f"Dir::State::Lists={lists}") for part in ("-o", option)]
    if not lists.exists():
        (lists / "partial").mkdir(parents=True)
        sources.mkdir()
        for path in APT_SOURCES:
            if path.exists():
                text = "\n" + path.read_text()
                text = text.replace("\nTypes: deb\n", "\nTypes: deb-src\n").replace("\ndeb ", "\ndeb-src ")
                (sources / path.name.replace("sources.list", "own.list")).write_text(text)
        _run("apt-get", *options, "update", "-q")
    return options


def _run(*command: str, cwd: str | None = None) -> None:
    try:
        subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True, timeout=FETCH_SECONDS)
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip().splitlines() or ["nothing"])[-1]
        raise UnavailableError(f"{command[0]} said: {said}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{command[0]} can't be run: {error}") from error
