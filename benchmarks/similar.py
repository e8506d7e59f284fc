"""How well `data.group=similar` finds the exposures of one image: `python benchmarks/similar.py --root <folder>`.

Every image below the root is saved again with other gammas and gains, clipped at black and white, as JPEGs under
shuffled names. Printed are the shares of originals whose exposures lie on both sides of the split, and of originals
that are in one group with another one. What two originals show may really be alike; `--show` lists them.
"""

import argparse
import hashlib
import io
import random
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from rich.progress import track

from alu_defects.data import files, similarity, splits

# from, to; equally often, gamma and gain by their logarithm
GAMMAS, GAINS, QUALITIES = (0.5, 2.0), (0.6, 1.5), (60, 95)


def expose(image: Image.Image, rng: np.random.Generator) -> bytes:
    """The image as another exposure would show it: a JPEG."""
    gamma, gain = (np.exp(rng.uniform(*np.log(limits))) for limits in (GAMMAS, GAINS))
    levels = (255 * (gain * (np.arange(256) / 255) ** gamma).clip(0, 1)).round().astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels[np.asarray(image)]).save(file, "JPEG", quality=int(rng.integers(*QUALITIES)))
    return file.getvalue()


def write_exposures(root: Path, output: Path, *, exposures: int, limit: int | None, seed: int) -> pd.DataFrame:
    """Write the exposures; returns a catalog with the original of each, in the column `original`."""
    originals = [path for path in files.list_files(root)[0] if files.is_image(path)]
    random.Random(seed).shuffle(originals)
    rows = []
    for number, original in enumerate(track(originals[:limit], "exposures")):
        rng = np.random.default_rng([seed, number])
        with Image.open(root / original) as image:
            rgb = image.convert("RGB")
        for exposure in range(exposures):
            content = expose(rgb, rng)
            name = hashlib.sha256(f"{seed} {number} {exposure}".encode()).hexdigest()[:16]  # in no order
            path = Path(original).parent / f"{name}.jpg"
            (output / path).parent.mkdir(parents=True, exist_ok=True)
            (output / path).write_bytes(content)
            rows.append((path.as_posix(), path.parts[0], hashlib.sha256(content).hexdigest(), original))
    return pd.DataFrame(rows, columns=["path", "label", "sha256", "original"], dtype=str).assign(time="")


def measure(table: pd.DataFrame, root: Path, cache: Path, seeds: int = 10) -> tuple[dict[str, float], list[list[str]]]:
    """The shares of originals, and the originals that are in one group with others."""
    paths = [root / path for path in table["path"]]
    numbers = similarity.find_groups(cache, paths, table["sha256"].to_list(), since=2**40)
    in_group = defaultdict[int, set[str]](set)
    for number, original in zip(numbers.tolist(), table["original"], strict=True):
        in_group[number].add(original)
    joined = [sorted(found) for found in in_group.values() if len(found) > 1]
    groups = pd.Series(numbers).groupby(table["original"].to_numpy()).nunique()
    cut = []
    for seed in range(seeds):
        split = splits.split_catalog(table, name="session", seed=seed, group="similar", find_similar=lambda _: numbers)
        cut.append(float((split.groupby("original")["split"].agg(lambda own: len(set(own))) > 1).mean()))
    shares = {
        "originals whose exposures the split cuts (%)": 100 * float(np.mean(cut)),
        "originals in more than one group (%)": 100 * float((groups > 1).mean()),
        "originals in one group with another (%)": 100 * len(set().union(*joined)) / len(groups),
        "images in the largest group": float(np.bincount(numbers).max()),
    }
    return shares, joined


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="images, in class folders")
    parser.add_argument("--exposures", type=int, default=6, help="of each image")
    parser.add_argument("--limit", type=int, help="images, chosen at random; all without it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", action="store_true", help="list the originals that are in one group")
    parser.add_argument("--keep", type=Path, help="write the exposures there instead of into a temporary folder")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        output = given.keep or Path(temporary, "exposures")
        table = write_exposures(given.root, output, exposures=given.exposures, limit=given.limit, seed=given.seed)
        shares, joined = measure(table, output, Path(temporary, "cache"))
    print(f"| {len(table)} exposures of {table['original'].nunique()} images | |\n|---|---|")
    for name, value in shares.items():
        print(f"| {name} | {value:.4g} |")
    for originals in joined if given.show else ():
        print(", ".join(originals))


if __name__ == "__main__":
    main()
