"""The log of predictions: what was asked, what was answered, what people said of it.

    log = Log()                                     # $INFLAME_HOME/monitor/log.db, or where INFLAME_LOG points
    log.register("4be1…", classes, statistics)      # once per model: what its numbers mean
    log.add([Entry(model="4be1…", …)])              # returns when it is safe: never lost, also not by a SIGKILL
    log.verdict(Verdict(answer=entry.id, said="wrong", label="owl"))

While the database is locked, full or away, rows wait in a spool on disk, and go where they belong as soon as they can.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

from inflame import store
from inflame.errors import InflameError, RunError, StorageError, UserError, did_you_mean
from inflame.monitor import schema
from inflame.monitor.database import Database, Newer, Row, Sqlite, Step, Unavailable, connect
from inflame.monitor.entries import COLUMNS, NEW, SAID, SHADOW, Entry, Verdict, plain
from inflame.monitor.spool import Spool
from inflame.records import Record

PATIENCE = 0.25  # seconds that an answer may wait for a lock
AGAIN = 1.0  # seconds after which a database that was away is tried again
MOST = 2000  # entries in memory at a time, when all are gone through
COMMENT = 2000  # characters of a comment that are kept
KEEP = 90.0  # days that something is kept by consent, unless told otherwise
DAY = 86_400.0
_VERDICT = ("answer", "said", "label", "who", "asked", "comment", "taken_back", "time")


def _insert(table: str, columns: Sequence[str]) -> str:
    marks = ", ".join("?" * len(columns))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks}) ON CONFLICT DO NOTHING"


_INSERTS = {
    "predictions": _insert("predictions", COLUMNS),
    "verdicts": _insert("verdicts", _VERDICT),
    "models": _insert("models", ("version", "facts")),
    "kept": (
        "INSERT INTO kept (input, content, time, until) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (input) DO UPDATE SET until = CASE WHEN kept.until > excluded.until THEN kept.until "
        "ELSE excluded.until END"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class State(Record):
    """How the log is: where, how many rows wait on disk, and why ("" when the database takes everything)."""

    place: str
    waiting: int
    trouble: str


@final
class Log:
    """A log in a file or, by a URL, in PostgreSQL. Safe to share between threads; several processes may write."""

    def __init__(self, uri: str = "", *, patience: float = PATIENCE) -> None:
        given = uri or os.environ.get("INFLAME_LOG", "") or str(store.home() / "monitor" / "log.db")
        self._database: Database = connect(given, patience)
        beside = self._database.path.parent if isinstance(self._database, Sqlite) else store.home() / "monitor"
        self._spool = Spool(beside / "waiting")
        self._lock = threading.Lock()
        self._trouble, self._since = "", 0.0
        self._waits = True  # something may wait: of a process that was killed
        self._models: dict[str, dict[str, Any]] = {}

    @property
    def place(self) -> str:
        """Where it is, without a password."""
        return self._database.shown

    @property
    def dialect(self) -> str:
        """Which words its database takes: "sqlite" or "postgresql"."""
        return "sqlite" if isinstance(self._database, Sqlite) else "postgresql"

    # --- writing ---------------------------------------------------------------------------------

    def register(self, version: str, classes: Sequence[str], statistics: Sequence[str], name: str = "") -> None:
        """Says what the numbers of a model's entries mean: the order of its classes, the names of its statistics."""
        facts = {"classes": list(classes), "statistics": list(statistics), "name": name}
        self._put("models", [(version, json.dumps(facts, ensure_ascii=False))])

    def add(self, found: Sequence[Entry]) -> None:
        """Keeps the entries: when it returns they are in the database, or wait for it on disk. Raises StorageError
        when neither is possible."""
        self._put("predictions", [entry.row() for entry in found])

    def keep(self, input: str, content: bytes, days: float = KEEP) -> None:
        """Keeps the thing itself for some days. Only with the consent of whoever sent it."""
        self._put("kept", [(input, content, time.time(), time.time() + days * DAY)])

    def verdict(self, verdict: Verdict) -> Verdict:
        """Keeps what a person said; the same again is not kept twice. Returns it with the label that follows from it.

        UserError for an answer that isn't in the log, and for a class that its model doesn't know. While the database
        is away neither can be known: then it is kept as it is.
        """
        try:
            checked = self._checked(verdict)
            last = self._last(checked)
        except RunError:
            checked, last = verdict, None
        if last is None or _meaning(last) != _meaning(checked):
            self._put("verdicts", [tuple(_plain(getattr(checked, name)) for name in _VERDICT)])
        return checked

    def forget(self, *, before: float | None = None, input: str = "") -> int:
        """Erases entries older than a time, or of one input, with what was said of them and kept. Returns how many.

        They leave the files as well. What was exported to Parquet is written anew by the next export.
        """
        if (before is None) == (not input):
            raise UserError("Say what to forget.", remedy="--before DATE or --input HASH")
        self.settle()
        which, value = ("time < ?", before) if before is not None else ("input = ?", input)
        count = self.query(f"SELECT count(*) FROM predictions WHERE {which}", [value])[0][0]
        gone = f"(SELECT id FROM predictions WHERE {which})"
        self.change(
            [
                (f"DELETE FROM verdicts WHERE answer IN {gone}", [(value,)]),
                (f"DELETE FROM shares WHERE result IN {gone}", [(value,)]),
                (f"DELETE FROM kept WHERE {which}", [(value,)]),
                (f"DELETE FROM predictions WHERE {which}", [(value,)]),
            ],
            erased=("predictions", "verdicts", "shares", "kept"),
        )
        self.expire()
        return int(count)

    def expire(self) -> int:
        """Erases what was kept or shared and whose days are over; returns how many. They leave the files as well."""
        now = time.time()
        over: dict[str, tuple[str, Row]] = {
            "kept": ("coalesce(until, time + ?) < ?", (KEEP * DAY, now)),
            "shares": ("until < ?", (now,)),
        }
        found = 0
        for table, (which, values) in over.items():
            count = self.query(f"SELECT count(*) FROM {table} WHERE {which}", values)[0][0]
            if count:
                self.change([(f"DELETE FROM {table} WHERE {which}", [values])], erased=(table,))
            found += int(count)
        return found

    # --- the tables ------------------------------------------------------------------------------

    def version(self) -> str:
        """Which version the tables have, see schema; changes nothing. StorageError when the database is away,
        UserError when they are of a later inflame."""
        try:
            found = self._database.version()
        except Unavailable as error:
            raise self._error(error) from error
        if found > schema.newest():
            raise self._error(Newer(found))
        return found

    def migrate(self, to: str) -> None:
        """Brings the tables to a version, up or down. The next who opens the log brings them to the newest."""
        self.version()
        try:
            self._database.migrate(to)
        except Unavailable as error:
            raise self._error(error) from error

    def settle(self) -> int:
        """Puts what waits on disk into the database, if it can be; returns how many rows still wait."""
        with self._lock:
            self._drain()
        return self._spool.waiting()

    def close(self) -> None:
        """Puts away what waits, and lets go of the database."""
        self.settle()
        self._database.close()

    # --- reading ---------------------------------------------------------------------------------

    def unwritable(self) -> str:
        """Why nothing can be written to the database now, in a line; "" when a row just was. Not by way of the spool,
        and whatever is known from before: it is tried."""
        reason = ""
        for _ in range(2):  # a server that was restarted answers to a new connection
            try:
                self._database.write([_noting("written", time.time())])
            except Unavailable as error:
                reason = str(error)
            else:
                return ""
        return reason

    def state(self) -> State:
        """How the log is, for a page or a health check."""
        return State(place=self.place, waiting=self._spool.waiting(), trouble=self._trouble)

    def model(self, version: str) -> dict[str, Any] | None:
        """{"classes", "statistics", "name"} of a model that was registered."""
        if version not in self._models:
            found = self.query("SELECT facts FROM models WHERE version = ?", [version])
            if not found:
                return None
            self._models[version] = json.loads(found[0][0])
        return self._models[version]

    def models(self) -> list[str]:
        """The versions whose answers are in the log, the latest first; last those that only answered silently."""
        told = "max(CASE WHEN source = ? THEN 0 ELSE seq END) DESC, max(seq) DESC"
        found = self.query(f"SELECT model FROM predictions GROUP BY model ORDER BY {told}", [SHADOW])
        return [row[0] for row in found]

    def find(self, answer: str) -> Entry | None:
        """The entry of that id."""
        return next(iter(self._entries("WHERE id = ?", [answer])), None)

    def place_of(self, answer: str) -> int:
        """The place of an entry in the order of arrival: what `walk` goes on after. 0 for none."""
        found = self.query("SELECT seq FROM predictions WHERE id = ?", [answer])
        return int(found[0][0]) if found else 0

    def last(self, count: int, model: str = "") -> list[Entry]:
        """The last `count` entries in the order in which they came, of one model or of all."""
        which, values = ("WHERE model = ?", [model]) if model else ("", [])
        return self._entries(f"{which} ORDER BY seq DESC LIMIT ?", [*values, count])[::-1]

    def walk(self, *, model: str = "", since: float = 0.0, until: float = 1e12, after: int = 0) -> Iterator[Entry]:
        """All entries in the order in which they came, in little memory no matter how many. A clock that went
        backwards moves none of them: `since` and `until` only choose. `after`: the place of the one before the first.
        """
        more = " AND model = ?" if model else ""
        while True:
            rows = self.query(
                f"SELECT seq, {', '.join(COLUMNS)} FROM predictions "
                f"WHERE seq > ? AND time >= ? AND time < ?{more} ORDER BY seq LIMIT ?",
                [after, since, until, *([model] if model else []), MOST],
            )
            yield from (Entry.of(row[1:]) for row in rows)
            if len(rows) < MOST:
                return
            after = rows[-1][0]

    def verdicts(self, *, since: float = 0.0) -> list[tuple[Entry, Verdict]]:
        """What people said, with the answer it is about; of one person and answer the last word, unless taken back."""
        columns = ", ".join([*(f"p.{name}" for name in COLUMNS), *(f"v.{name}" for name in _VERDICT)])
        rows = self.query(
            f"SELECT {columns} FROM verdicts v JOIN predictions p ON p.id = v.answer WHERE v.time >= ? ORDER BY v.seq",
            [since],
        )
        found: dict[tuple[str, str], tuple[Entry, Verdict]] = {}
        for row in rows:
            said = _verdict(row[len(COLUMNS) :])
            found[said.answer, said.who] = Entry.of(row[: len(COLUMNS)]), said
        return [pair for pair in found.values() if not pair[1].taken_back]

    def kept(self, input: str) -> bytes | None:
        """The thing itself, where it was kept."""
        found = self.query("SELECT content FROM kept WHERE input = ?", [input])
        return bytes(found[0][0]) if found else None

    def held(self, inputs: Sequence[str]) -> set[str]:
        """Which of these inputs were kept."""
        found: set[str] = set()
        for start in range(0, len(inputs), 500):
            some = inputs[start : start + 500]
            marks = ", ".join("?" * len(some))
            found |= {row[0] for row in self.query(f"SELECT input FROM kept WHERE input IN ({marks})", some)}
        return found

    def query(self, statement: str, values: Sequence[Any] = ()) -> list[Row]:
        """Rows of a SELECT of our own (never of a user's words). RunError when the database is away."""
        with self._lock:
            if self._waits:
                self._drain()
        try:
            return self._database.read(statement, values)
        except Unavailable:
            pass  # a server that was restarted answers to a new connection
        try:
            return self._database.read(statement, values)
        except Unavailable as error:
            raise self._error(error) from error

    def change(self, steps: Sequence[Step], *, erased: Sequence[str] = ()) -> None:
        """Does statements of our own, all or none; what they delete from the tables `erased` leaves the files as
        well. StorageError when the database is away: nothing of it waits."""
        try:
            self._database.write(steps)
            if erased:
                self._database.scrub(*erased)
        except Unavailable as error:
            raise self._error(error) from error

    def note(self, key: str, value: Any) -> None:
        """Keeps a small fact of the monitor's own, in the place of the one before."""
        self.change([_noting(key, value)])

    def noted(self, key: str, default: Any = None) -> Any:
        """The fact that was noted."""
        found = self.query("SELECT value FROM notes WHERE key = ?", [key])
        return json.loads(found[0][0]) if found else default

    # --- inside ----------------------------------------------------------------------------------

    def _put(self, table: str, rows: list[Row]) -> None:
        if not rows:
            return
        with self._lock:
            if self._waits and not self._drain():
                self._spool.put(table, rows)
                return
            try:
                self._database.write([(_INSERTS[table], rows)])
            except Unavailable as error:
                self._spool.put(table, rows)
                self._away(error)

    def _drain(self) -> bool:
        """Whether nothing waits any more. A database that was away a moment ago is not asked again yet."""
        if self._trouble and time.monotonic() - self._since < AGAIN:
            return False
        try:
            self._spool.drain(self._take)
        except Unavailable as error:
            self._away(error)
            return False
        self._trouble, self._waits = "", False
        return True

    def _take(self, table: str, rows: list[Row]) -> None:
        if table == "kept":  # an older inflame, whose rows may still wait, said nothing of an end
            rows = [row if len(row) == 4 else (*row, None) for row in rows]
        self._database.write([(_INSERTS[table], rows)])

    def _away(self, error: Unavailable) -> None:
        self._trouble, self._since, self._waits = str(error), time.monotonic(), True

    def _error(self, error: Unavailable) -> InflameError:
        if isinstance(error, Newer):
            return UserError(
                f"The log was made by a later inflame: {error}.",
                where=self.place,
                remedy="pip install --upgrade inflame, or take another log: --log FILE",
            )
        return StorageError(
            f"The log can't be used: {error}.",
            where=self.place,
            remedy="Nothing is lost: new answers wait on disk. Start the database again, or free some space.",
        )

    def _entries(self, which: str, values: Sequence[Any]) -> list[Entry]:
        found = self.query(f"SELECT {', '.join(COLUMNS)} FROM predictions {which}", values)
        return [Entry.of(row) for row in found]

    def _checked(self, verdict: Verdict) -> Verdict:
        entry = self.find(verdict.answer)
        if entry is None:
            raise UserError(
                "There is no such answer in the log.",
                where=verdict.answer[:64],
                remedy="It may have been forgotten, or was given by another server.",
            )
        if verdict.said not in SAID:
            raise UserError(f'Nobody can say "{verdict.said[:40]}".', remedy=f"Say one of: {', '.join(SAID)}.")
        label = entry.label if verdict.said == "right" else verdict.label
        if verdict.said == NEW:
            label = plain(label)
        if verdict.said in ("label", NEW) and not label:
            raise UserError("The class is missing.", remedy="Name the class that it is.")
        known = (self.model(entry.model) or {}).get("classes", [])
        if label and known and label not in known and verdict.said != NEW:
            raise UserError(
                f'The model has no class "{label[:80]}".{did_you_mean(label[:80], known)}',
                where=f"model {entry.model}",
                remedy=f"One of: {', '.join(known[:20])}{' …' if len(known) > 20 else ''}",
            )
        said = {name: getattr(verdict, name) for name in _VERDICT}
        return Verdict(**{**said, "label": label, "who": verdict.who[:200], "comment": verdict.comment[:COMMENT]})

    def _last(self, verdict: Verdict) -> Verdict | None:
        found = self.query(
            f"SELECT {', '.join(_VERDICT)} FROM verdicts WHERE answer = ? AND who = ? ORDER BY seq DESC LIMIT 1",
            [verdict.answer, verdict.who],
        )
        return _verdict(found[0]) if found else None


def _noting(key: str, value: Any) -> Step:
    statement = "INSERT INTO notes (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
    return statement, [(key, json.dumps(value))]


def _verdict(row: Row) -> Verdict:
    values = dict(zip(_VERDICT, row, strict=True))
    return Verdict(**{**values, "asked": bool(values["asked"]), "taken_back": bool(values["taken_back"])})


def _meaning(verdict: Verdict) -> tuple[str, str, str, bool]:
    return verdict.said, verdict.label, verdict.comment, verdict.taken_back


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, bool) else value
