"""The first tables: cameras, frames, minutes, marks, trash, tokens."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

IDENTITY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
JSON = sa.JSON().with_variant(sa.Text, "sqlite")


def upgrade() -> None:
    """Create the tables."""
    _create_cameras()
    _create_frames()
    _create_minutes()
    _create_marks_and_trash()
    _create_tokens()


def _create_cameras() -> None:
    op.create_table(
        "cameras",
        sa.Column("id", IDENTITY, nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("frames", sa.BigInteger, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("first_capture_time", sa.BigInteger),
        sa.Column("last_capture_time", sa.BigInteger),
        sa.Column("last_frame", sa.BigInteger),
        sa.Column("last_received_time", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_cameras"),
        sa.UniqueConstraint("name", name="uq_cameras_name"),
        sqlite_autoincrement=True,
    )


def _create_frames() -> None:
    op.create_table(
        "frames",
        sa.Column("id", IDENTITY, nullable=False),
        sa.Column("camera_id", IDENTITY, nullable=False),
        sa.Column("sequence", sa.BigInteger),
        sa.Column("capture_time", sa.BigInteger, nullable=False),
        sa.Column("received_time", sa.BigInteger, nullable=False),
        sa.Column("stored_time", sa.BigInteger, nullable=False),
        sa.Column("bytes", sa.Integer, nullable=False),
        sa.Column("pixels", sa.BigInteger, nullable=False),
        sa.Column("key", sa.String(160), nullable=False),
        sa.Column("measures", JSON, nullable=False),
        sa.Column("results", JSON),
        sa.Column("metrics", JSON),
        sa.PrimaryKeyConstraint("id", name="pk_frames"),
        sa.ForeignKeyConstraint(["camera_id"], ["cameras.id"], name="fk_frames_camera_id_cameras"),
        sa.UniqueConstraint("camera_id", "capture_time", "sequence", name="uq_frames_camera_id_capture_time_sequence"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_frames_stored_time_id", "frames", ["stored_time", "id"])


def _create_minutes() -> None:
    op.create_table(
        "minutes",
        sa.Column("camera_id", IDENTITY, nullable=False),
        sa.Column("minute", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("frames", sa.BigInteger, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("pixels", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("camera_id", "minute", name="pk_minutes"),
        sa.ForeignKeyConstraint(["camera_id"], ["cameras.id"], name="fk_minutes_camera_id_cameras"),
        sqlite_with_rowid=False,
    )


def _create_marks_and_trash() -> None:
    op.create_table(
        "marks",
        sa.Column("name", sa.String(16), nullable=False),
        sa.Column("value", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_marks"),
    )
    op.create_table(
        "trash",
        sa.Column("key", sa.String(160), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_trash"),
    )


def _create_tokens() -> None:
    op.create_table(
        "tokens",
        sa.Column("id", IDENTITY, nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("camera", sa.String(64)),
        sa.Column("note", sa.String(200), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("made_time", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sqlite_autoincrement=True,
    )
