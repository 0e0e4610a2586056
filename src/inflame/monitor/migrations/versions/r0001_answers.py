"""Answers, what people said of them, models, what was kept by consent, and notes."""

from __future__ import annotations

from inflame.monitor import schema

revision, down_revision = "0001", None

# Where they are missing: logs had these tables before they had a version.
UP = (
    """CREATE TABLE IF NOT EXISTS predictions (
        seq {serial}, id TEXT NOT NULL UNIQUE, time {real} NOT NULL, model TEXT NOT NULL, input TEXT NOT NULL,
        label TEXT NOT NULL, probability {real} NOT NULL, known INTEGER NOT NULL, probabilities {bytes} NOT NULL,
        embedding {bytes} NOT NULL, seen {bytes} NOT NULL, kind TEXT NOT NULL, latency {real} NOT NULL,
        source TEXT NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS predictions_time ON predictions (time)",
    "CREATE INDEX IF NOT EXISTS predictions_input ON predictions (input)",
    """CREATE TABLE IF NOT EXISTS verdicts (
        seq {serial}, answer TEXT NOT NULL, said TEXT NOT NULL, label TEXT NOT NULL, who TEXT NOT NULL,
        asked INTEGER NOT NULL, comment TEXT NOT NULL, taken_back INTEGER NOT NULL, time {real} NOT NULL,
        UNIQUE (answer, who, time))""",
    "CREATE INDEX IF NOT EXISTS verdicts_answer ON verdicts (answer)",
    "CREATE TABLE IF NOT EXISTS models (version TEXT PRIMARY KEY, facts TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS kept (input TEXT PRIMARY KEY, content {bytes} NOT NULL, time {real} NOT NULL)",
    "CREATE TABLE IF NOT EXISTS notes (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
)
DOWN = tuple(f"DROP TABLE {table}" for table in ("notes", "kept", "models", "verdicts", "predictions"))


def upgrade() -> None:
    """Alembic's name for it."""
    schema.execute(UP)


def downgrade() -> None:
    """Alembic's name for it."""
    schema.execute(DOWN)
