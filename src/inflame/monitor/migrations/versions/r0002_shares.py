"""Links that visitors share, with their pictures: any server of the same log finds them."""

from __future__ import annotations

from inflame.monitor import schema

revision, down_revision = "0002", "0001"

UP = (
    """CREATE TABLE shares (
        id TEXT PRIMARY KEY, result TEXT NOT NULL, until {real} NOT NULL, picture {bytes} NOT NULL)""",
)
DOWN = ("DROP TABLE shares",)


def upgrade() -> None:
    """Alembic's name for it."""
    schema.execute(UP)


def downgrade() -> None:
    """Alembic's name for it."""
    schema.execute(DOWN)
