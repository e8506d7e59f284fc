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
import psutil
from rich.progress import track

from alu_defects.benchmarking.measurement import Table
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
    # by a shell that ends: what this process starts itself would be taken for a worker of its own
    words = ["sh", "-c", '"$0" -c "while True: pass" >/dev/null 2>&1 & echo $!', sys.executable]
    other = psutil.Process(int(subprocess.run(words, capture_output=True, check=True, text=True).stdout))
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
    parser.add_argument("--threads", nargs="+", default=THREADS, choices=THREADS)
    parser.add_argument("--machine", nargs="+", default=["idle", "busy"], choices=["idle", "busy"])
    options = parser.parse_args()
    import torch

    most = torch.get_num_threads()
    cells = [(m, t, on) for m in options.models for t in options.threads for on in options.machine]
    found: dict[tuple[str, str, str], list[float]] = {cell: [] for cell in cells}
    used: dict[tuple[str, str, str], set[int]] = {cell: set() for cell in cells}
    for cell in track(cells * options.rounds, "training"):
        model, threads, machine = cell
        images_per_second, numbers = speed(model, threads, machine == "busy", most)
        found[cell].append(images_per_second)
        used[cell] |= set(numbers)
    columns: dict[str, dict[str, str]] = {}  # network → a cell for each row of the table
    for model in options.models:
        columns[model] = {}
        for (measured, threads, machine), values in found.items():
            if measured == model:
                name = f"{most if threads == 'most' else threads}, {machine}"
                columns[model][name] = f"{median(values):.3g} ({min(values):.3g}–{max(values):.3g})"
                if threads == "auto":
                    columns[model][name] += f", threads {sorted(used[model, threads, machine])}"
        for machine, other in (("idle", "most"), ("busy", "1")):
            if {(model, "auto", machine), (model, other, machine)} <= found.keys():
                pairs = zip(found[model, "auto", machine], found[model, other, machine], strict=True)
                ratios = [auto / fixed for auto, fixed in pairs]
                columns[model][f"auto / {most if other == 'most' else other}, {machine}"] = (
                    f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
                )
    names = list(columns[options.models[0]])
    rows = [{"img/s": name, **{model: cells[name] for model, cells in columns.items()}} for name in names]
    print(Table("Training beside a busy program", rows).to_markdown())


if __name__ == "__main__":
    main()
