"""Files that refer to others, and the cameras' maps of importance."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

IDENTITY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
INDEXES = (
    (["camera_id", "file_id", "capture_time"], "kind IN ('key', 'patch')"),
    (["key_frame", "id"], "key_frame IS NOT NULL"),
    (["patch_frame", "id"], "patch_frame IS NOT NULL"),
)


def upgrade() -> None:
    """Add columns to `frames` and `minutes`, indexes, and the table `importance`."""
    for column in (
        # None: an older version stored the frame
        sa.Column("kind", sa.String(8)),
        sa.Column("file_id", sa.String(6)),
        sa.Column("key_frame", sa.BigInteger),
        sa.Column("patch_frame", sa.BigInteger),
    ):
        op.add_column("frames", column)
    for columns, condition in INDEXES:
        where = sa.text(condition)
        name = f"ix_frames_{'_'.join(columns)}"
        op.create_index(name, "frames", columns, sqlite_where=where, postgresql_where=where)
    for name in ("followers", "follower_bytes"):
        op.add_column("minutes", sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("cameras", sa.Column("importance", sa.BigInteger))
    op.create_table(
        "importance",
        sa.Column("camera_id", IDENTITY, nullable=False),
        sa.Column("version", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Column("set_time", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("camera_id", "version", name="pk_importance"),
        sa.ForeignKeyConstraint(["camera_id"], ["cameras.id"], name="fk_importance_camera_id_cameras"),
    )
