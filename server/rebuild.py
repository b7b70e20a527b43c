"""`python -m server rebuild`: makes rows of files that have none, after the database was lost or an older one restored.

A file's name says camera, sequence and times, its content the measures. What the task and the camera said is lost, and
so is when the frame was received: it counts as received when it was stored. It may run beside the service.
"""

import argparse
import contextlib
import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

import rjpeg
from rjpeg._arguments import positive
from rjpeg.errors import JpegError, StorageError
from server import config as configuration
from server.arguments import add_storage_flags, read_config, set_up_logging
from server.processing.decoding import measures
from server.processing.memory import keep_freed_memory
from server.store import Database, Files, Store, open_files
from server.store.identity import adopt
from server.store.keys import hours, is_intact, parse_key, quarantine_key, stored_stamp
from server.store.sweep import owned, put_back, set_aside
from server.store.tables import frames, trash
from server.store.times import to_microseconds
from server.store.values import pixels_of

__all__ = ["Rebuilt", "rebuild"]

logger = logging.getLogger(__name__)

Measure = Callable[[bytes], dict[str, Any]]

TOGETHER = 64  # files in one transaction
REBUILDING = 0x726A70656772  # any number that nobody else takes for an advisory lock; "rjpegr"
TEXTS = {
    "known": "files have a row",
    "duplicates": "files are of a frame that has a row with another file; they are left",
    "deleted": "files were deleted and are on their way out",
    "damaged": "files are not what was written under their names, as the log says; they are left",
    "unreadable": "files can't be read, as the log says; they are left",
    "not_decoded": "files can't be decoded, as the log says; they are left",
    "under_way": "files may be of frames that are just being added; run this again in an hour",
}


@dataclass(kw_only=True)
class Rebuilt:
    """What was found: files by what became of them.

    Attributes:
        made: got a row.
        known: have one.
        duplicates: of a frame that has a row with another file.
        deleted: were deleted before, and are on their way out.
        damaged: are not what was written under their names: changed, or moved to another camera's folder.
        unreadable: could not be read, for want of permission or for a defect of the disk.
        not_decoded: are no JPEG file that can be decoded.
        under_way: are just being added by another program, or may be.
    """

    made: int = 0
    known: int = 0
    duplicates: int = 0
    deleted: int = 0
    damaged: int = 0
    unreadable: int = 0
    not_decoded: int = 0
    under_way: int = 0


def rebuild(store: Store, measure: Measure, *, workers: int = 1, progress: bool = False) -> Rebuilt:
    """Make a row of every file that has none, also of those that were set aside, which are put back.

    Args:
        store: whose files.
        measure: gives a file's measures; raises JpegError. For any number of threads.
        workers: files that are measured at a time.
        progress: show a bar on standard error.

    Raises:
        StorageError: database or files can't be read or written. What was done until then is done, and may be gone
            on with.
    """
    done = Rebuilt()
    with ThreadPoolExecutor(workers) as pool, tqdm(disable=not progress, unit=" files", desc="rebuild") as bar:
        for keys, aside in all_keys(store.files):
            for first in range(0, len(keys), TOGETHER):
                some = keys[first : first + TOGETHER]
                known = owned(store.database, some)
                done.known += len(known)
                missing = [(key, aside.get(key)) for key in some if key not in known]
                add_rows(store, missing, lambda jpegs: list(pool.map(lambda j: try_to(measure, j), jpegs)), done)
                bar.update(len(some))
    return done


def all_keys(files: Files) -> Iterator[tuple[list[str], dict[str, str]]]:
    """Give the keys of all files in the order in which they were stored, an hour at a time.

    With them comes by key the day on which a file was set aside, for those that were.
    """
    days: dict[str, dict[str, str]] = {}
    for day, keys in set_aside(files):
        for key in keys:
            days.setdefault(key.split("/")[1], {})[key] = day
    for keys in hours(files.names):
        hour = keys[0].split("/")[1] if keys else ""
        here = set(keys)
        aside = {key: day for key, day in days.pop(hour, {}).items() if key not in here}
        yield sorted([*keys, *aside], key=stored_stamp), aside
    for hour in sorted(days):
        yield sorted(days[hour], key=stored_stamp), days[hour]


