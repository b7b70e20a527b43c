"""Make the rows of files that have none, after the database was lost or an older one restored.

A file's name gives camera, sequence and times, its content the measures. What the task and the camera said is lost.
The time of receipt is lost, too: a frame counts as received when it was stored. This may run beside the service.
"""

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from tqdm import tqdm

import rjpeg
from rjpeg.errors import InputError, JpegError, KeyMissingError, StorageError
from server.frames import BaseFile
from server.processing.decoding import measures
from server.processing.memory import keep_freed_memory
from server.store import Database, Files, Store, open_files
from server.store.identity import adopt
from server.store.keys import hours, is_intact, parse_key, quarantine_key, stored_stamp
from server.store.rows import identity_values
from server.store.sweep import owned, put_back, set_aside
from server.store.tables import frames, trash
from server.store.times import to_microseconds
from server.store.values import pixels_of

__all__ = ["Measure", "Rebuilt", "make_measure", "open_unchecked", "rebuild"]

logger = logging.getLogger(__name__)

Measure = Callable[[bytes, Sequence[bytes]], dict[str, Any]]
"""A function that returns the measures of a file's content, given the files that it needs: key first, at most two.

It raises JpegError, and any thread may call it.
"""

FILES_A_TRANSACTION = 64
# key of PostgreSQL's advisory lock, unlike any other program's: "rjpegr"
ADVISORY_LOCK = 0x726A70656772


@dataclass(kw_only=True)
class Rebuilt:
    """Numbers of files, by what became of them.

    Attributes:
        made: a row was made.
        known: there is a row.
        duplicates: the frame has a row with another file.
        deleted: the frame was deleted, and the file is on its way out.
        damaged: the file is not what was written under its name. It was changed, or moved to another camera's folder.
        unreadable: the file can't be read, for want of permission or for a defect of the disk.
        not_decoded: the file is no JPEG file that can be decoded.
        no_key: the file needs a key or a patch that has no row.
        under_way: another program is adding the frame, or may be.
    """

    made: int = 0
    known: int = 0
    duplicates: int = 0
    deleted: int = 0
    damaged: int = 0
    unreadable: int = 0
    not_decoded: int = 0
    no_key: int = 0
    under_way: int = 0


@dataclass(frozen=True)
class _HeldFile:
    """A file that no other program moves meanwhile.

    Attributes:
        key: its name in the store.
        day: on which it was set aside, or None.
        jpeg: its content.
        identity: what it says of itself. None: nothing that can be read.
    """

    key: str
    day: str | None
    jpeg: bytes
    identity: rjpeg.FileIdentity | None


@dataclass(frozen=True)
class _Decodable:
    """A file, and those that it can't be decoded without."""

    file: _HeldFile
    bases: tuple[BaseFile, ...]


def open_unchecked(database_url: str, files_url: str) -> Store:
    """Open a store even if its database doesn't know the files yet. The two belong together from then on.

    Raises:
        ConfigError: a URL is malformed.
        StorageError: database or files can't be reached.
    """
    files = open_files(files_url)
    database = Database(database_url)
    try:
        adopt(database, files)
        return Store(database, files)
    except BaseException:
        database.close()
        raise


def rebuild(store: Store, measure: Measure, *, workers: int = 1, progress: bool = False) -> Rebuilt:
    """Make a row of every file that has none. Files that were set aside are put back.

    Args:
        store: whose files.
        measure: returns a file's measures.
        workers: number of files that are measured at a time.
        progress: show a bar on standard error.

    Raises:
        StorageError: database or files can't be read or written. The rows that were made are there, and another call
            makes the others.
    """
    counts = Rebuilt()
    with ThreadPoolExecutor(workers) as pool, tqdm(disable=not progress, unit=" files", desc="rebuild") as bar:
        for keys, aside in _all_keys(store.files):
            for first in range(0, len(keys), FILES_A_TRANSACTION):
                batch = keys[first : first + FILES_A_TRANSACTION]
                known = owned(store.database, batch)
                counts.known += len(known)
                missing = [(key, aside.get(key)) for key in batch if key not in known]
                _add_rows(store, missing, lambda files: pool.map(functools.partial(_try, measure), files), counts)
                bar.update(len(batch))
    return counts


