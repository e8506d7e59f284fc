"""The LightningDataModule: a root folder → catalogue → split → pixels → batches."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from alu_defects.data import catalog, folder, pixels, similarity, splits, tianchi
from alu_defects.data.augment import Augment
from alu_defects.data.catalog import Scan
from alu_defects.data.synthetic import Options, ensure
from alu_defects.errors import UserError, did_you_mean


def _folder(root: str) -> tuple[Path, Scan]:
    path = catalog.existing_root(root)
    return path, folder.scan(path)


def _tianchi(root: str, **options: Any) -> tuple[Path, Scan]:
    path = catalog.existing_root(root)
    return path, tianchi.scan(path, **options)


def _synthetic(root: str, synthetic: Mapping[str, Any], progress: bool) -> tuple[Path, Scan]:
    path = ensure(Path(root), Options(**synthetic), progress=progress)
    return path, tianchi.scan(path, corrections=False)  # they are of photographs that may bear the same names


SOURCES: dict[str, Callable[..., tuple[Path, Scan]]] = {
    "folder": _folder,
    "tianchi": _tianchi,
    "synthetic": _synthetic,
}


class Batch(TypedDict):
    """What the loaders yield."""

    image: Tensor  # uint8 (B, 3, H, W) in channels_last; float32 in [0, 1] once augmented
    label: Tensor  # int64 (B,)
    index: Tensor  # int64 (B,): row of the catalogue


class Pictures(Dataset[Batch]):
    """Some rows of the catalogue with their pixels; hands over whole batches."""

    def __init__(self, images: pixels.UInt8, labels: np.ndarray[Any, Any], rows: np.ndarray[Any, Any]) -> None:
        self.images, self.labels, self.rows = images, labels, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, positions: list[int]) -> Batch:
        """Gather a batch; `array[indices]` of numpy is ten times faster here than `tensor[indices]`."""
        rows = self.rows[positions]
        return Batch(
            image=torch.from_numpy(self.images[rows]).permute(0, 3, 1, 2),
            label=torch.from_numpy(self.labels[rows]),
            index=torch.from_numpy(rows),
        )


class EpochSampler(Sampler[int]):
    """A permutation that depends on (seed, epoch) alone, so that a resumed run sees the order it would have seen."""

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed, self.epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        return iter(np.random.default_rng([self.seed, self.epoch]).permutation(self.length).tolist())


class DefectData(LightningDataModule):
    """Labelled photographs, divided into train, val and test, as batches of uint8 pictures.

    Args:
        source: how `root` is read: folder, tianchi or synthetic.
        root: the folder with the pictures.
        image_size: side in pixels to which the whole frame is resized.
        resize: squash or letterbox.
        batch_size: pictures a batch.
        num_workers: processes that gather batches; 0 is fastest, since the pictures are in memory already.
        split: arguments of `splits.divide`.
        augment: options of `Augment`, or None for none.
        seed: of the order of the pictures and of the augmentation.
        progress: show a progress bar while decoding.
        options: further options of the source.

    Raises:
        UserError: an option that does not exist, or a number that is out of range.
    """

    def __init__(
        self,
        *,
        source: str,
        root: str,
        image_size: int,
        resize: str = "squash",
        batch_size: int,
        num_workers: int = 0,
        split: Mapping[str, Any],
        augment: Mapping[str, Any] | None = None,
        seed: int = 0,
        progress: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("data.batch_size", batch_size, 1),
            ("data.image_size", image_size, 1),
            ("data.num_workers", num_workers, 0),
            ("seed", seed, 0),
        ):
            if value < least:
                raise UserError(f"{name}={value} must be {least} or more")
        self.source, self.source_options = source, {"root": root, **options}
        if source == "synthetic":
            self.source_options["progress"] = progress  # generating takes as long as decoding
        self.image_size, self.resize = image_size, resize
        self.batch_size, self.num_workers = batch_size, num_workers
        self.split, self.augment = dict(split), Augment(**augment) if augment else None
        self.seed, self.progress = seed, progress
        self.root = Path()
        self.found: Scan | None = None
        self.catalog: pd.DataFrame | None = None
        self.classes: list[str] = []
        self.images: pixels.UInt8 | None = None

    def scan(self) -> pd.DataFrame:
        """Make the catalogue with its split; no picture is decoded yet.

        Pictures without a class, and those with several, take no part; `unused` has them.
        """
        if self.catalog is None:
            self.root, self.found = _choose("data.source", self.source, SOURCES)(**self.source_options)
            single = self.found.table[self.found.table["label"] != ""]
            self.use(self.root, splits.divide(single, **self.split))
        assert self.catalog is not None
        return self.catalog

    @property
    def unused(self) -> pd.DataFrame:
        """The rows of the catalogue that have no class or several."""
        return pd.DataFrame() if self.found is None else self.found.table[self.found.table["label"] == ""]

    def use(self, root: Path, table: pd.DataFrame) -> None:
        """Take a catalogue that exists, such as that of a finished run; class ids follow the first appearance."""
        self.root, self.catalog = root, table.reset_index(drop=True)
        self.classes = list(self.catalog["label"].drop_duplicates())

    def class_counts(self) -> list[int]:
        """Training pictures of each class."""
        table = self.scan()
        counts = table.loc[table["split"] == "train", "label"].value_counts()
        return [int(counts[name]) for name in self.classes]

    def setup(self, stage: str) -> None:
        """Decode every picture once."""
        table = self.scan()
        if self.images is None:
            paths = [self.root / path for path in table["path"]]
            self.images = pixels.decode_all(paths, self.image_size, self.resize, self.progress)

    def near_duplicates(self) -> int:
        """Pairs of pictures that nearly repeat each other, of which one trains and the other does not."""
        assert self.images is not None
        return similarity.count_across_splits(similarity.hashes(self.images), self.scan())

    def rows(self, split: str) -> np.ndarray[Any, Any]:
        """The catalogue rows of a split."""
        return np.flatnonzero(splits.rows(self.scan(), split))

    def _loader(self, split: str) -> DataLoader[Batch]:
        assert self.images is not None
        labels = pd.Categorical(self.scan()["label"], categories=self.classes).codes.astype(np.int64)
        rows, training = self.rows(split), split == "train"
        if training:  # the catalogue is sorted by class: whoever takes the first batches alone must see all of them
            rows = np.random.default_rng(self.seed).permutation(rows)
        dataset = Pictures(self.images, labels, rows)
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=EpochSampler(len(dataset), self.seed) if training else None,
            # a rest of one picture has no variance for batch normalisation at a 1×1 feature map
            drop_last=training and len(dataset) >= self.batch_size,
            num_workers=self.num_workers,
            collate_fn=_whole_batch,
            pin_memory=torch.cuda.is_available(),
            # its own generator: the base seed of workers is then not drawn from the global one
            generator=torch.Generator().manual_seed(self.seed),
        )

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled batches of the training pictures."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Batch]:
        """Batches of the validation pictures in catalogue order."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """Batches of the test pictures in catalogue order."""
        return self._loader("test")

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augment training batches on the device."""
        assert self.trainer is not None
        if self.augment is not None and self.trainer.training:
            images = batch["image"].float().div_(255)
            epoch = self.trainer.current_epoch
            batch["image"] = self.augment(images, batch["index"], seed=self.seed, epoch=epoch)
        return batch


def _whole_batch(batch: Any) -> Any:
    """`__getitems__` has collated already; a named function, so that worker processes can be started with it."""
    return batch


def _choose(key: str, name: str, known: Mapping[str, Any]) -> Any:
    if name not in known:
        raise UserError(f"{key}={name} does not exist{did_you_mean(name, known)} There are: {', '.join(known)}")
    return known[name]
