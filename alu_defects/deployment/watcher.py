"""The station at a line: decides on each new image once, files it, and says how it is doing; see `docs/watch.md`."""

import hashlib
import io
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Self

from alu_defects.data import decode
from alu_defects.deployment.arrivals import Arrival, Arrivals, ChangedError, as_arrival, read
from alu_defects.deployment.drift import Drift
from alu_defects.deployment.folders import Folders, folder_of
from alu_defects.deployment.heartbeat import Heartbeat, now_text
from alu_defects.deployment.ledger import DUPLICATE, DayTables, Ledger
from alu_defects.deployment.predictor import Predictor
from alu_defects.deployment.table import Row, as_row, columns_of, digest
from alu_defects.deployment.webhook import Webhook
from alu_defects.errors import UserError, counted
from alu_defects.io import exclusive_lock, remove_unfinished

PAUSE = 4  # times what the listing took, at least: a large folder leaves the processor to others
RETRY = 1.0  # seconds until a disk that could not be written is tried again
SLICE = 0.1  # seconds: how soon a signal is noticed
OWN_COLUMNS = ("time", "sha256", "brightness", "placed", "model")  # after those of predict
ON_DISK = (OSError, sqlite3.OperationalError)


def _never() -> bool:
    return False


class Done(NamedTuple):
    """A file that is decided, or was: its row has no time until it is kept."""

    file: Arrival
    content: bytes
    sha256: str
    row: Row


