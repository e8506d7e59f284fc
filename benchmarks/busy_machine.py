"""How fast networks train beside another busy program, by the number of threads: `python benchmarks/busy_machine.py`.

Each training is a real one of a few short epochs. Those with and without a neighbour, a program that computes without
pause, take turns, round by round.
"""

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pandas as pd
from rich.progress import track

from alu_defects.benchmarking.results import Table
from alu_defects.config import compose
from alu_defects.train import train

# about as long for each network: batches of an epoch
BATCHES = {"shufflenet": 12, "inceptionv4_scse": 4, "xception": 5}
EPOCHS = 3  # the first, in which kernels are chosen, does not count
THREADS = ("most", "auto", "1")


@contextlib.contextmanager
def neighbour(busy: bool) -> Iterator[None]:
    """Another program, which keeps one core busy."""
    if not busy:
        yield
        return
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            yield
        finally:
            other.kill()


def speed(model: str, threads: str, busy: bool, most: int) -> tuple[float, list[int]]:
    """Images a second, as the median over the epochs, and the threads of each epoch."""
    words = [f"model={model}", "data.image_size=112", "data.batch_size=16", f"trainer.max_epochs={EPOCHS}"]
    words += [f"trainer.limit_train_batches={BATCHES[model]}", "trainer.limit_val_batches=1"]
    words += ["trainer.limit_test_batches=1", "trainer=cpu", "trainer.enable_progress_bar=false"]
    words += ["callbacks.dashboard.every_n_epochs=0", f"trainer.threads={most if threads == 'most' else threads}"]
    with tempfile.TemporaryDirectory() as folder, neighbour(busy), contextlib.redirect_stdout(io.StringIO()):
        train(compose("train", [*words, f"run_dir={folder}"]))
        speeds = pd.read_csv(Path(folder, "metrics.csv"))["train/images_per_second"]
        return median(speeds[1:]), json.loads(Path(folder, "run.json").read_text(encoding="utf-8"))["threads"]


def main() -> None:
    """Measure, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="+", default=list(BATCHES), choices=list(BATCHES))
    options = parser.parse_args()
    import torch

    most = torch.get_num_threads()
    cells = [(m, t, busy) for m in options.models for t in THREADS for busy in (False, True)]
    found: dict[tuple[str, str, bool], list[float]] = {cell: [] for cell in cells}
    used: dict[tuple[str, str, bool], set[int]] = {cell: set() for cell in cells}
    for model, threads, busy in track(cells * options.rounds, "training"):
        images_per_second, numbers = speed(model, threads, busy, most)
        found[model, threads, busy].append(images_per_second)
        used[model, threads, busy] |= set(numbers)
    rows = []
    for model in options.models:
        row = {"network": model}
        for threads in THREADS:
            for busy in (False, True):
                values = found[model, threads, busy]
                name = f"{most if threads == 'most' else threads} {'busy' if busy else 'idle'}"
                row[name] = f"{median(values):.3g} ({min(values):.3g}–{max(values):.3g})"
                if threads == "auto":
                    row[name] += f", threads {sorted(used[model, threads, busy])}"
        ratios = [
            [a / b for a, b in zip(found[model, "auto", busy], found[model, other, busy], strict=True)]
            for busy, other in ((False, "most"), (True, "1"))
        ]
        row["auto / most, idle"], row["auto / 1, busy"] = (
            f"{median(r):.2f} ({min(r):.2f}–{max(r):.2f})" for r in ratios
        )
        rows.append(row)
    frame = pd.DataFrame(rows).set_index("network").T.rename_axis("img/s").reset_index()
    print(Table("Training beside a busy program", frame).to_markdown())


if __name__ == "__main__":
    main()
