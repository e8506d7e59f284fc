"""How a station is doing: a file that is written again every few seconds, and what does not work at the moment."""

import logging
import os
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from alu_defects.deployment.table import Row
from alu_defects.io import write_json

log = logging.getLogger(__name__)

INTERVAL = 5.0  # seconds


def now_text() -> str:
    """The time with its zone."""
    return datetime.now().astimezone().isoformat(timespec="milliseconds")


class Troubles:
    """What does not work at the moment. It is logged once when it begins and once when it is over."""

    def __init__(self) -> None:
        self.last: Row | None = None  # of all, also when it is over
        self._now: dict[str, str] = {}

    def begin(self, what: str, text: str) -> None:
        """Something does not work."""
        if what not in self._now:
            log.warning("%s", text)
        self._now[what] = text
        self.last = {"time": now_text(), "error": text}

    def end(self, what: str) -> None:
        """It works, or works again."""
        if self._now.pop(what, None):
            log.warning("%s: works again", what)

    def now(self) -> list[str]:
        """What does not work."""
        return list(self._now.values())


class Heartbeat:
    """Writes the file. Whoever reads it sees a whole one; one that is old means that nothing is decided.

    Args:
        file: that is written.
    """

    def __init__(self, file: Path) -> None:
        self.troubles = Troubles()
        self._file, self._started, self._next = file, now_text(), 0.0

    def beat(self, status: str, state: Callable[[], Row]) -> None:
        """Write it if it is time for it, or if the status is not running."""
        if status == "running" and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + INTERVAL
        content = {"time": now_text(), "status": status, "pid": os.getpid(), "started": self._started, **state()}
        content |= {"troubles": self.troubles.now(), "last_error": self.troubles.last}
        try:
            write_json(self._file, content)
        except OSError as error:  # it grows old, which says enough
            self.troubles.begin("heartbeat", f"{self._file} cannot be written ({error.strerror})")
        else:
            self.troubles.end("heartbeat")