class Station:
    """Decides on what arrives in a folder; a context, which holds the output.

    Args:
        predictor: decides.
        source: the folder.
        output: the folder of tables, ledger, heartbeat, and of the files that were decided.
        transfer: copy; or move: what was decided no longer lies in the source.
        recursive: whether folders in `source` are looked into.
        settle: seconds that a file must stay as it is before it is read.
        batch_size: images that the network sees at once.
        webhook: address that gets each row; None: none does.
        reference: of the drift; None: that in `output`, or the images that come make one.
        reference_images: how many they are.

    Raises:
        UserError: folders that cannot be used; an output of another process, or with decisions of other classes.
    """

    def __init__(
        self,
        predictor: Predictor,
        source: str,
        output: str,
        *,
        transfer: str = "copy",
        recursive: bool = True,
        settle: float = 2.0,
        batch_size: int = 16,
        webhook: str | None = None,
        reference: str | None = None,
        reference_images: int = 500,
    ) -> None:
        self._predictor, self._batch_size, self._moves = predictor, batch_size, transfer == "move"
        self._source, self._output = _check_folders(source, output)
        self._model = digest(predictor)[:12]
        self._heartbeat = Heartbeat(self._output / "heartbeat.json")
        self._troubles = self._heartbeat.troubles
        self._unread: dict[str, str] = {}  # files that could not be read or removed when last tried, and why
        self._once, self._is_ending = False, _never
        self._last_decided: str | None = None
        try:
            with ExitStack() as stack:  # what is open is closed if the rest fails
                self._open(stack, webhook, reference, reference_images)
                self._resources = stack.pop_all()
        except ON_DISK as error:
            raise UserError(f"output={self._output} cannot be written ({error}); make room or rights") from error
        self._before = self._counts.copy()
        self._arrivals = Arrivals(
            self._source, str(self._output), self._ledger.is_known, settle=settle, recursive=recursive
        )

    def _open(self, stack: ExitStack, webhook: str | None, reference: str | None, reference_images: int) -> None:
        """Take the output, and put right what a killed process left there."""
        bundle, locked = self._predictor.bundle, f"watching with output={self._output}"
        stack.enter_context(exclusive_lock(self._output / "ledger", locked, wait=False))
        remove_unfinished(self._output)
        self._ledger = Ledger(self._output / "ledger.sqlite")
        stack.callback(self._ledger.close)
        if (others := self._ledger.note("classes") or bundle.classes) != bundle.classes:
            raise UserError(
                f"output={self._output} has decisions on the classes {', '.join(others)}; "
                f"run has {', '.join(bundle.classes)}: give another output"
            )
        self._ledger.write_note("classes", bundle.classes)
        self._tables = DayTables(self._output, [*columns_of(bundle.classes), *OWN_COLUMNS], self._ledger)
        self._tables.repair()
        self._folders = Folders(self._output)
        file = Path(os.path.expanduser(reference)) if reference else None  # noqa: PTH111 (as of predict)
        self._drift = Drift(self._ledger, self._output, bundle, self._model, reference=file, images=reference_images)
        self._webhook = Webhook(webhook) if webhook else None
        if self._webhook:
            stack.callback(self._webhook.close)
        self._counts = self._ledger.count()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Let the output go."""
        with self._resources:
            self._beat("failed" if kind else "ended")

    def run(self, *, once: bool = False, poll: float = 1.0, is_ending: Callable[[], bool] = _never) -> dict[str, int]:
        """Watch until `is_ending` says so.

        Args:
            once: decide what is there, and end; files that change meanwhile are left for the next time.
            poll: seconds between two looks at the source.
            is_ending: is asked after each batch.

        Returns:
            How many images got which decision; `error` and `duplicate` for those without one.

        Raises:
            UserError: with `once`, a folder that cannot be read or written; else it is tried again and again.
        """
        self._once, self._is_ending = once, is_ending
        first: set[str] | None = None
        while not is_ending():
            begun = time.monotonic()
            complete = self._look()
            listed = time.monotonic() - begun
            if first is None:
                first = set(self._arrivals.waiting)
            self._decide_all(complete)
            self._until_it_works(self._drift.close_hour)  # of a line that stands still, too
            self._beat()
            if once and not any(self._is_awaited(path) for path in first):
                break
            self._wait(max(poll, PAUSE * listed))
        return dict(self._counts - self._before)

    def _is_awaited(self, path: str) -> bool:
        one = self._arrivals.waiting.get(path)
        return one is not None and not one.has_changed and path not in self._unread

    def _look(self) -> list[Arrival]:
        """The complete files."""
        try:
            complete = self._arrivals.poll()
        except OSError as error:
            self._fail("source", f"source={self._source} cannot be read ({error.strerror})", error)
            return []
        self._troubles.end("source")
        return complete

    def _decide_all(self, complete: Sequence[Arrival]) -> None:
        left = iter(complete)
        while not self._is_ending() and (batch := list(islice(left, self._batch_size))):
            self._decide(batch)
            self._until_it_works(self._drift.close_hour)  # what waits may take hours
            self._beat()
        self._unread = {path: reason for path, reason in self._unread.items() if path in self._arrivals.waiting}
        wrong = [*self._arrivals.unreadable, *(f"{path} ({reason})" for path, reason in self._unread.items())]
        if wrong:
            text = f"{counted(len(wrong), 'path')} in the source cannot be read or removed, such as {wrong[0]}"
            self._troubles.begin("files in the source", text)
        else:
            self._troubles.end("files in the source")

    def _decide(self, batch: Sequence[Arrival]) -> None:
        """Decide on files, or put them off."""
        done: list[Done] = []
        new: dict[str, tuple[Arrival, bytes]] = {}
        for file, content in self._read(batch):
            sha256 = hashlib.sha256(content).hexdigest()
            if (first := self._ledger.first_path(sha256)) is not None:
                row = self._ledger.row_of(sha256, file.path)  # it is the same file, only touched
                row = row or {"path": file.path, "status": DUPLICATE, "error": f"same content as {first}"}
                done.append(Done(file, content, sha256, row))
            else:
                new.setdefault(sha256, (file, content))  # a second one is a duplicate at the next look
        images = list(decode.read_in_order(self._decode, [content for _, content in new.values()], ahead=len(new)))
        decoded: list[tuple[str, decode.UInt8 | Exception]] = []
        for (sha256, (file, _)), image in zip(new.items(), images, strict=True):
            if isinstance(image, decode.NoMemoryError):
                self._unread[file.path] = str(image)
                self._arrivals.put_off(file)
            elif isinstance(image, Exception) and not self._arrivals.waiting[file.path].is_second_look:
                self._arrivals.put_off(file, second_look=True)  # it may not be complete
            else:
                decoded.append((sha256, image))
        pairs = [(sha256, image if isinstance(image, Exception) else (image, None)) for sha256, image in decoded]
        predictions = self._predictor.decide([(new[sha256][0].path, pixels) for sha256, pixels in pairs])
        for (sha256, image), prediction in zip(decoded, predictions, strict=True):
            row = as_row(prediction)
            if not isinstance(image, Exception):
                row["brightness"] = round(float(image.mean()), 3)
            done.append(Done(*new[sha256], sha256, row))
        if done:
            self._keep(done)

    def _read(self, batch: Sequence[Arrival]) -> Iterator[tuple[Arrival, bytes]]:
        for file, content in zip(batch, decode.read_in_order(read, batch, ahead=len(batch)), strict=True):
            if isinstance(content, bytes):
                self._unread.pop(file.path, None)
                yield file, content
            elif not isinstance(content, (ChangedError, FileNotFoundError)):  # which the next look notices
                self._unread[file.path] = getattr(content, "strerror", None) or str(content)
                self._arrivals.put_off(file)

    def _decode(self, content: bytes) -> decode.UInt8:
        if not content:
            raise ValueError("the file is empty")
        return self._predictor.read(io.BytesIO(content))

    def _keep(self, done: Sequence[Done]) -> None:
        """Write files, ledger and table; what cannot be written is tried until it can, or the station ends.

        In this order, so that kill -9 at any moment loses nothing: a file is in the output before the ledger says so,
        and leaves the source after that.
        """
        time = now_text()  # one for all: they are of one day
        rows: list[Row] = []

        def record() -> None:
            rows.clear()
            for one in done:
                placed = self._place(one)
                if "time" not in one.row:
                    extra = {"time": time, "sha256": one.sha256, "placed": placed, "model": self._model}
                    rows.append(one.row | extra)
            self._folders.sync()
            self._ledger.add(rows, [] if self._moves else [one.file for one in done])

        if not self._until_it_works(record):
            return
        self._counts.update(row.get("decision") or row["status"] for row in rows)
        self._drift.add(rows)
        self._last_decided = time
        self._until_it_works(lambda: self._tables.append(time[:10], rows))
        for one in done:
            self._release(one.file)
        if self._webhook:
            self._webhook.send(rows)

    def _place(self, one: Done) -> str | None:
        """Where a file lies in the output. A copy of what is there already is not placed, and stays in the source."""
        if not self._moves and (one.row["status"] == DUPLICATE or "time" in one.row):
            return None
        name = os.path.relpath(one.file.path, self._source)
        return self._folders.place(one.content, folder_of(one.row), name, one.sha256, one.file.mtime_ns)

    def _release(self, file: Arrival) -> None:
        """Remove a file that was moved, unless it has become another one."""
        if self._moves:
            try:
                if as_arrival(file.path) == file:
                    os.unlink(file.path)  # noqa: PTH108 (a string, as it was listed)
            except FileNotFoundError:
                pass
            except OSError as error:
                self._unread[file.path] = str(error.strerror)
                self._arrivals.put_off(file)
                return
        self._arrivals.forget(file, is_removed=self._moves)

    def _until_it_works(self, write: Callable[[], None]) -> bool:
        """Whether what writes to the output did, however long it took; no if the station is to end before."""
        while True:
            try:
                write()
            except ON_DISK as error:
                self._fail("output", f"output={self._output} cannot be written ({error}): nothing is decided", error)
            else:
                self._troubles.end("output")
                return True
            self._beat()
            if self._is_ending():
                return False
            self._wait(RETRY)

    def _fail(self, what: str, text: str, error: Exception) -> None:
        if self._once:
            raise UserError(f"{text}; what is decided stays so: the same command continues") from error
        self._troubles.begin(what, f"{text}; trying again")

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._is_ending() and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, SLICE))
            self._beat()

    def _beat(self, status: str = "running") -> None:
        """Write the heartbeat if it is time for it."""
        self._heartbeat.beat(status, self._state)

    def _state(self) -> Row:
        return {
            "source": self._source,
            "model": {"id": self._model, "file": str(self._predictor.source), **self._predictor.bundle.about},
            "queue": len(self._arrivals.waiting),
            "decided": dict(self._counts - self._before),  # since it was started
            "decided_in_all": dict(self._counts),
            "last_decided": self._last_decided,
            "drift": self._drift.state(),
            "webhook_not_sent": self._webhook.not_sent if self._webhook else None,
        }


def _check_folders(source: str, output: str) -> tuple[str, Path]:
    """Both as absolute paths: a ledger that knows files by their paths must not depend on the working folder."""
    folder, target = (os.path.abspath(os.path.expanduser(path)) for path in (source, output))  # noqa: PTH100, PTH111
    if not os.path.isdir(folder):  # noqa: PTH112 (Path raises for names that are too long)
        raise UserError(f"source={folder} is not a folder; give the one that the camera writes to")
    try:
        Path(target).mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(
            f"output={target} cannot be made ({error.strerror}); give a folder in one that exists"
        ) from error
    real, real_target = os.path.realpath(folder), os.path.realpath(target)
    if os.path.join(real, "").startswith(os.path.join(real_target, "")):  # noqa: PTH118
        raise UserError(f"source={folder} lies in output={target}, whose files are never decided; give another output")
    return folder, Path(target)
