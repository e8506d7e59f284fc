"""What the first and the second start on a folder of images cost, listed and split: `python benchmarks/first_start.py`.

JPEG files of 64×64 pixels with different content; each start in a process of its own. Seconds of wall clock, and of the
processor (user and system), which other programs disturb less.
"""

import argparse
import io
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from time import perf_counter, sleep

import numpy as np
from PIL import Image

from alu_defects.data import hashes, sources, splits

CLASSES, MOTIFS = 8, 200


def write_images(root: Path, number: int) -> None:
    """Write JPEGs, each with a comment of its own: other bytes, quickly."""
    rng = np.random.default_rng(0)
    motifs = []
    for _ in range(MOTIFS):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "JPEG")
        motifs.append(buffer.getvalue())
    for kind in range(CLASSES):
        (root / f"class_{kind}").mkdir(parents=True)
    for index in range(number):
        motif, comment = motifs[index % MOTIFS], f"{index:08d}".encode()
        content = motif[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + motif[2:]
        (root / f"class_{index % CLASSES}" / f"{index:08d}.jpg").write_bytes(content)


def start(root: Path, cache: Path) -> tuple[float, float]:
    """Seconds of wall clock and of the processor."""
    wall, before = perf_counter(), os.times()
    with hashes.remember_hashes(cache, progress=False):
        _, found = sources.find_images("folder", {"root": str(root)})
    splits.split_catalog(found.table, name="random", seed=0)
    after = os.times()
    return perf_counter() - wall, after.user + after.system - before.user - before.system


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 200_000])
    parser.add_argument("--folder", help="where the images are written, and removed")
    options = parser.parse_args()
    print("| images | start | seconds | processor (s) |\n|---|---|---|---|")
    for number in options.images:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            root, cache = Path(folder, "images"), Path(folder, "cache")
            write_images(root, number)
            written = time.time()
            sleep(max(0.0, written + hashes.MIN_AGE_SECONDS + 1 - time.time()))  # younger hashes are not remembered
            for which in ("first", "second"):
                with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                    wall, processor = pool.submit(start, root, cache).result()
                print(f"| {number:,} | {which} | {wall:.1f} | {processor:.1f} |", flush=True)


if __name__ == "__main__":
    main()
