"""How fast a server answers, beside the predictor alone: `python benchmarks/serving.py --run <run> --source <folder>`.

The clients are threads of one process on the same machine; each asks again as soon as it is answered. They and the
server share its cores. Then memory, over many requests. Tables in Markdown.
"""

import argparse
import contextlib
import http.client
import io
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter

import numpy as np
import psutil
from rich.progress import track

from alu_defects.benchmarking.measurement import Spread, Table, take_turns
from alu_defects.deployment.predictor import Predictor
from alu_defects.deployment.source import list_source
from alu_defects.errors import UserError

ALONE = "the predictor alone"
QUEUE = 32  # above the clients: none is refused
SOAK_CLIENTS = 4
SOAK_PARTS = 10


@contextlib.contextmanager
def serving(run: str) -> Iterator[tuple[int, psutil.Process]]:
    """The port and the process of a server."""
    words = [sys.executable, "-m", "alu_defects.serve", f"run={run}", "port=0", f"queue={QUEUE}"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not (found := re.search(r":(\d+)/ ", line)):
                raise UserError(f"run={run} is not served; the reason is above")
            yield int(found[1]), psutil.Process(process.pid)
        finally:
            process.terminate()


def ask(port: int, contents: Sequence[bytes], number: int) -> list[float]:
    """Seconds of so many requests on one connection, one after the other."""
    seconds = []
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=600)) as connection:
        for content in islice(cycle(contents), number):
            begun = perf_counter()
            connection.request("POST", "/predict?map=true", content)
            response = connection.getresponse()
            answer = response.read()
            seconds.append(perf_counter() - begun)
            if response.status != 200:
                raise UserError(f"the server answered {response.status}: {answer.decode()}")
    return seconds


def ask_together(port: int, contents: Sequence[bytes], clients: int, number: int) -> tuple[float, list[float]]:
    """Images a second of several clients, and the seconds of each request."""
    with ThreadPoolExecutor(clients) as pool:
        begun = perf_counter()
        found = list(pool.map(lambda _: ask(port, contents, number // clients), range(clients)))
        passed = perf_counter() - begun
    seconds = [one for own in found for one in own]
    return len(seconds) / passed, seconds


def decide_alone(predictor: Predictor, contents: Sequence[bytes], number: int) -> tuple[float, list[float]]:
    """The same of a predictor that decides on one image after the other, in this process."""
    seconds = []
    for content in islice(cycle(contents), number):
        begun = perf_counter()
        list(predictor.predict([io.BytesIO(content)]))
        seconds.append(perf_counter() - begun)
    return len(seconds) / sum(seconds), seconds


def measure(run: str, source: str, clients: Sequence[int], *, requests: int, repeats: int, soak: int) -> list[Table]:
    """Measure latency and images a second in interleaved rounds, then memory.

    Args:
        run: as of `alu_defects.serve`.
        source: images, as of `alu_defects.predict`.
        clients: numbers of clients that ask at the same time.
        requests: in each turn.
        repeats: rounds.
        soak: requests while the memory is watched; 0: none.

    Raises:
        UserError: no such run or images, more clients than requests or places in the queue, or a request that fails.
    """
    if max(clients) > min(QUEUE, requests) or min(clients) < 1:
        raise UserError(f"--clients {' '.join(map(str, clients))}: give 1 to {min(QUEUE, requests)}")
    contents = [Path(str(file)).read_bytes() for file in list_source(source)]
    predictor = Predictor.load(run, device="cpu")
    speeds = {name: list[float]() for name in (ALONE, *clients)}
    latencies = {name: list[list[float]]() for name in speeds}
    memory = []
    with serving(run) as (port, process):
        for number in clients:  # a first turn that does not count
            ask_together(port, contents, number, max(clients))
        decide_alone(predictor, contents, max(clients))
        turns = list(take_turns(speeds, repeats))
        for name in track(turns, "measuring"):
            speed, seconds = (
                decide_alone(predictor, contents, requests)
                if isinstance(name, str)
                else ask_together(port, contents, name, requests)
            )
            speeds[name].append(speed)
            latencies[name].append(seconds)
        for _ in track(range(SOAK_PARTS if soak else 0), "memory"):
            ask_together(port, contents, SOAK_CLIENTS, soak // SOAK_PARTS)
            memory.append(process.memory_info().rss / 1e6)
    rows = []
    for name, own in speeds.items():
        p50, p95 = (Spread.of_rounds([1e3 * np.quantile(s, q) for s in latencies[name]]) for q in (0.5, 0.95))
        rows.append(
            {
                "clients": str(name),
                "images/s": Spread.of_rounds(own),
                "× alone": Spread.of_rounds(np.divide(own, speeds[ALONE])),
                "p50 (ms)": p50,
                "p95 (ms)": p95,
            }
        )
    tables = [Table(f"serving: {len(contents)} images, {requests} requests a turn, {repeats} rounds", rows)]
    if memory:
        parts = [
            {"requests": (part + 1) * (soak // SOAK_PARTS), "memory (MB)": value} for part, value in enumerate(memory)
        ]
        tables.append(Table(f"memory of the server, {SOAK_CLIENTS} clients", parts))
    return tables


def main() -> None:
    """Measure, and print tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True, help="a run folder, or an exported file")
    parser.add_argument("--source", required=True, help="an image, a folder or a pattern")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--requests", type=int, default=320, help="in each turn")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--soak", type=int, default=0, help="requests while memory is watched, such as 10000")
    given = parser.parse_args()
    try:
        tables = measure(
            given.run, given.source, given.clients, requests=given.requests, repeats=given.repeats, soak=given.soak
        )
    except UserError as error:
        sys.exit(f"error: {error}")
    print("\n\n".join(table.to_markdown() for table in tables))


if __name__ == "__main__":
    main()
