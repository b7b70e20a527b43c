"""Alerts: when a rule over the task's answers held."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

IDENTITY = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Add the table `alerts`."""
    op.create_table(
        "alerts",
        sa.Column("id", IDENTITY, nullable=False),
        sa.Column("camera", sa.String(64), nullable=False),
        sa.Column("rule", sa.String(64), nullable=False),
        sa.Column("label", sa.String(100), nullable=False),
        sa.Column("score", sa.Float, nullable=False),
        sa.Column("frame", sa.BigInteger, nullable=False),
        sa.Column("start_time", sa.BigInteger, nullable=False),
        sa.Column("end_time", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_alerts"),
        sa.UniqueConstraint("camera", "start_time", "rule", name="uq_alerts_camera_start_time_rule"),
        sqlite_autoincrement=True,
    )