def make_measure(model: str | None, max_pixels: int) -> Measure:
    """Return a function that decodes a file and returns its measures, with a decoder for each thread.

    Args:
        model: folder of the networks. None: those that come with rjpeg.
        max_pixels: limit on a picture.

    Raises:
        ModelError: the networks can't be read.
    """
    keep_freed_memory()
    local = threading.local()

    def measurer() -> _Measurer:
        if not hasattr(local, "measurer"):
            local.measurer = _Measurer(rjpeg.Decoder(model, max_pixels=max_pixels))
        made: _Measurer = local.measurer
        return made

    def measure(jpeg: bytes, bases: Sequence[bytes]) -> dict[str, Any]:
        return measurer().measure(jpeg, bases)

    # a model that can't be read is found now
    measurer()
    return measure


class _Measurer:
    """Measures files in one thread. It keeps the last base, as most files have that of the one before."""

    def __init__(self, decoder: rjpeg.Decoder) -> None:
        self._decoder = decoder
        # by the files that they are made of: of a key, and of a key with a patch
        self._bases: dict[int, tuple[list[bytes], rjpeg.Base]] = {}

    def measure(self, jpeg: bytes, bases: Sequence[bytes]) -> dict[str, Any]:
        decoded = self._decoder.decode_with_details(jpeg, self._base(list(bases)))
        return measures(decoded, len(jpeg), self._decoder.model)

    def _base(self, files: list[bytes]) -> rjpeg.Base | None:
        if not files:
            return None
        known = self._bases.get(len(files))
        if known is None or known[0] != files:
            made = self._decoder.base_of(files[-1], self._base(files[:-1]))
            known = self._bases[len(files)] = (files, made)
        return known[1]


def _all_keys(files: Files) -> Iterator[tuple[list[str], dict[str, str]]]:
    """Yield the keys of all files in the order in which they were stored, an hour at a time.

    A dict comes with them: the days on which files were set aside, by key.
    """
    days: dict[str, dict[str, str]] = {}
    for day, keys in set_aside(files):
        for key in keys:
            days.setdefault(key.split("/")[1], {})[key] = day
    for keys in hours(files.names):
        hour = keys[0].split("/")[1] if keys else ""
        in_place = set(keys)
        aside = {key: day for key, day in days.pop(hour, {}).items() if key not in in_place}
        yield sorted([*keys, *aside], key=stored_stamp), aside
    for hour in sorted(days):
        yield sorted(days[hour], key=stored_stamp), days[hour]


def _add_rows(
    store: Store,
    found: list[tuple[str, str | None]],
    measure_all: Callable[[list[_Decodable]], Iterable[dict[str, Any] | JpegError]],
    counts: Rebuilt,
) -> None:
    """Make the rows of some files, while no other program moves them.

    Args:
        store: whose files.
        found: keys, each with the day on which the file was set aside, or None.
        measure_all: returns the measures of files, or why there are none.
        counts: the files are added here.
    """
    with contextlib.ExitStack() as stack:
        for held in _split(_hold(store, found, stack, counts)):
            decodable = _with_bases(store, held, counts)
            rows: dict[str, dict[str, Any]] = {}
            for each, measured in zip(decodable, measure_all(decodable), strict=True):
                if isinstance(measured, JpegError):
                    counts.not_decoded += 1
                    name = each.file.key
                    logger.warning("%s of %s can't be decoded and gets no row: %s", name, store.files.name, measured)
                else:
                    rows[each.file.key] = _row_of(each, measured)
            _restore(store, rows, {file.key: file.day for file in held}, counts)


def _restore(store: Store, rows: dict[str, dict[str, Any]], days: dict[str, str | None], counts: Rebuilt) -> None:
    """Make rows in one transaction, and put back those of their files that were set aside."""
    chosen: list[str] = []

    def choose(connection: sa.Connection) -> list[str]:
        wanted = _still_wanted(connection, list(rows))
        chosen[:] = [key for key in wanted if _is_there(store.files, key, days[key])]
        return chosen

    made = store.restore(rows, choose)
    for key in made:
        if days[key] is not None:
            put_back(store.files, key)
    counts.deleted += len(rows) - len(chosen)
    counts.made += len(made)
    counts.duplicates += len(chosen) - len(made)


