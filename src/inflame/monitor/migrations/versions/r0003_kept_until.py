"""Until when something is kept. What was kept before, without an end, has 90 days from now."""

from __future__ import annotations

from inflame.monitor import schema

revision, down_revision = "0003", "0002"

UP = ("ALTER TABLE kept ADD COLUMN until {real}", "UPDATE kept SET until = {now} + 90 * 86400.0")
DOWN = ("ALTER TABLE kept DROP COLUMN until",)


def upgrade() -> None:
    """Alembic's name for it."""
    schema.execute(UP)


def downgrade() -> None:
    """Alembic's name for it."""
    schema.execute(DOWN)