def add_rows(
    store: Store,
    found: list[tuple[str, str | None]],
    measure_all: Callable[[list[bytes]], list[dict[str, Any] | JpegError]],
    done: Rebuilt,
) -> None:
    """Make rows of some files, in one transaction, while nobody else moves them.

    Args:
        found: keys, and the days on which they were set aside.
        measure_all: gives measures, or why there are none.
        done: is counted on.
    """
    with contextlib.ExitStack() as stack:
        held: list[tuple[str, str | None, bytes]] = []
        for key, day in found:
            name = key if day is None else quarantine_key(key, day)
            try:
                if may_be_under_way(store, key) or not stack.enter_context(store.files.hold(name)):
                    done.under_way += 1
                    continue
                jpeg = store.files.read(name)
            except StorageError as error:
                # one file must not keep the others
                store.files.ping()
                done.unreadable += 1
                logger.warning("%s", error)
                continue
            if is_intact(key, jpeg):
                held.append((key, day, jpeg))
            else:
                done.damaged += 1
                logger.warning("%s of %s is not what was written there and gets no row", name, store.files.name)
        answers = measure_all([jpeg for _, _, jpeg in held])
        rows: dict[str, dict[str, Any]] = {}
        for (key, _, jpeg), answer in zip(held, answers, strict=True):
            if isinstance(answer, JpegError):
                done.not_decoded += 1
                logger.warning("%s of %s can't be decoded and gets no row: %s", key, store.files.name, answer)
            else:
                rows[key] = row_of(key, jpeg, answer)
        days = {key: day for key, day, _ in held}
        chosen: list[str] = []

        def choose(connection: sa.Connection) -> list[str]:
            chosen[:] = [key for key in still_wanted(connection, list(rows)) if is_there(store.files, key, days[key])]
            return chosen

        made = store.restore(rows, choose)
        for key in made:
            if days[key] is not None:
                put_back(store.files, key)
    done.deleted += len(rows) - len(chosen)
    done.made += len(made)
    done.duplicates += len(chosen) - len(made)


def may_be_under_way(store: Store, key: str) -> bool:
    """Return whether a file may be of a frame that is just being added, where no lock says so.

    A frame with a sequence is no worry: the program that adds it finds the row, whose file is its own.
    """
    parts = parse_key(key)
    return not store.files.locks and parts.sequence is None and store.now() - parts.stored_time < store.files.grace


def still_wanted(connection: sa.Connection, keys: list[str]) -> list[str]:
    """Return those of the keys that got no row since, and that were not deleted."""
    if connection.dialect.name == "postgresql":
        # else two that rebuild at once would make two rows of a frame without sequence
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(REBUILDING)))
    times = [to_microseconds(parse_key(key).stored_time) for key in keys]
    known = sa.select(frames.c.key).where(frames.c.stored_time.in_(times))
    deleted = sa.select(trash.c.key).where(trash.c.key.in_(keys))
    unwanted = {*connection.execute(known).scalars(), *connection.execute(deleted).scalars()}
    return [key for key in keys if key not in unwanted]


def is_there(files: Files, key: str, day: str | None) -> bool:
    """Return whether a file is still where it was. One whose row was deleted since is not."""
    return files.size(key if day is None else quarantine_key(key, day)) is not None


def row_of(key: str, jpeg: bytes, measured: dict[str, Any]) -> dict[str, Any]:
    """Return a row's values, from a file's name and content."""
    parts = parse_key(key)
    stored = to_microseconds(parts.stored_time)
    return {
        "sequence": parts.sequence,
        "capture_time": to_microseconds(parts.capture_time),
        "received_time": stored,
        "stored_time": stored,
        "bytes": len(jpeg),
        "pixels": pixels_of(measured),
        "key": key,
        "measures": measured,
        "results": None,
        "metrics": None,
    }


def try_to(measure: Measure, jpeg: bytes) -> dict[str, Any] | JpegError:
    """Return a file's measures, or why there are none."""
    try:
        return measure(jpeg)
    except JpegError as error:
        return error


def measurer(model: str | None, max_pixels: int) -> Measure:
    """Return a function that gives a file's measures, with a decoder for each thread. Raises ModelError."""
    keep_freed_memory()
    mine = threading.local()

    def decoder() -> rjpeg.Decoder:
        if not hasattr(mine, "decoder"):
            mine.decoder = rjpeg.Decoder(model, max_pixels=max_pixels)
        made: rjpeg.Decoder = mine.decoder
        return made

    def measure(jpeg: bytes) -> dict[str, Any]:
        return measures(decoder().decode_with_details(jpeg), len(jpeg), decoder().model)

    decoder()
    return measure


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    p = argparse.ArgumentParser(
        prog="python -m server rebuild",
        description="Make rows again of files that have none: after the database was lost, or one of some time ago was "
        "restored. What the task said, what the camera said of itself, and tokens are in a backup of the database "
        "alone. It may run while the service does, and again at any time.",
    )
    add_storage_flags(p)
    p.add_argument(
        "--model", metavar="FOLDER", help="that the frames were decoded with (default: what comes with rjpeg)"
    )
    p.add_argument("--workers", type=positive, metavar="N", help="files decoded at a time (default: one a core)")
    p.add_argument("--json", action="store_true", help="print the counts as JSON (default: no)")
    p.add_argument(
        "--log-level", choices=["debug", "info", "warning", "error"], default="info", help="(default: %(default)s)"
    )
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code. Raises RjpegError."""
    args = parser().parse_args(arguments)
    set_up_logging(args.log_level)
    config = read_config(args)
    measure = measurer(config.decoding.model, configuration.max_pixels(config))
    files = open_files(configuration.files_url(config))
    database = Database(configuration.database_url(config))
    try:
        adopt(database, files)
        store = Store(database, files)
    except BaseException:
        database.close()
        raise
    with contextlib.closing(store), logging_redirect_tqdm():
        done = rebuild(store, measure, workers=configuration.workers(config), progress=True)
    if args.json:
        print(json.dumps(asdict(done)))
    else:
        for name, text in TEXTS.items():
            if count := getattr(done, name):
                print(f"{count:>10,} {text}")
        print(f"{done.made:>10,} rows made")
    return 0
