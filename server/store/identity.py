"""Which files belong to which database: both carry one identity, the database in a row, the files in a mark.

As a PostgreSQL cluster's system identifier, it tells a lost or older database, a mistyped path and a disk that is not
mounted from what belongs together. What can't be attributed is refused: nothing is then written or deleted.
"""

import json

import sqlalchemy as sa

from rjpeg.errors import StorageError
from server.store.database import Database, cameras, frames, store
from server.store.files import MARK, NO_CONTENT, Files
from server.store.keys import is_key

__all__ = ["adopt", "attach", "has_frames"]

FORMAT = 1
# rows whose files are looked for, of the newest and of the oldest
SAMPLE = 32


def attach(database: Database, files: Files) -> None:
    """See that files and database belong together; mark files that are new. They are checked from then on.

    Raises:
        StorageError: they don't, or it can't be told. The message names both, and what to do.
    """
    while True:
        found = files.read_mark()
        refusal = refusal_unmarked(database, files) if found is None else refusal_marked(database, files, found)
        if refusal is None:
            break
        # another program may have marked them meanwhile
        if files.read_mark() == found:
            raise StorageError(refusal)
    if found is None:
        files.write_mark(mark_of(database.identity))
        found = files.read_mark()
        if found is None or parse(files, found) != database.identity:
            raise StorageError(f"{names(database, files)}: another database took the files at the same moment")
    files.mark = found


def adopt(database: Database, files: Files) -> None:
    """Attach them, for `rebuild`: a database without frames takes the identity of files that are marked.

    Files without a mark become the database's if it has no frames yet.

    Raises:
        StorageError: the database has frames, and the files are not known to be its own.
    """
    found = files.read_mark()
    if not has_frames(database):
        if found is None:
            files.write_mark(mark_of(database.identity))
        else:
            change_identity(database, parse(files, found))
    attach(database, files)


def has_frames(database: Database) -> bool:
    """Return whether a frame was ever stored: cameras are never deleted. Raises StorageError."""
    with database.reading() as connection:
        return connection.execute(sa.select(cameras.c.id).limit(1)).first() is not None


def refusal_marked(database: Database, files: Files, found: bytes) -> str | None:
    """Return why files with this mark are not the database's, None if they are."""
    identity = parse(files, found)
    if identity == database.identity:
        return None
    if has_frames(database):
        return (
            f"{names(database, files)} belong to different stores: {database.identity} and {identity}; "
            "check --database and --files, which must be those of one store"
        )
    return (
        f"{names(database, files)}: the files are of store {identity}, and the database is new; check --database and "
        "--files. If the database was lost, put a backup of it there, or make its rows again from the files: "
        "python -m server rebuild"
    )


def refusal_unmarked(database: Database, files: Files) -> str | None:
    """Return why files without a mark may not be the database's, None if they are, or may become so."""
    content = [name for name in files.names() if name not in NO_CONTENT and not name.startswith(".")]
    if not has_frames(database):
        if not content:
            return None
        return (
            f"{names(database, files)}: the database is new, and the files have no mark and are not empty; expected "
            "an empty folder. If they are a store's whose database was lost: python -m server rebuild"
        )
    rows = sample(database)
    if not content and rows:
        return f"{names(database, files)}: the database has frames, and there are no files; is their disk mounted?"
    if not content or any(files.size(key) == size for key, size in rows):
        # all frames were deleted, or the mark was lost or is of a version that made none
        return None
    return (
        f"{names(database, files)}: none of the {len(rows)} files looked for is there, and the files have no mark; "
        f"check --database and --files. If they do belong together, put a file {MARK} beside the cameras' folders that "
        f"holds {mark_of(database.identity).decode().strip()}"
    )


def sample(database: Database) -> list[tuple[str, int]]:
    """Return keys and sizes of the newest and the oldest frames. Raises StorageError."""
    query = sa.select(frames.c.key, frames.c.bytes).limit(SAMPLE)
    with database.reading() as connection:
        return [
            (row.key, row.bytes)
            for order in (frames.c.id.desc(), frames.c.id)
            for row in connection.execute(query.order_by(order))
            if is_key(row.key)
        ]


def mark_of(identity: str) -> bytes:
    """Return a mark."""
    return json.dumps({"identity": identity, "format": FORMAT}).encode() + b"\n"


def parse(files: Files, mark: bytes) -> str:
    """Return the identity in a mark. Raises StorageError for one that is damaged, or that a newer version made."""
    try:
        values = json.loads(mark)
        identity, form = values["identity"], values["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StorageError(
            f"files {files.name}: {MARK} is damaged: {mark[:100]!r}. If the files are this database's, remove it, and "
            "it is made again"
        ) from error
    if form != FORMAT or not isinstance(identity, str):
        raise StorageError(f"files {files.name}: {MARK} has format {form!r}, expected {FORMAT}; a newer version's?")
    return identity


def change_identity(database: Database, identity: str) -> None:
    """Give a database without frames another identity. Raises StorageError."""
    with database.writing() as connection:
        connection.execute(sa.update(store).values(identity=identity))
    database.identity = identity


def names(database: Database, files: Files) -> str:
    """Return both, for messages."""
    return f"database {database.name} and files {files.name}"
