"""The tables of the server's database. `migrations/` makes them, and brings older ones up to date."""

import json
from typing import Any

import sqlalchemy as sa

__all__ = [
    "REBUILT",
    "alerts",
    "cameras",
    "frames",
    "importance",
    "marks",
    "metadata",
    "minutes",
    "store",
    "tokens",
    "trash",
    "zones",
]

REBUILT = "rebuild"
"""The writer of rows that were made again from files. They are not news."""

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)
# SQLite only numbers rows itself if the type's name is INTEGER, which has 64 bits there
_Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")


class _JsonText(sa.TypeDecorator[Any]):
    """JSON in a text column. In a column of type JSON, SQLite would turn 10**300 into 1e300."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str | None:  # noqa: ARG002
        """Return the value as text."""
        return None if value is None else json.dumps(value)

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> Any:  # noqa: ARG002
        """Return the value of a text. If it is damaged, return {"error": text}, so that other rows stay readable."""
        try:
            return None if value is None else json.loads(value)
        except (TypeError, ValueError, RecursionError) as error:
            return {"error": f"the database holds no JSON here: {error}"}


_Json = sa.JSON(none_as_null=True).with_variant(_JsonText, "sqlite")

IS_BASE = sa.text("kind IN ('key', 'patch')")
"""Condition on the table `frames`: others may refer to it. Only in these words does SQLite use the index."""
_HAS_KEY = sa.text("key_frame IS NOT NULL")
_HAS_PATCH = sa.text("patch_frame IS NOT NULL")

cameras = sa.Table(
    "cameras",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("name", sa.String(64), nullable=False, unique=True),
    # counters of the stored frames, kept up to date by each transaction that adds or deletes frames
    sa.Column("frames", sa.BigInteger, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("first_capture_time", sa.BigInteger),
    sa.Column("last_capture_time", sa.BigInteger),
    sa.Column("last_frame", sa.BigInteger),
    # of the frame that was stored last, even if it was deleted since
    sa.Column("last_received_time", sa.BigInteger),
    # version of the newest map in `importance`; None: there never was one
    sa.Column("importance", sa.BigInteger),
    # the same of `zones`
    sa.Column("zones", sa.BigInteger),
    sqlite_autoincrement=True,
)
frames = sa.Table(
    "frames",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("camera_id", _Id, sa.ForeignKey(cameras.c.id), nullable=False),
    sa.Column("sequence", sa.BigInteger),
    sa.Column("capture_time", sa.BigInteger, nullable=False),
    sa.Column("received_time", sa.BigInteger, nullable=False),
    sa.Column("stored_time", sa.BigInteger, nullable=False),
    sa.Column("bytes", sa.Integer, nullable=False),
    # width times height, 0 if unknown
    sa.Column("pixels", sa.BigInteger, nullable=False),
    sa.Column("key", sa.String(160), nullable=False),
    sa.Column("measures", _Json, nullable=False),
    sa.Column("results", _Json),
    sa.Column("metrics", _Json),
    # the program that stored the frame; None: an older version
    sa.Column("writer", sa.String(16)),
    # what the file says of itself: plain, key, patch or follower; None: an older version stored it
    sa.Column("kind", sa.String(8)),
    # by which followers of the same camera refer to it; None: an ordinary JPEG
    sa.Column("file_id", sa.String(6)),
    # rows of the key, and of the patch, that the file can't be decoded without. They are deleted with or after it.
    sa.Column("key_frame", sa.BigInteger),
    sa.Column("patch_frame", sa.BigInteger),
    # finds duplicates, and orders a camera's frames by time; a missing sequence equals no other
    sa.UniqueConstraint("camera_id", "capture_time", "sequence"),
    # for retention, and to find the row of a file
    sa.Index(None, "stored_time", "id"),
    # to find the file that a follower refers to; most files are followers
    sa.Index(None, "camera_id", "file_id", "capture_time", sqlite_where=IS_BASE, postgresql_where=IS_BASE),
    # to find the followers of a key and of a patch
    sa.Index(None, "key_frame", "id", sqlite_where=_HAS_KEY, postgresql_where=_HAS_KEY),
    sa.Index(None, "patch_frame", "id", sqlite_where=_HAS_PATCH, postgresql_where=_HAS_PATCH),
    sqlite_autoincrement=True,
)
# counters of each minute of capture time, so that a timeline does not need to read every frame
minutes = sa.Table(
    "minutes",
    metadata,
    sa.Column("camera_id", _Id, sa.ForeignKey(cameras.c.id), primary_key=True),
    # minutes since 1970
    sa.Column("minute", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("frames", sa.BigInteger, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("pixels", sa.BigInteger, nullable=False),
    # those of the frames that refer to others: patches and followers
    sa.Column("followers", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("follower_bytes", sa.BigInteger, nullable=False, server_default="0"),
    sqlite_with_rowid=False,
)


def _documents(name: str) -> sa.Table:
    """Return a table of documents that devices fetch, see `server.store.documents`."""
    return sa.Table(
        name,
        metadata,
        sa.Column("camera_id", _Id, sa.ForeignKey(cameras.c.id), primary_key=True),
        sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Column("set_time", sa.BigInteger, nullable=False),
    )


# maps of what matters to the task, as `rjpeg.pack_importance` packs them; the last few of each camera
importance = _documents("importance")
# zones that were drawn, as JSON; likewise
zones = _documents("zones")
# when a rule over the task's answers held; they outlive the frames, and a camera's name is not looked up
alerts = sa.Table(
    "alerts",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("camera", sa.String(64), nullable=False),
    sa.Column("rule", sa.String(64), nullable=False),
    # the class that was found, and its best score
    sa.Column("label", sa.String(100), nullable=False),
    sa.Column("score", sa.Float, nullable=False),
    # of the picture in which the rule began to hold
    sa.Column("frame", sa.BigInteger, nullable=False),
    # capture times; no end: it goes on
    sa.Column("start_time", sa.BigInteger, nullable=False),
    sa.Column("end_time", sa.BigInteger),
    # several servers of one store may watch: the first to add an alert tells of it
    sa.UniqueConstraint("camera", "start_time", "rule"),
    sqlite_autoincrement=True,
)
# a single row: the store's identity, which the mark beside the files repeats
store = sa.Table(
    "store",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("identity", sa.String(32), nullable=False),
    sa.CheckConstraint("id = 1", name="one_row"),
)
trash = sa.Table(
    "trash",
    metadata,
    # of a file that is to be removed, as its frame was deleted
    sa.Column("key", sa.String(160), primary_key=True),
)
marks = sa.Table(
    "marks",
    metadata,
    # "swept": the time up to which files without a row were looked for; "clock.*", "doubt.*", "jump.*": see `clock`
    sa.Column("name", sa.String(16), primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)
tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("camera", sa.String(64)),
    sa.Column("note", sa.String(200), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("made_time", sa.BigInteger, nullable=False),
    sqlite_autoincrement=True,
)
