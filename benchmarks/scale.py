"""How the cost of the catalog, its split and its file grows with the number of images: `python benchmarks/scale.py`.

Each catalog is made in a process of its own, without torch. Tables in Markdown.
"""

import argparse
import hashlib
import math
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import datetime, timedelta
from itertools import cycle
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import psutil
from rich.progress import track

from alu_defects.benchmarking.measurement import Spread, Table, format_value, peak_memory, take_turns
from alu_defects.config import compose, plain
from alu_defects.data import catalog, duplicates, leakage, splits
from alu_defects.data.catalog import ImageRecord
from alu_defects.errors import UserError
from alu_defects.tianchi_classes import CLASS_NAMES, CLASSES

T = TypeVar("T")

MIN_ROWS = 100  # every class then has sessions enough for train, val and test
MAX_ROWS_COMPARED = 10_000  # near-duplicates compare every pair: a second for so many
NEAR_DUPLICATES = "near-duplicates"
STAGES = ("build", "split", "time-only baseline", "hash", "save", "load", "total", NEAR_DUPLICATES)
PEAK, ADDED = "peak (MB)", "after the imports (MB)"


def create_images(number: int) -> Iterator[ImageRecord]:
    """Images of eleven classes in the archives' layout, taken in sessions of one to three, ten seconds apart."""
    time = datetime(2018, 8, 30)
    created = 0
    # 11 and 3: every class has sessions of every length
    for kind, length in zip(cycle(CLASSES), cycle((1, 2, 3)), strict=False):
        for _ in range(min(length, number - created)):
            path = f"{kind.folder}/{kind.folder}{time:%Y%m%d%H%M%S}对照样本.jpg"
            yield ImageRecord(path, (kind.name,), sha256=hashlib.sha256(str(created).encode()).hexdigest())
            created += 1
            time += timedelta(seconds=10)
        if created == number:
            return
        time += timedelta(minutes=2)


def measure_rows(number: int, split: dict[str, Any]) -> dict[str, float]:
    """What a catalog of so many images costs in this process: seconds of each of `STAGES`, and MB of memory."""
    seconds: dict[str, float] = {}

    def timed(stage: str, task: Callable[[], T]) -> T:
        start = perf_counter()
        result = task()
        seconds[stage] = perf_counter() - start
        return result

    def make_catalog() -> None:
        images = list(create_images(number))
        table = timed("build", lambda: catalog.build_catalog(images, [], CLASS_NAMES)).table
        table = timed("split", lambda: splits.split_catalog(table, **split))
        timed("time-only baseline", lambda: leakage.time_only_baseline(table))
        timed("hash", lambda: catalog.data_hash(table))
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "catalog.csv")
            timed("save", lambda: catalog.save_catalog(table, file))
            timed("load", lambda: catalog.load_catalog(file))

    imported = psutil.Process().memory_info().rss
    added = peak_memory(make_catalog)
    seconds["total"] = sum(seconds.values())
    if number <= MAX_ROWS_COMPARED:
        hashes = np.random.default_rng(0).integers(0, 256, (number, duplicates.HASH_BITS // 8), dtype=np.uint8)
        timed(NEAR_DUPLICATES, lambda: duplicates.near_duplicates(hashes))
    return seconds | {PEAK: (imported + added) / 1e6, ADDED: added / 1e6}


def measure(rows: Sequence[int], repeats: int, settings: Sequence[str] = ()) -> list[Table]:
    """Measure catalogs of so many rows, in rounds.

    Raises:
        UserError: too few rows, a split that does not exist, or more rows than the memory holds.
    """
    rows = sorted(set(rows))
    if rows[0] < MIN_ROWS:
        raise UserError(f"--rows {rows[0]} is too few; give {MIN_ROWS} or more")
    split = plain(compose("train", settings).split)
    found: dict[int, list[dict[str, float]]] = {number: [] for number in rows}
    for number in track(list(take_turns(rows, repeats)), "catalogs"):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            try:
                found[number].append(pool.submit(measure_rows, number, split).result())
            except (BrokenProcessPool, MemoryError) as error:
                raise UserError(
                    f"--rows {number}: the process ended, it seems for lack of memory; give fewer"
                ) from error
    spreads = {
        n: {name: Spread.of_rounds([one[name] for one in costs]) for name in costs[0]} for n, costs in found.items()
    }
    memory = [{"rows": number, PEAK: costs[PEAK], ADDED: costs[ADDED]} for number, costs in spreads.items()]
    note = "The most that a process held until the catalog was loaded, and how much of it came after the imports."
    how = f"split={split['name']}; median (range) of {repeats} processes by turns"
    return [seconds_table(spreads, how), Table("catalog and split: memory", memory, note)]


def seconds_table(spreads: dict[int, dict[str, Spread]], how: str) -> Table:
    """A row for each stage, a column for each number of rows; at the end by which power of it the seconds grow."""
    rows: list[dict[str, Any]] = []
    for stage in STAGES:
        measured = {number: costs.get(stage) for number, costs in spreads.items()}
        row: dict[str, Any] = {
            "stage": stage,
            **{f"{number:,} rows (s)": seconds for number, seconds in measured.items()},
        }
        ends = [(number, seconds.median) for number, seconds in list(measured.items())[-2:] if seconds]
        if len(ends) == 2:
            (fewer, before), (more, after) = ends
            row["growth"] = math.log(after / before) / math.log(more / fewer)
        elif len(spreads) > 1:
            row["growth"] = None
        rows.append(row)
    note = f"{how}. growth: between the last two, as a power of the rows; 1 is proportional. "
    note += f"{NEAR_DUPLICATES}: every pair of random hashes"
    compared, most = [number for number in spreads if number <= MAX_ROWS_COMPARED], max(spreads)
    if compared and most > MAX_ROWS_COMPARED:
        seconds = spreads[compared[-1]][NEAR_DUPLICATES].median * (most / compared[-1]) ** 2
        note += f", measured up to {compared[-1]:,} rows; {most:,} rows would take {format_value(seconds)} s"
    return Table("catalog and split: seconds", rows, note + ".")


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--repeats", type=int, default=2, help="rounds")
    parser.add_argument("--split", default="session", help="a file of conf/split")
    options = parser.parse_args()
    try:
        tables = measure(options.rows, options.repeats, [f"split={options.split}"])
    except UserError as error:
        parser.error(str(error))
    print(*(table.to_markdown() for table in tables), sep="\n\n")


if __name__ == "__main__":
    main()
