"""How the cost of the catalog, its division and its files grows with the number of images."""

import hashlib
import math
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import datetime, timedelta
from itertools import cycle
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from omegaconf import DictConfig
from rich.progress import track

from alu_defects.benchmarking import memory
from alu_defects.benchmarking.results import Table, for_people
from alu_defects.benchmarking.timing import Spread, turns
from alu_defects.config import plain, whole_numbers
from alu_defects.data import catalog, leakage, similarity, splits
from alu_defects.data.catalog import ImageRecord
from alu_defects.errors import UserError
from alu_defects.tianchi_classes import CLASS_NAMES, CLASSES

T = TypeVar("T")

LEAST = 100  # rows: every class then has sessions enough for train, val and test
MOST_COMPARED = 10_000  # near-duplicates compare every pair: a second for so many
PAIRS = "near-duplicates"
STAGES = ("build", "divide", "probe", "hash", "save", "load", "total", PAIRS)
MEMORY, ADDED = "memory", "memory after imports"


def measure(config: DictConfig) -> list[Table]:
    """Make, divide, probe, hash, save and load catalogs of `config.rows` images, each in a process of its own.

    Raises:
        UserError: too few rows, a split that does not exist, or more rows than the memory holds.
    """
    rows = sorted(set(whole_numbers(config, "rows", LEAST)))
    if config.repeats < 1:
        raise UserError(f"repeats={config.repeats} must be 1 or more")
    split = plain(config.split)
    order = list(turns(rows, config.repeats))
    found: dict[int, list[dict[str, float]]] = {number: [] for number in rows}
    for number in track(order, "catalogs", disable=not config.trainer.enable_progress_bar):
        found[number].append(_in_a_process(number, split))
    spreads = {number: _spreads(found[number]) for number in rows}
    return [_seconds(spreads, f"split={split['name']}, repeats={config.repeats}"), _memory(spreads)]


def images(number: int) -> Iterator[ImageRecord]:
    """Images of eleven classes in the archives' layout, shot in sessions of one to three, ten seconds apart."""
    time = datetime(2018, 8, 30)
    sessions = zip(cycle(CLASSES), cycle((1, 2, 3)), strict=False)  # 11 and 3: every class has sessions of every length
    made = 0
    for kind, length in sessions:
        for _ in range(min(length, number - made)):
            sha256 = hashlib.sha256(str(made).encode()).hexdigest()
            yield ImageRecord(
                f"{kind.folder}/{kind.folder}{time:%Y%m%d%H%M%S}对照样本.jpg", (kind.name,), sha256=sha256
            )
            made += 1
            time += timedelta(seconds=10)
        if made == number:
            return
        time += timedelta(minutes=2)


def cost(number: int, split: Mapping[str, Any]) -> dict[str, float]:
    """What a catalog of so many images costs in this process: seconds by stage (`STAGES`), and MB of memory."""
    imported = memory.peak()
    seconds: dict[str, float] = {}

    def timed(stage: str, task: Callable[[], T]) -> T:
        start = perf_counter()
        result = task()
        seconds[stage] = perf_counter() - start
        return result

    taken = list(images(number))
    table = timed("build", lambda: catalog.build_catalog(taken, [], CLASS_NAMES)).table
    divided = timed("divide", lambda: splits.split_catalog(table, **split))
    timed("probe", lambda: leakage.time_only_baseline(divided))
    timed("hash", lambda: catalog.data_hash(divided))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "catalog.csv")
        timed("save", lambda: catalog.save_catalog(divided, file))
        timed("load", lambda: catalog.load_catalog(file))
    peak = memory.peak()
    seconds["total"] = sum(seconds.values())
    if number <= MOST_COMPARED:
        hashes = np.random.default_rng(0).integers(0, 256, (number, similarity.HASH_BITS // 8), dtype=np.uint8)
        timed(PAIRS, lambda: similarity.near_duplicates(hashes))
    return seconds | {MEMORY: peak / 1e6, ADDED: (peak - imported) / 1e6}


def _in_a_process(number: int, split: Mapping[str, Any]) -> dict[str, float]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(cost, number, split).result()
        except (BrokenProcessPool, MemoryError) as error:
            raise UserError(f"rows={number}: the process ended, for want of memory it seems; give fewer") from error


def _spreads(found: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    return {name: Spread.of([one[name] for one in found]) for name in found[0]}


def _seconds(spreads: Mapping[int, Mapping[str, Spread]], how: str) -> Table:
    """A row a stage, a column a number of rows; at the end by which power of it the seconds grow."""
    *_, most = rows = list(spreads)
    lines: list[dict[str, Any]] = [
        {"stage": stage} | {f"{number:,} rows (s)": spreads[number].get(stage) for number in rows} for stage in STAGES
    ]
    note = f"{how}; median (range) of processes by turns. {PAIRS}: every pair of random hashes"
    if len(rows) > 1:
        for line in lines:
            ends = [(number, spreads[number].get(line["stage"])) for number in rows[-2:]]
            line["growth"] = _power(*((number, seconds.median) for number, seconds in ends if seconds))
        note = f"growth: between the last two, as a power of the rows (1 is proportional). {note}"
    compared = [number for number in rows if number <= MOST_COMPARED]
    if compared and most > MOST_COMPARED:
        last = compared[-1]
        seconds = spreads[last][PAIRS].median * (most / last) ** 2
        note += f", measured up to {last:,} rows; {most:,} rows would take {for_people(seconds)} s, as the pairs grow"
    return Table("catalog and split: seconds", pd.DataFrame(lines), note + ".")


def _power(*measured: tuple[int, float]) -> float:
    """The exponent p of seconds = c · rows^p through two points; NaN for fewer."""
    if len(measured) < 2:
        return math.nan
    (fewer, before), (more, after) = measured
    return math.log(after / before) / math.log(more / fewer)


def _memory(spreads: Mapping[int, Mapping[str, Spread]]) -> Table:
    columns = {MEMORY: "most (MB)", ADDED: "after the imports (MB)"}
    rows = [{"rows": n} | {title: found[name] for name, title in columns.items()} for n, found in spreads.items()]
    note = "The most that a process held until the catalog was loaded, and how much of it came after the imports."
    return Table("catalog and split: memory", pd.DataFrame(rows), note)
