"""The cameras' zones."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

IDENTITY = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Add a column to `cameras`, and the table `zones`."""
    op.add_column("cameras", sa.Column("zones", sa.BigInteger))
    op.create_table(
        "zones",
        sa.Column("camera_id", IDENTITY, nullable=False),
        sa.Column("version", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Column("set_time", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("camera_id", "version", name="pk_zones"),
        sa.ForeignKeyConstraint(["camera_id"], ["cameras.id"], name="fk_zones_camera_id_cameras"),
    )
