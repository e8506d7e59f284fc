"""What was decided on: a database that survives kill -9 and power cuts, and tables for people that follow it."""

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from alu_defects.deployment.arrivals import Arrival
from alu_defects.deployment.table import Row, csv_line
from alu_defects.errors import UserError
from alu_defects.io import atomic_write, sync_folder

VERSION = 1  # of the tables
DUPLICATE = "duplicate"  # status of a row: this content was decided under another name
SCHEMA = """
    CREATE TABLE rows (
        number INTEGER PRIMARY KEY, day TEXT NOT NULL, sha256 TEXT NOT NULL, path BLOB NOT NULL, model TEXT NOT NULL,
        status TEXT NOT NULL, decision TEXT NOT NULL, row TEXT NOT NULL
    );
    CREATE UNIQUE INDEX one_decision_a_content ON rows (sha256) WHERE status != 'duplicate';
    CREATE UNIQUE INDEX one_row_a_content_and_path ON rows (sha256, path);
    CREATE INDEX days ON rows (day);
    CREATE INDEX counts ON rows (status, decision);
    CREATE TABLE files (
        path BLOB PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE hours (number INTEGER PRIMARY KEY, row TEXT NOT NULL);
    CREATE TABLE notes (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


class Ledger:
    """The database; one process has it at a time.

    Raises:
        UserError: the file is damaged, or of another version.
        sqlite3.OperationalError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        try:
            # without shared memory, which a network share lacks; FULL: what is committed survives a power cut
            for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL"):
                self._database.execute(f"PRAGMA {pragma}")
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
            if version == 0:
                self._database.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version={VERSION}; COMMIT;")
            elif version != VERSION:
                raise UserError(f"{path} is of another version of alu_defects; give another output")
        except sqlite3.OperationalError:  # of the disk
            raise
        except sqlite3.DatabaseError as error:
            raise UserError(f"{path} cannot be read ({error}); give another output") from error

    def close(self) -> None:
        """Bring everything into the one file."""
        self._database.close()

    def is_known(self, file: Arrival) -> bool:
        """Whether a file of this path, size and time is done with, and may stay where it is."""
        found = self._one("SELECT size, mtime_ns FROM files WHERE path = ?", os.fsencode(file.path))
        return bool(found == (file.size, file.mtime_ns))

    def first_path(self, sha256: str) -> str | None:
        """The path under which a content was decided."""
        found = self._one("SELECT path FROM rows WHERE sha256 = ? AND status != ?", sha256, DUPLICATE)
        return os.fsdecode(found[0]) if found else None

    def row_of(self, sha256: str, path: str) -> Row | None:
        """The row of a content under a path."""
        found = self._one("SELECT row FROM rows WHERE sha256 = ? AND path = ?", sha256, os.fsencode(path))
        return json.loads(found[0]) if found else None

    def add(self, rows: Sequence[Row], files: Sequence[Arrival]) -> None:
        """Keep rows, and the files that are known from now on: all of it, or nothing if it raises.

        Raises:
            sqlite3.OperationalError: the disk is full or cannot be written.
            sqlite3.IntegrityError: a content is decided already.
        """
        with self._transaction():
            for row in rows:
                values = (row["time"][:10], row["sha256"], os.fsencode(row["path"]), row["model"], row["status"])
                self._database.execute(
                    "INSERT INTO rows (day, sha256, path, model, status, decision, row) VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (*values, row.get("decision", ""), json.dumps(row)),
                )
            for file in files:
                self._database.execute(
                    "INSERT OR REPLACE INTO files VALUES (?, ?, ?)", (os.fsencode(file.path), *file[1:])
                )

    def add_hour(self, row: Row, key: str, note: Any) -> None:
        """Keep a row of the hours together with a note."""
        with self._transaction():
            self._database.execute("INSERT INTO hours (row) VALUES (?)", (json.dumps(row),))
            self._write_note(key, note)

    def hours(self) -> Iterator[Row]:
        """The rows of the hours."""
        for (row,) in self._database.execute("SELECT row FROM hours ORDER BY number"):
            yield json.loads(row)

    def rows_of_day(self, day: str) -> Iterator[Row]:
        """The rows of a day, such as 2026-11-27, in their order."""
        for (row,) in self._database.execute("SELECT row FROM rows WHERE day = ? ORDER BY number", (day,)):
            yield json.loads(row)

    def decisions_of(self, model: str, after: int) -> Iterator[Row]:
        """The rows with decisions of a network that come after a number."""
        query = "SELECT row FROM rows WHERE number > ? AND model = ? AND status = 'ok' ORDER BY number"
        for (row,) in self._database.execute(query, (after, model)):
            yield json.loads(row)

    def last(self) -> tuple[int, str | None]:
        """Number and day of the last row; 0 and None if there is none."""
        return self._one("SELECT number, day FROM rows ORDER BY number DESC LIMIT 1") or (0, None)

    def count(self) -> Counter[str]:
        """How many rows have which decision; `error` and `duplicate` for those without one."""
        found = self._database.execute("SELECT status, decision, COUNT(*) FROM rows GROUP BY status, decision")
        return Counter({decision or status: number for status, decision, number in found})

    def note(self, key: str) -> Any:
        """What `write_note` kept; None if nothing."""
        found = self._one("SELECT value FROM notes WHERE key = ?", key)
        return json.loads(found[0]) if found else None

    def write_note(self, key: str, value: Any) -> None:
        """Keep a value as JSON."""
        with self._transaction():
            self._write_note(key, value)

    def _write_note(self, key: str, value: Any) -> None:
        self._database.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (key, json.dumps(value)))

    def _one(self, query: str, *values: Any) -> Any:
        return self._database.execute(query, values).fetchone()

    def _transaction(self) -> sqlite3.Connection:
        self._database.execute("BEGIN")
        return self._database  # as a context: commit, or roll back


class DayTables:
    """A CSV file a day with the rows of the ledger, which is the truth.

    Args:
        folder: of the files.
        columns: of each.
        ledger: a process that was killed between the two is put right by it.
    """

    def __init__(self, folder: Path, columns: Sequence[str], ledger: Ledger) -> None:
        self._folder, self._columns, self._ledger = folder, columns, ledger
        self._header = csv_line(columns).encode("utf-8", "surrogateescape")
        self._doubtful: set[str] = set()  # days whose file may lack something
        _, day = ledger.last()
        if day:
            self._doubtful.add(day)  # whatever was written before it was written before the last batch

    def append(self, day: str, rows: Sequence[Row]) -> None:
        """Write rows, all of one day, that the ledger has got; if it raises, call it again.

        Raises:
            OSError: no room, or no right to write.
        """
        if self._doubtful:
            self.repair()
            return
        self._doubtful.add(day)
        path = self._path(day)
        with path.open("ab") as file:
            is_new = file.tell() == 0
            file.write(b"".join([self._header] * is_new + [self._line(row) for row in rows]))
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            sync_folder(self._folder)
        self._doubtful.clear()

    def repair(self) -> None:
        """Write the files again that are not what the ledger says."""
        for day in sorted(self._doubtful):
            path = self._path(day)
            content = b"".join([self._header, *map(self._line, self._ledger.rows_of_day(day))])
            if not path.is_file() or path.read_bytes() != content:
                with atomic_write(path) as file:
                    file.write(content)
            self._doubtful.discard(day)

    def _path(self, day: str) -> Path:
        return self._folder / f"decisions_{day}.csv"

    def _line(self, row: Row) -> bytes:
        return csv_line(row.get(name) for name in self._columns).encode("utf-8", "surrogateescape")
