"""Makes sure that files and database belong together. Both carry one identity: a row, and a mark beside the files.

So a lost database, a mistyped path or an unmounted disk is noticed. If it is not certain that the two belong together,
they are refused, and nothing is written or deleted. PostgreSQL protects its clusters by a system identifier likewise.
"""

import json

import sqlalchemy as sa

from rjpeg.errors import StorageError
from server.store.database import Database
from server.store.files import MARK, Files
from server.store.keys import is_key
from server.store.tables import cameras, frames, store

__all__ = ["adopt", "attach", "has_frames"]

FORMAT = 1
"""Version of the mark."""
SAMPLE = 32
"""Number of the newest rows, and of the oldest, whose files are looked for."""

_ON_NEW_DISKS = ("lost+found",)


def attach(database: Database, files: Files) -> None:
    """Make sure that files and database belong together, and mark new files. From then on the files check their mark.

    Raises:
        StorageError: they do not belong together, or may not. The message names both, and says what to do.
    """
    while True:
        found = files.read_mark()
        refusal = _refusal_unmarked(database, files) if found is None else _refusal_marked(database, files, found)
        if refusal is None:
            break
        # another program may have marked them in the meantime
        if files.read_mark() == found:
            raise StorageError(refusal)
    if found is None:
        files.write_mark(_mark_of(database.identity))
        found = files.read_mark()
        if found is None or _parse(files, found) != database.identity:
            raise StorageError(f"{_names(database, files)}: another database took the files at the same moment")
    files.mark = found


def adopt(database: Database, files: Files) -> None:
    """Attach files to a database that was lost, for `rebuild`.

    A database without frames takes the identity of marked files. Files without a mark take the identity of a database
    without frames.

    Raises:
        StorageError: the database has frames, and it is not certain that the files are its own.
    """
    found = files.read_mark()
    if not has_frames(database):
        if found is None:
            files.write_mark(_mark_of(database.identity))
        else:
            _change_identity(database, _parse(files, found))
    attach(database, files)


def has_frames(database: Database) -> bool:
    """Return whether a frame was ever stored. Raises StorageError."""
    # rows of cameras are never deleted
    with database.reading() as connection:
        return connection.execute(sa.select(cameras.c.id).limit(1)).first() is not None


def _refusal_marked(database: Database, files: Files, found: bytes) -> str | None:
    """Return why files with this mark are not the database's, None if they are."""
    identity = _parse(files, found)
    if identity == database.identity:
        return None
    if has_frames(database):
        return (
            f"{_names(database, files)} belong to different stores: {database.identity} and {identity}; "
            "check --database and --files, which must be those of one store"
        )
    return (
        f"{_names(database, files)}: the files are of store {identity}, and the database is new; check --database and "
        "--files. If the database was lost, put a backup of it there, or make its rows again from the files: "
        "python -m server rebuild"
    )


def _refusal_unmarked(database: Database, files: Files) -> str | None:
    """Return why files without a mark may not be the database's, None if they are or can become its files."""
    content = [name for name in files.names() if name not in _ON_NEW_DISKS and not name.startswith(".")]
    if not has_frames(database):
        if not content:
            return None
        return (
            f"{_names(database, files)}: the database is new, and the files have no mark and are not empty; expected "
            "an empty folder. If they are a store's whose database was lost: python -m server rebuild"
        )
    rows = _sample(database)
    if not content and rows:
        return f"{_names(database, files)}: the database has frames, and there are no files; is their disk mounted?"
    if not content or any(files.size(key) == size for key, size in rows):
        # all frames were deleted, the mark was lost, or an older version made none
        return None
    return (
        f"{_names(database, files)}: none of the {len(rows)} files looked for is there, and the files have no mark; "
        f"check --database and --files. If they do belong together, put a file {MARK} beside the cameras' folders that "
        f"holds {_mark_of(database.identity).decode().strip()}"
    )


def _sample(database: Database) -> list[tuple[str, int]]:
    """Return keys and sizes of the newest and the oldest frames. Raises StorageError."""
    query = sa.select(frames.c.key, frames.c.bytes).limit(SAMPLE)
    with database.reading() as connection:
        return [
            (row.key, row.bytes)
            for order in (frames.c.id.desc(), frames.c.id)
            for row in connection.execute(query.order_by(order))
            if is_key(row.key)
        ]


def _mark_of(identity: str) -> bytes:
    """Return the mark's content."""
    return json.dumps({"identity": identity, "format": FORMAT}).encode() + b"\n"


def _parse(files: Files, mark: bytes) -> str:
    """Return the identity in a mark. Raises StorageError if it is damaged, or a newer version made it."""
    try:
        values = json.loads(mark)
        identity, version = values["identity"], values["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StorageError(
            f"files {files.name}: {MARK} is damaged: {mark[:100]!r}. If the files are this database's, remove it, and "
            "it is made again"
        ) from error
    if version != FORMAT or not isinstance(identity, str):
        raise StorageError(f"files {files.name}: {MARK} has format {version!r}, expected {FORMAT}; a newer version's?")
    return identity


def _change_identity(database: Database, identity: str) -> None:
    """Give a database without frames another identity. Raises StorageError."""
    with database.writing() as connection:
        connection.execute(sa.update(store).values(identity=identity))
    database.identity = identity


def _names(database: Database, files: Files) -> str:
    """Return both, for messages."""
    return f"database {database.name} and files {files.name}"
