"""The network that a server decides with, which can be replaced while it works."""

import logging
import threading
from collections.abc import Callable
from datetime import datetime

import numpy as np

from alu_defects.deployment.predictor import Predictor
from alu_defects.errors import UserError

log = logging.getLogger(__name__)


class ModelSlot:
    """Holds one predictor.

    Whoever decides takes `predictor` once and keeps it to the end: the previous one is freed after its last image.

    Args:
        load: reads the predictor, at the start and in `reload`.
    """

    def __init__(self, load: Callable[[], Predictor]) -> None:
        self._load, self._lock = load, threading.Lock()
        self._read()

    def reload(self) -> None:
        """Read the predictor again, as after its file was replaced; if that fails, the previous one stays.

        Raises:
            UserError: it cannot be read, or gives no numbers.
        """
        with self._lock:
            try:
                self._read()
            except Exception as error:  # of runtimes, too: none may stop the server
                reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
                log.error("the network stays %s: %s", self.file, reason)
                raise UserError(f"the network stays {self.file}: {reason}") from error
        log.info("decides with %s now", self.file)

    def _read(self) -> None:
        predictor = self._load()
        predictor.outputs(np.full((1, *predictor.bundle.image_size, 3), 128, np.uint8))  # an error if it gives NaN
        self.predictor = predictor
        self.file = predictor.source.resolve().name  # of a link what it leads to now
        self.since = datetime.now().astimezone().isoformat(timespec="seconds")
