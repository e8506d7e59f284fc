"""How fast images come from files to the device, beside torchvision's ImageFolder on the same files."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from time import perf_counter, time
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from alu_defects.benchmarking import memory
from alu_defects.benchmarking.results import Table
from alu_defects.benchmarking.timing import Seconds, Spread, Task, interleaved, ratio
from alu_defects.config import plain, whole_numbers
from alu_defects.data import decode
from alu_defects.data.augment import Augment, uniforms
from alu_defects.data.cache import PixelCache
from alu_defects.data.datamodule import DefectData
from alu_defects.errors import UserError

IMAGE_FOLDER = "ImageFolder"
BUILD = "decoding into the cache, and the first epoch"
LATER = "a later epoch"
AUGMENTED = "a later epoch, augmented"
_NOTE = (
    "From the files, which the system has in its memory already, to batches of {batch} images of {size}×{size} on "
    "the {device}. ImageFolder: torchvision, Pillow's full decoding, resized, normalised, {cores} worker processes. "
    "Median (range) of {repeats} interleaved rounds; ×: how many times as fast, round by round."
)


def measure(config: DictConfig) -> list[Table]:
    """Measure epochs over `config.images` images of the data set, and what they need of memory and disk.

    Raises:
        UserError: settings of the data that cannot be, or fewer than a batch of images.
    """
    options, augment = plain(config.data), plain(config.augment)
    device = torch.device("cuda" if config.trainer.accelerator != "cpu" and torch.cuda.is_available() else "cpu")
    DefectData(**options, split=plain(config.split)).catalog  # generates the images, if need be
    started = perf_counter()
    whole = DefectData(**options, split=plain(config.split))
    table = whole.catalog
    scanned = perf_counter() - started
    complete = min(config.images, len(table)) // whole.batch_size * whole.batch_size  # the loader drops a rest
    if not complete:
        raise UserError(f"images={config.images} is fewer than a batch; give {whole.batch_size} or more")
    chosen = np.linspace(0, len(table) - 1, complete).round().astype(int)
    own = table.iloc[chosen].assign(split="train")
    with ExitStack() as stack:
        files, caches = (Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(2))
        naive = _image_folder(whole.root, own, files, whole.image_size, whole.batch_size)
        numbers = count(1)

        def opened(cache: str) -> DefectData:
            data = DefectData(**{**options, "cache_dir": caches / cache, "progress": False}, split={}, augment=augment)
            data.set_catalog(whole.root, own)
            data.prepare_data()
            data.move_pixels(device)
            data.setup("fit")
            return data

        kept = opened("kept")
        tasks: dict[str, Task] = {
            IMAGE_FOLDER: lambda: _naive_epoch(naive, device),
            BUILD: lambda: _epoch(opened(f"{next(numbers)}"), device, augmented=False),
            LATER: lambda: _epoch(kept, device, augmented=False),
            AUGMENTED: lambda: _epoch(kept, device, augmented=True),
        }
        held = {name: memory.added(tasks[name]) / 1e6 for name in (IMAGE_FOLDER, BUILD)}
        for name, augmented in ((LATER, False), (AUGMENTED, True)):  # each with a mapping that has no pages yet
            held[name] = memory.added(lambda a=augmented: _epoch(opened("kept"), device, augmented=a)) / 1e6  # type: ignore[misc]
        seconds = interleaved(tasks, repeats=config.repeats, seconds=config.seconds, synchronize=_wait(device))
        disk = sum(file.stat().st_size for file in (caches / "kept").rglob("*") if file.is_file()) / 1e6
    note = _NOTE.format(
        batch=whole.batch_size,
        size=whole.image_size,
        device=device.type,
        cores=joblib.cpu_count(),
        repeats=config.repeats,
    )
    note += (
        " ImageFolder's batches are normalised floats; ours are bytes, augmented ones floats, which the network "
        f"normalises. Listing and hashing {len(table)} files takes {scanned:.1f} s more at the start of every run. "
        "Memory: of the process and its workers, above what it was before, pages of the mapped file counted."
    )
    rows = list(_rows(seconds, len(own), held, {BUILD: disk, LATER: disk, AUGMENTED: disk}))
    return [Table(f"data path: {len(own)} images of {_sizes(whole.root, own)}", pd.DataFrame(rows), note)]


def _rows(
    seconds: dict[str, Seconds], images: int, held: dict[str, float], disk: dict[str, float]
) -> Iterator[dict[str, Any]]:
    for name, taken in seconds.items():
        yield {
            "way": name,
            "img/s": Spread.of(images / taken),
            f"× {IMAGE_FOLDER}": ratio(seconds[IMAGE_FOLDER], taken),
            "memory (MB)": held[name],
            "disk (MB)": disk.get(name, 0.0),
        }


def _image_folder(root: Path, table: pd.DataFrame, folder: Path, size: int, batch_size: int) -> DataLoader[Any]:
    """What one would write without this project, after PyTorch's own example for ImageNet."""
    for number, (label, path) in enumerate(zip(table["label"], table["path"], strict=True)):
        link = folder / label / f"{number}{Path(path).suffix}"
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(root / path)
    transform = v2.Compose(
        [v2.Resize((size, size)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.5])]
    )
    return DataLoader(
        ImageFolder(str(folder), transform),
        batch_size=batch_size,
        shuffle=True,
        num_workers=joblib.cpu_count(),
        pin_memory=torch.cuda.is_available(),
    )


def _naive_epoch(loader: DataLoader[Any], device: torch.device) -> None:
    for images, labels in loader:
        images.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def _epoch(data: DefectData, device: torch.device, *, augmented: bool) -> None:
    """As a trainer takes the batches, see `DefectData.on_before_batch_transfer`."""
    for batch in data.train_dataloader():
        if augmented and data.augment:
            batch["random"] = uniforms(data.seed, 0, batch["index"], Augment.COUNT)
        data.on_after_batch_transfer(data.transfer_batch_to_device(batch, device, 0), 0)


def _wait(device: torch.device) -> Callable[[], object] | None:
    return None if device.type == "cpu" else lambda: torch.accelerator.synchronize(device)


def _sizes(root: Path, table: pd.DataFrame) -> str:
    """Width and height of the first image, which nearly always is that of all."""
    with Image.open(root / table["path"].iloc[0]) as image:
        return f"{image.width}×{image.height}"


def extrapolated(config: DictConfig) -> Table:
    """What decoding `config.rows` images would take and fill, from `config.images` of the data set."""
    options = plain(config.data)
    data = DefectData(**options, split=plain(config.split))
    table = data.catalog.head(config.images)
    paths, sha256s = [data.root / path for path in table["path"]], table["sha256"].to_list()
    taken, size = [], 0
    for _ in range(config.repeats):
        with tempfile.TemporaryDirectory() as folder:
            cache = PixelCache(Path(folder), data.image_size, data.resize)
            started = perf_counter()
            if broken := cache.fill(paths, sha256s, time(), progress=False):
                raise decode.decoding_error(broken)
            taken.append((perf_counter() - started) / len(table))
            size = sum(file.stat().st_size for file in cache.folder.iterdir())
    seconds = np.array(taken)
    rows = [
        {"rows": number, "decoding (s)": Spread.of(number * seconds), "disk (GB)": number * size / len(table) / 1e9}
        for number in whole_numbers(config, "rows")
    ]
    note = f"Measured on {len(table)} images of {_sizes(data.root, table)}; data.image_size={data.image_size}."
    return Table("pixel cache, extrapolated", pd.DataFrame(rows), note)
