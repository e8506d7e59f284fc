"""Train as the command line does, and get a signal: `python killed.py <place> <signal> <overrides>`.

In the third epoch: within it (`epoch`), in its validation, while its checkpoint is written, or once it is (`saved`).
"""

import gc
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

from alu_defects.train import main
from alu_defects.training import checkpoint
from alu_defects.training.module import Classifier

EPOCH, BATCH, BYTES = 2, 1, 50_000


def hit(number: int) -> None:
    """Get the signal, and say when."""
    print(f"signal sent at {time.time()}", file=sys.stderr, flush=True)
    os.kill(os.getpid(), number)


class Cut:
    """A file whose writing gets a signal in the middle."""

    def __init__(self, file: BinaryIO, number: int) -> None:
        self.file, self.number, self.left = file, number, BYTES

    def write(self, content: Any) -> int:
        if self.left > 0 >= (left := self.left - len(content)):
            self.file.flush()
            self.left = left
            hit(self.number)
        self.left -= len(content)
        return self.file.write(content)


def get(number: int, place: str) -> None:
    """Arrange for the signal."""
    save = checkpoint._save

    def before(step: Any) -> Any:
        def at_step(self: Classifier, batch: Any, batch_idx: int) -> Any:
            if (self.current_epoch, batch_idx) == (EPOCH, BATCH):
                hit(number)
            return step(self, batch, batch_idx)

        return at_step

    def cut(content: dict[str, Any], file: Any) -> None:
        is_it = Path(file.name).name.startswith("last.ckpt.") and content["epoch"] == EPOCH
        save(content, Cut(file, number) if is_it else file)  # type: ignore[arg-type]

    def saved(self: checkpoint.AtomicIO, content: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write(self, content, path, storage_options)
        if str(path).endswith("last.ckpt") and content["epoch"] == EPOCH:
            hit(number)

    write = checkpoint.AtomicIO.save_checkpoint
    if place == "checkpoint":
        checkpoint._save = cut
    elif place == "saved":
        checkpoint.AtomicIO.save_checkpoint = saved  # type: ignore[method-assign]
    else:
        name = {"epoch": "training_step", "validation": "validation_step"}[place]
        setattr(Classifier, name, before(getattr(Classifier, name)))


if __name__ == "__main__":
    _, place, number, *words = sys.argv
    gc.disable()  # what a traceback holds is collected sooner or later; here later, after the end
    get(signal.Signals[number], place)
    sys.argv = ["train", *words]
    main()