def _split(held: list[_HeldFile]) -> Iterator[list[_HeldFile]]:
    """Split files, so that none needs another one of its part. They keep their order."""
    part: list[_HeldFile] = []
    ids: set[str | None] = set()
    for file in held:
        if file.identity is not None and file.identity.base_id is not None and file.identity.base_id in ids:
            yield part
            part, ids = [], set()
        part.append(file)
        ids.add(None if file.identity is None else file.identity.id)
    if part:
        yield part


def _with_bases(store: Store, held: list[_HeldFile], counts: Rebuilt) -> list[_Decodable]:
    """Find what files need. Those whose key or patch has no row are left out."""
    found = []
    for file in held:
        bases: tuple[BaseFile, ...] = ()
        if file.identity is not None and file.identity.base_id is not None:
            parts = parse_key(file.key)
            try:
                bases = store.bases(parts.camera, file.identity.base_id, parts.capture_time)
            except KeyMissingError as error:
                counts.no_key += 1
                logger.warning("%s of %s gets no row: %s", file.key, store.files.name, error)
                continue
        found.append(_Decodable(file, bases))
    return found


def _hold(
    store: Store, found: list[tuple[str, str | None]], stack: contextlib.ExitStack, counts: Rebuilt
) -> list[_HeldFile]:
    """Hold and read those files that are intact and not being added. The end of `stack` lets go of them."""
    held: list[_HeldFile] = []
    for key, day in found:
        name = key if day is None else quarantine_key(key, day)
        try:
            if _may_be_under_way(store, key) or not stack.enter_context(store.files.hold(name)):
                counts.under_way += 1
                continue
            jpeg = store.files.read(name)
        except StorageError as error:
            # if the whole store can't be reached, this raises; one file must not stop the others
            store.files.ping()
            counts.unreadable += 1
            logger.warning("%s", error)
            continue
        if is_intact(key, jpeg):
            held.append(_HeldFile(key, day, jpeg, _identify(jpeg)))
        else:
            counts.damaged += 1
            logger.warning("%s of %s is not what was written there and gets no row", name, store.files.name)
    return held


def _may_be_under_way(store: Store, key: str) -> bool:
    """Return whether another program may be adding a file's frame, in a store without locks.

    A frame with a sequence is no worry: the program that adds it finds the row, whose file is its own.
    """
    parts = parse_key(key)
    return not store.files.locks and parts.sequence is None and store.now() - parts.stored_time < store.files.grace


def _still_wanted(connection: sa.Connection, keys: list[str]) -> list[str]:
    """Return those of the keys that got no row meanwhile, and whose frames were not deleted."""
    if connection.dialect.name == "postgresql":
        # otherwise two programs that rebuild at once would make two rows of a frame without sequence
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(ADVISORY_LOCK)))
    times = [to_microseconds(parse_key(key).stored_time) for key in keys]
    known = sa.select(frames.c.key).where(frames.c.stored_time.in_(times))
    deleted = sa.select(trash.c.key).where(trash.c.key.in_(keys))
    unwanted = {*connection.execute(known).scalars(), *connection.execute(deleted).scalars()}
    return [key for key in keys if key not in unwanted]


def _is_there(files: Files, key: str, day: str | None) -> bool:
    """Return whether a file is still where it was. It isn't if its row was deleted meanwhile."""
    return files.size(key if day is None else quarantine_key(key, day)) is not None


def _row_of(decodable: _Decodable, measured: dict[str, Any]) -> dict[str, Any]:
    """Return a row's values, from a file's name and content."""
    file = decodable.file
    parts = parse_key(file.key)
    stored = to_microseconds(parts.stored_time)
    return {
        "sequence": parts.sequence,
        "capture_time": to_microseconds(parts.capture_time),
        "received_time": stored,
        "stored_time": stored,
        "bytes": len(file.jpeg),
        "pixels": pixels_of(measured),
        "key": file.key,
        "measures": measured,
        "results": None,
        "metrics": None,
        **identity_values(file.identity, [base.frame_id for base in decodable.bases]),
    }


def _identify(jpeg: bytes) -> rjpeg.FileIdentity | None:
    """Return what a file says of itself. None: it can't be read, as decoding will tell."""
    try:
        return rjpeg.identify(jpeg, max_pixels=2**32)
    except (JpegError, InputError):
        return None


def _try(measure: Measure, decodable: _Decodable) -> dict[str, Any] | JpegError:
    """Return a file's measures, or why there are none."""
    try:
        return measure(decodable.file.jpeg, [base.jpeg for base in decodable.bases])
    except JpegError as error:
        return error
