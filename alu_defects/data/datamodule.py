"""The LightningDataModule: a root folder → catalog → split → pixels → batches."""

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Sampler

from alu_defects import signals
from alu_defects.data import bit_depth, decode, similarity, sources, splits
from alu_defects.data.augment import Augment, as_float, uniforms
from alu_defects.data.cache import CACHES, DEVICE_FRACTION, CachedPixels, DecodeOnDemand, PixelCache
from alu_defects.data.catalog import Scan
from alu_defects.data.loading import Batch, EpochSampler, ImageDataset, ShardSampler, return_batch
from alu_defects.errors import UserError, check_choice

log = logging.getLogger(__name__)

ON_BROKEN = ("error", "exclude")


class DefectData(LightningDataModule):
    """Labelled photographs, divided into train, val and test, as batches of uint8 images.

    Args:
        source: how `root` is read: folder, tianchi or synthetic.
        root: the folder with the images.
        image_size: side in pixels to which the whole frame is resized.
        resize: squash or letterbox.
        bits: what 16-bit images use of their bits, of `pixels.BITS`, or `auto`, see `bit_depth.choose_bits`.
        cache: where decoded pixels are kept: `disk` maps a file into memory, `memory` and `device` read it into that
            of the machine or the GPU, `none` decodes in every epoch, and `auto` is device where they fit into a quarter
            of a GPU's free memory, else disk.
        cache_dir: the folder of that file, for all data sets.
        batch_size: images a batch.
        num_workers: processes that gather batches; `auto` is 0, since they would only copy pixels that are decoded, and
            one a core with `cache=none`.
        split: arguments of `splits.split_catalog`; empty where `use` gives a catalog that has its split.
        augment: options of `Augment`, or None for none.
        seed: of the order of the images and of the augmentation.
        progress: show a progress bar while decoding.
        on_broken: what to do with images that cannot be decoded: `error` refuses to continue, `exclude` leaves them out,
            and `broken` names them; the others stay in the parts of the split where they are. One that cannot even be
            read is always an error.
        options: further options of the source.

    Attributes:
        bits: a number once the images are set up.
        first_epoch: of the training; above 0 for a run that continues.

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
        bits: int | str = "auto",
        cache: str = "auto",
        cache_dir: str = "~/.cache/alu_defects/pixels",
        batch_size: int,
        num_workers: int | str = "auto",
        split: Mapping[str, Any],
        augment: Mapping[str, Any] | None = None,
        seed: int = 0,
        progress: bool = True,
        on_broken: str = "error",
        **options: Any,
    ) -> None:
        super().__init__()
        check_choice("data.resize", resize, decode.RESIZES)
        bit_depth.check_bits(bits)
        check_choice("data.cache", cache, CACHES)
        check_choice("data.on_broken", on_broken, ON_BROKEN)
        if on_broken == "exclude" and cache == "none":
            raise UserError(
                "data.on_broken=exclude needs images that are decoded before the training starts; "
                "with data.cache=none they are not. Take data.cache=auto or data.on_broken=error"
            )
        if num_workers == "auto":
            num_workers = joblib.cpu_count() if cache == "none" else 0
        if not isinstance(num_workers, int):
            raise UserError(f"data.num_workers={num_workers} is not a whole number or auto")
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
        sources.check_source_options(source, self.source_options)
        if split:
            splits.check_split_options(**split)
        self.image_size, self.resize, self.bits = image_size, resize, bits
        self.cache, self.cache_dir = cache, Path(str(cache_dir))
        self.batch_size, self.num_workers = batch_size, num_workers
        self.split, self.augment = dict(split), Augment(**augment) if augment else None
        self.seed, self.progress, self.on_broken = seed, progress, on_broken
        self.first_epoch = 0
        self.predict_split = "test"
        self.root = Path()
        self._since = time.time()  # files are hashed later than this
        self.found: Scan | None = None
        self._catalog: pd.DataFrame | None = None
        self.broken = pd.DataFrame(columns=["path", "label", "split", "reason"])
        self.classes: list[str] = []
        self.store: CachedPixels | DecodeOnDemand | None = None
        self._hashes: decode.UInt8 | None = None

    @property
    def catalog(self) -> pd.DataFrame:
        """Make the catalog with its split; no image is decoded yet.

        Images without a class, and those with several, take no part; `unused` has them.
        """
        if self._catalog is None:
            self.root, self.found = sources.read_source(self.source, self.source_options)
            single = self.found.table[self.found.table["label"] != ""]
            self.use(self.root, splits.split_catalog(single, **self.split))
        assert self._catalog is not None
        return self._catalog

    @property
    def unused(self) -> pd.DataFrame:
        """The rows of the catalog that have no class or several."""
        return pd.DataFrame() if self.found is None else self.found.table[self.found.table["label"] == ""]

    def use(self, root: Path, table: pd.DataFrame) -> None:
        """Take a catalog whose files are known to be unchanged; class ids follow the first appearance."""
        self.root, self._catalog = root, table.reset_index(drop=True)
        self.classes = list(self._catalog["label"].drop_duplicates())

    def class_counts(self) -> list[int]:
        """Training images of each class."""
        table = self.catalog
        counts = table.loc[table["split"] == "train", "label"].value_counts()
        return [int(counts[name]) for name in self.classes]

    def setup(self, stage: str) -> None:
        """Decode every image that no run has decoded before; for a trainer, move the pixels where it needs them.

        Raises:
            UserError: images that cannot be decoded, all of them named; or, with `on_broken=exclude`, nothing left of
                what is to be trained on or evaluated.
        """
        table = self.catalog
        if self.store is None:
            paths, sha256s = [self.root / path for path in table["path"]], table["sha256"].to_list()
            deep = bit_depth.find_16_bit(paths)
            known = [paths[i] for i in deep], [sha256s[i] for i in deep], self._since, self.cache_dir
            self.bits = bit_depth.choose_bits(self.bits, *known, progress=self.progress)
            if self.cache == "none":
                self.store = DecodeOnDemand(paths, sha256s, self._since, self.image_size, self.resize, bits=self.bits)
            else:
                cache = PixelCache(self.cache_dir, self.image_size, self.resize, self.bits if deep else None)
                broken = cache.fill(paths, sha256s, self._since, progress=self.progress)
                if broken and self.on_broken == "error":
                    raise decode.decoding_error(broken, ", or train without them (data.on_broken=exclude)")
                if unreadable := [(path, e) for path, e in broken if isinstance(e, decode.UnreadableError)]:
                    raise decode.decoding_error(unreadable)
                if broken:
                    self._exclude(broken)
                    sha256s = self.catalog["sha256"].to_list()
                rows = cache.rows(sha256s)
                self.store, self._hashes = (
                    CachedPixels(cache.pixels_file, self.image_size, torch.from_numpy(rows)),
                    cache.hashes(rows),
                )
        if self.trainer is not None:
            self.place(self.trainer.strategy.root_device)

    def _exclude(self, broken: Sequence[tuple[Path, Exception]]) -> None:
        """Leave images out; the others stay in their parts of the split."""
        table = self.catalog
        reasons = {path.relative_to(self.root).as_posix(): f"{type(e).__name__}: {e}" for path, e in broken}
        found = table["path"].map(reasons)
        self.broken = table.loc[found.notna(), ["path", "label", "split"]].assign(reason=found.dropna())
        splits.check_classes(table[found.isna()], self.classes, "those that can be decoded; replace broken ones")
        self.use(self.root, table[found.isna()])
        path, reason = self.broken[["path", "reason"]].iloc[0]
        log.warning("excluded: %d × cannot be decoded, such as %s (%s)", len(self.broken), path, reason)

    def place(self, device: torch.device) -> None:
        """Move decoded pixels to where `cache` wants them for a network on that device."""
        if not isinstance(self.store, CachedPixels):
            return
        fits = device.type == "cuda" and self.store.nbytes <= DEVICE_FRACTION * torch.cuda.mem_get_info(device)[0]
        if self.cache == "device" or (self.cache == "auto" and fits):
            self.store.load(device)
        elif self.cache == "memory":
            self.store.load(torch.device("cpu"))

    def images(self, index: np.ndarray[Any, Any]) -> decode.UInt8:
        """Some images of the catalog, uint8 (N, H, W, 3)."""
        assert self.store is not None
        images = self.store.gather(torch.from_numpy(index).to(self.store.device))
        return np.asarray(images.permute(0, 2, 3, 1).cpu())

    def near_duplicates(self) -> int | None:
        """Pairs of images that nearly repeat each other, of which one trains and the other does not.

        None with `cache=none`, where it would take an epoch of decoding, and for more than `similarity.MAX_IMAGES_PER_RUN` images.
        """
        if self._hashes is None or len(self._hashes) > similarity.MAX_IMAGES_PER_RUN:
            return None
        return similarity.count_across_splits(self._hashes, self.catalog)

    def rows(self, split: str) -> np.ndarray[Any, Any]:
        """The catalog rows of a split."""
        return np.flatnonzero(splits.in_split(self.catalog, split))

    def _loader(self, split: str) -> DataLoader[Batch]:
        assert self.store is not None
        labels = pd.Categorical(self.catalog["label"], categories=self.classes).codes.astype(np.int64)
        rows, training = self.rows(split), split == "train"
        # the catalog is sorted by class: whoever takes the first batches alone must see all of them; in evaluations
        # the same ones for every seed, or their scores could not be compared
        rows = np.random.default_rng(self.seed if training else 0).permutation(rows)
        on_cpu = self.store.device.type == "cpu"
        dataset = ImageDataset(torch.from_numpy(labels), torch.from_numpy(rows), self.store.gather if on_cpu else None)
        # Lightning's own samplers for several processes evaluate some images twice
        rank, processes = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        sampler: Sampler[int] | None = ShardSampler(len(dataset), rank, processes) if processes > 1 else None
        if training:
            sampler = EpochSampler(len(dataset), self.seed, self.first_epoch, rank, processes)
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            # a rest of one image has no variance for batch normalisation at a 1×1 feature map
            drop_last=training and len(dataset) // processes >= self.batch_size,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,  # starting them takes as long as a short epoch
            collate_fn=return_batch,
            worker_init_fn=signals.leave_to_main_process,
            pin_memory=torch.cuda.is_available(),
            # its own generator: the base seed of workers is then not drawn from the global one
            generator=torch.Generator().manual_seed(self.seed),
        )

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled batches of the training images."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Batch]:
        """Batches of the validation images, in an order that is always the same."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """Batches of the test images, in an order that is always the same."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Batches of `predict_split`, val or test, in an order that is always the same."""
        return self._loader(self.predict_split)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Draw the random numbers of training batches, while the index is where the processor can read it."""
        assert self.trainer is not None
        if self.augment is not None and self.trainer.training:
            epoch = self.trainer.current_epoch
            batch["random"] = uniforms(self.seed, epoch, batch["index"], Augment.COUNT)
        return batch

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Gather pixels that are on the device, and augment training batches there."""
        if "image" not in batch:
            assert self.store is not None
            batch["image"] = self.store.gather(batch["index"])
        if self.augment is not None and "random" in batch:
            batch["image"] = self.augment(as_float(batch["image"]), batch.pop("random"))
        return batch
