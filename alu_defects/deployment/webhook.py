"""Rows → a POST each, in a thread of its own: what receives them may be slow or gone, and stops nothing."""

import json
import logging
import queue
import threading
import time
import urllib.request
from collections.abc import Sequence
from urllib.parse import urlsplit

from alu_defects.deployment.table import Row
from alu_defects.errors import UserError, counted

log = logging.getLogger(__name__)

TIMEOUT = 5.0  # seconds that a POST may take
PAUSES = (1.0, 4.0)  # seconds before it is tried again
LONGEST_QUEUE = 1000  # rows; what comes while it is full is not sent
LAST_WORDS = 10.0  # seconds that the end waits for rows that are not sent yet


class Webhook:
    """Sends rows as JSON; the ledger is the record, this is a notice.

    Args:
        url: http or https.

    Raises:
        UserError: it is not.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"webhook={url} is no address; give http://… or https://…")
        self.not_sent = 0
        self._url, self._host = url, parts.hostname  # the rest may hold a secret, which no message shows
        self._queue: queue.Queue[Row | None] = queue.Queue(LONGEST_QUEUE)
        self._is_ending = threading.Event()
        self._is_in_trouble = False
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
        self._thread.start()

    def send(self, rows: Sequence[Row]) -> None:
        """Put rows into the queue; what comes while it is full is counted and not sent."""
        for row in rows:
            try:
                self._queue.put_nowait(row)
            except queue.Full:
                self._fail(f"{LONGEST_QUEUE} rows wait")

    def close(self) -> None:
        """Send what is in the queue, for some seconds at most."""
        self._is_ending.set()
        end = time.monotonic() + LAST_WORDS
        try:
            self._queue.put(None, timeout=LAST_WORDS)
        except queue.Full:
            pass
        else:
            self._thread.join(max(0.0, end - time.monotonic()))
        if left := self._queue.qsize() if self._thread.is_alive() else 0:
            log.warning("webhook: %s not sent at the end", counted(left, "row"))

    def _run(self) -> None:
        while (row := self._queue.get()) is not None:
            self._post(row)

    def _post(self, row: Row) -> None:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._url, json.dumps(row).encode(), headers)
        for pause in (*PAUSES, None):
            try:
                with urllib.request.urlopen(request, timeout=TIMEOUT):
                    if self._is_in_trouble:
                        log.warning("webhook: %s answers again", self._host)
                    self._is_in_trouble = False
                    return
            except Exception as error:  # of sockets, HTTP and TLS: none may stop the station
                reason = f"{type(error).__name__}: {error}"
            if pause is None:
                break
            self._is_ending.wait(pause)  # at the end, at once
        self._fail(reason)

    def _fail(self, reason: str) -> None:
        self.not_sent += 1
        if not self._is_in_trouble:  # it is said once
            log.warning("webhook: %s does not take rows (%s); they are in the table", self._host, reason)
        self._is_in_trouble = True
