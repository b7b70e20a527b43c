"""The store's identity, and the program that stored a frame."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table `store` with its only row, and add a column to `frames`."""
    store = op.create_table(
        "store",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("identity", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_store"),
        sa.CheckConstraint("id = 1", name="one_row"),
    )
    op.bulk_insert(store, [{"id": 1, "identity": secrets.token_hex(16)}])
    # None: an older version stored the frame
    op.add_column("frames", sa.Column("writer", sa.String(16)))
