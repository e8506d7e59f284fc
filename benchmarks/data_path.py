"""How fast images come from files to the device, beside torchvision's ImageFolder: `python benchmarks/data_path.py`.

Below it, what decoding up to a million images would take and fill. Tables in Markdown.
"""

import argparse
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from alu_defects.benchmarking.measurement import Spread, Table, Task, peak_memory, time_tasks
from alu_defects.benchmarking.training import load_batches
from alu_defects.config import Size, compose, plain
from alu_defects.data.datamodule import DefectData
from alu_defects.errors import UserError

IMAGE_FOLDER = "ImageFolder"
FIRST = "decoding into the cache, and the first epoch"
LATER = "a later epoch"
AUGMENTED = "a later epoch, augmented"


def measure(images: int, repeats: int, seconds: float, settings: Sequence[str] = ()) -> list[Table]:
    """Measure epochs over `images` images of the data set, and what they need of memory and disk.

    Args:
        images: so many, evenly from the whole data set; what is left of the last batch is skipped.
        repeats: number of rounds.
        seconds: the least duration of a turn, after a first epoch that does not count.
        settings: of conf/train.yaml, such as data.image_size=400.

    Raises:
        UserError: settings of the data that cannot be, or fewer than a batch of images.
    """
    config = compose("train", settings)
    options, augment = plain(config.data), plain(config.augment)
    device = torch.device("cuda" if config.trainer.accelerator != "cpu" and torch.cuda.is_available() else "cpu")
    _ = DefectData(**options, split=plain(config.split)).catalog  # generates the images, if need be
    started = perf_counter()
    whole = DefectData(**options, split=plain(config.split))
    table = whole.catalog
    scanned = perf_counter() - started
    complete = min(images, len(table)) // whole.batch_size * whole.batch_size
    if not complete:
        raise UserError(f"--images {images} is fewer than a batch; give {whole.batch_size} or more")
    chosen = np.linspace(0, len(table) - 1, complete).round().astype(int)
    own = table.iloc[chosen].assign(split="train")
    with ExitStack() as stack:
        files, caches = (Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(2))
        image_folder = _image_folder(whole.root, own, files, whole.image_size, whole.batch_size)
        numbers = count(1)

        def open_data(cache: str, augmented: bool = False) -> DefectData:
            changed = {**options, "cache_dir": caches / cache, "progress": False}
            data = DefectData(**changed, split={}, augment=augment if augmented else None)
            data.set_catalog(whole.root, own)
            data.prepare_data()
            data.move_pixels(device)
            data.setup("fit")
            return data

        def load(data: DefectData) -> None:
            for _ in load_batches(data, device):
                pass

        def load_naively() -> None:
            for batch, labels in image_folder:
                _ = batch.to(device, non_blocking=True), labels.to(device, non_blocking=True)

        kept, kept_augmented = open_data("kept"), open_data("kept", augmented=True)
        tasks: dict[str, Task] = {
            IMAGE_FOLDER: load_naively,
            FIRST: lambda: load(open_data(f"{next(numbers)}")),
            LATER: lambda: load(kept),
            AUGMENTED: lambda: load(kept_augmented),
        }
        memory = {name: peak_memory(tasks[name]) / 1e6 for name in (IMAGE_FOLDER, FIRST)}
        for name in (LATER, AUGMENTED):  # each with a mapping that has no pages yet
            memory[name] = peak_memory(lambda new=name == AUGMENTED: load(open_data("kept", new))) / 1e6  # type: ignore[misc]
        rounds = time_tasks(tasks, repeats=repeats, seconds=seconds)
        disk = sum(file.stat().st_size for file in (caches / "kept").rglob("*") if file.is_file())
    times = {name: np.array([np.mean(turn) for turn in turns]) for name, turns in rounds.items()}
    rows = [
        {
            "way": name,
            "img/s": Spread.of_rounds(len(own) / taken),
            f"× {IMAGE_FOLDER}": Spread.of_rounds(times[IMAGE_FOLDER] / taken),
            "memory (MB)": memory[name],
            "disk (MB)": 0.0 if name == IMAGE_FOLDER else disk / 1e6,
        }
        for name, taken in times.items()
    ]
    note = (
        f"From the files, which the system has in its memory already, to batches of {whole.batch_size} images of "
        f"{whole.image_size[0]}×{whole.image_size[1]} on the {device.type}. ImageFolder: torchvision, Pillow's full "
        f"decoding, resized, normalised, {joblib.cpu_count()} worker processes. Median (range) of {repeats} "
        "interleaved rounds; ×: how many times as fast, round by round. ImageFolder's batches are normalised floats; "
        "ours are bytes, augmented ones floats, which the network normalises. Listing and hashing "
        f"{len(table)} files takes {scanned:.1f} s more at the start of every run. Memory: of the process and its "
        "workers, above what it was before, pages of the mapped file counted."
    )
    with Image.open(whole.root / own["path"].iloc[0]) as image:  # nearly always all have its size
        title = f"data path: {len(own)} images of {image.width}×{image.height}"
    extrapolated = [
        {
            "rows": number,
            "decoding (s)": Spread.of_rounds(number * times[FIRST] / len(own)),
            "disk (GB)": number * disk / len(own) / 1e9,
        }
        for number in (1_000, 10_000, 100_000, 1_000_000)
    ]
    return [Table(title, rows, note), Table("pixel cache, extrapolated from that", extrapolated)]


def _image_folder(root: Path, table: pd.DataFrame, folder: Path, size: Size, batch_size: int) -> DataLoader[Any]:
    """What one would write without this project, after PyTorch's own example for ImageNet."""
    for number, (label, path) in enumerate(zip(table["label"], table["path"], strict=True)):
        link = folder / label / f"{number}{Path(path).suffix}"
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(root / path)
    transform = v2.Compose(
        [v2.Resize(size), v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.5])]
    )
    return DataLoader(
        ImageFolder(str(folder), transform),
        batch_size=batch_size,
        shuffle=True,
        num_workers=joblib.cpu_count(),
        pin_memory=torch.cuda.is_available(),
    )


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=256, help="so many of the data set are measured")
    parser.add_argument("--repeats", type=int, default=3, help="rounds")
    parser.add_argument("--seconds", type=float, default=1.0, help="least duration of a turn")
    parser.add_argument("settings", nargs="*", help="settings of conf/train.yaml, such as data.image_size=400")
    options = parser.parse_args()
    try:
        tables = measure(options.images, options.repeats, options.seconds, options.settings)
    except UserError as error:
        parser.error(str(error))
    print(*(table.to_markdown() for table in tables), sep="\n\n")


if __name__ == "__main__":
    main()
