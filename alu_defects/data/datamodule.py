"""The LightningDataModule: root folder → catalog → split → pixels → batches."""

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Sampler

from alu_defects import signals
from alu_defects.config import Size, read_size, size_text
from alu_defects.data import (
    bit_depth,
    catalog,
    decode,
    duplicates,
    grouping,
    hashes,
    leakage,
    similarity,
    sources,
    splits,
)
from alu_defects.data.augment import Augment, as_float, augmentation_numbers
from alu_defects.data.cache import DEVICE_FRACTION, CachedPixels, DecodeOnDemand, PixelCache
from alu_defects.data.catalog import EXCLUDED_COLUMNS, FoundImages, Root
from alu_defects.data.files import Reason
from alu_defects.data.loading import (
    BalancedSampler,
    Batch,
    EvaluationSampler,
    ImageDataset,
    TrainingSampler,
    return_batch,
)
from alu_defects.errors import UserError, check_choice

log = logging.getLogger(__name__)

PREDICT_SPLITS = ("val", "test", splits.NEW, "all")
ON_BROKEN_FIX = ", or train without them (data.on_broken=exclude)"


class DefectData(LightningDataModule):
    """Images split into train, val and test, as batches of uint8 pixels.

    Training, evaluation and prediction call `prepare_data` first; after that the data can be given to a trainer, and
    sent to other processes, where nothing is listed or decoded again.

    Args:
        source: how the images are found, of `sources.SOURCES`: folder, table, tianchi, synthetic or surfaces.
        root: the folder of the images, or several for folder and table.
        image_size: height and width in pixels to which the whole frame is resized, or one number for both; `auto` is
            chosen by `decode.choose_size` when it is first asked for.
        resize: `squash` or `letterbox`, see `decode.decode`.
        bits: what 16-bit images use of their bits, of `decode.BITS`, or `auto`, see `bit_depth.choose_bits`.
        max_pixels: that an image may have; one with more counts as one that cannot be decoded.
        cache: where decoded pixels are kept: `disk` maps a file below `cache_dir` into memory, `memory` and `device`
            read it into that of the machine or the GPU, `none` decodes in every epoch, and `auto` is device where they
            fit into a quarter of a GPU's free memory, else disk.
        num_workers: processes that gather batches; `auto` is 0, since they would only copy pixels that are decoded, and
            one a core with `cache=none`.
        sampler: `shuffle`, or `balanced`: every class equally often in training, see `BalancedSampler`.
        group: what makes images a session, of which a split keeps the images together, see `grouping.find_groups`.
        split: further arguments of `splits.split_catalog`. Empty: nothing is split, and all images are in the catalog,
            those without a class too; for prediction, and where `set_catalog` gives a catalog.
        augment: options of `Augment`, or None for none.
        seed: of the order of the images and of the augmentation.
        on_broken: `error` refuses images that cannot be decoded, `exclude` excludes them, and the others stay in their
            split. A file that cannot even be read is always an error.
        remember_hashes: files that have kept size and times since they were hashed are not hashed again, see `hashes`.
        options: further options of the source.

    Raises:
        UserError: an option that does not exist, or two that exclude each other. Ranges: `config.ALLOWED`.
    """

    def __init__(
        self,
        *,
        source: str,
        root: str | Sequence[str] | None,
        image_size: int | Sequence[int] | str,
        resize: str = "squash",
        bits: int | str = "auto",
        max_pixels: int = decode.MAX_PIXELS,
        cache: str = "auto",
        cache_dir: str = "~/.cache/alu_defects/pixels",
        batch_size: int,
        num_workers: int | str = "auto",
        sampler: str = "shuffle",
        group: str = "auto",
        split: Mapping[str, Any],
        augment: Mapping[str, Any] | None = None,
        seed: int = 0,
        progress: bool = True,
        on_broken: str = "error",
        remember_hashes: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        bit_depth.check_bits(bits)
        if on_broken == "exclude" and cache == "none":
            raise UserError(
                "data.on_broken=exclude needs images that are decoded before the training starts; "
                "with data.cache=none they are not. Take data.cache=auto or data.on_broken=error"
            )
        if num_workers == "auto":
            num_workers = joblib.cpu_count() if cache == "none" else 0
        assert isinstance(num_workers, int)
        self.source, self.source_options = source, {"root": root, **options}
        if source in sources.GENERATED:
            self.source_options["progress"] = progress
        sources.check_source_options(source, self.source_options)
        if split:
            splits.check_split_options(**split)
        self._image_size = None if isinstance(image_size, str) else read_size(image_size)
        self.resize, self.bits, self.max_pixels = resize, bits, max_pixels
        self.cache, self.cache_dir = cache, Path(str(cache_dir))
        self.batch_size, self.num_workers, self.sampler = batch_size, num_workers, sampler
        self.group = str(group)
        self.split, self.augment = dict(split), Augment(**augment) if augment else None
        self.seed, self.progress, self.on_broken = seed, progress, on_broken
        self.first_epoch = 0  # above 0 for a run that continues
        self.predict_split = "test"  # what `predict_dataloader` serves, of `PREDICT_SPLITS`; all: the whole catalog
        self.root: Root = Path()
        self.notes: tuple[str, ...] = ()  # warnings about the split, for every report; complete once it is checked
        # what is not in the catalog; complete once the images are prepared
        self.excluded = pd.DataFrame(columns=list(EXCLUDED_COLUMNS), dtype=str)
        self.found: FoundImages | None = None  # None while they are not listed, and of a catalog that was given
        self.classes: list[str] = []  # in the order of their ids
        self.pixels: CachedPixels | DecodeOnDemand | None = None  # in the order of the catalog, once prepared
        self._catalog: pd.DataFrame | None = None
        self._hashes_folder = self.cache_dir if remember_hashes else None
        # Files are hashed later than this; or they were as they had been when they were hashed. What changes after it,
        # changes a time that is later, too.
        self._since = time.time()
        self._hashes: decode.UInt8 | None = None
        self._datasets: dict[str, ImageDataset] = {}

    @property
    def image_size(self) -> Size:
        """Height and width of the frame in pixels."""
        return self._image_size or self.choose_image_size([self.root / path for path in self.catalog["path"]])

    def choose_image_size(self, files: Sequence[Path]) -> Size:
        """The frame, chosen by the shape of these images where `image_size` is auto."""
        if self._image_size is None:
            self._image_size = decode.choose_size(files, self.max_pixels)
            log.info("data.image_size=%s by the shape of the images", size_text(self._image_size))
        return self._image_size

    @property
    def catalog(self) -> pd.DataFrame:
        """The catalog, made when it is first asked for; to be split, images must have one class.

        Images are decoded only to find those that look alike, with `group` similar or auto and no times, and once: the
        next time the groups are known.

        Raises:
            UserError: images that cannot be read, trained on or split.
        """
        if self._catalog is None:
            with self.remember_hashes():
                self.root, self.found = sources.find_images(self.source, self.source_options)
            table, self.excluded = self.found.table, self.found.excluded
            broken = self.excluded[self.excluded["reason"] == Reason.BROKEN]
            if self.on_broken == "error" and len(broken):  # dead links; others show when they are decoded
                errors = [(self.root / path, OSError(detail)) for path, detail in broken[["path", "detail"]].to_numpy()]
                raise decode.decoding_error(errors, ON_BROKEN_FIX)
            if self.split:
                sources.check_trainable(self.source, self.root, table)
                for doubt in catalog.doubts_about_classes(table):
                    log.warning("%s", doubt)
                others = table[table["label"] == ""].drop(columns="label").rename(columns={"labels": "label"})
                self._exclude(others[others["label"] != ""], Reason.SEVERAL_CLASSES)
                self._exclude(others[others["label"] == ""], Reason.NO_CLASS)
                table = splits.split_catalog(
                    table[table["label"] != ""], group=self.group, find_similar=self.find_similar, **self.split
                )
                self._describe_groups(table)
            self.set_catalog(self.root, table)
        assert self._catalog is not None
        return self._catalog

    def remember_hashes(self) -> AbstractContextManager[None]:
        """Inside, files are hashed as for the catalog: with the hashes of earlier starts, and a progress bar."""
        return hashes.remember_hashes(self._hashes_folder, progress=self.progress)

    def set_catalog(
        self, root: Root, table: pd.DataFrame, classes: Sequence[str] | None = None, notes: Sequence[str] | None = None
    ) -> None:
        """Take a catalog whose files, below `root`, are known to be unchanged.

        `classes` are those of a trained model, in the order of their ids; None: those of the catalog as they appear in
        it. Images with a label that is no class have the class id -1. `notes` are those of its split.
        """
        self.notes = self.notes if notes is None else tuple(notes)
        self.root, self._catalog = root, table.reset_index(drop=True)
        self.classes = [name for name in (self._catalog["label"].unique() if classes is None else classes) if name]

    def find_similar(self, table: pd.DataFrame) -> npt.NDArray[np.int64]:
        """Number the rows of a catalog so that near-duplicates have the same number, int64 (rows,).

        Above `similarity.MANY_IMAGES` that takes minutes, which a split that does not keep them together is not worth:
        each image is then alone.
        """
        ignored = self.split and not splits.keeps_groups(self.split["name"], table, self.split)
        if ignored and len(table) > similarity.MANY_IMAGES:
            log.warning("split=%s: near-duplicates among %d images are not looked for", self.split["name"], len(table))
            return np.arange(len(table))
        paths = [self.root / path for path in table["path"]]
        sha256s = table["sha256"].to_list()
        known, limit = (self.cache_dir, paths, sha256s, self._since), self.max_pixels
        return similarity.find_groups(*known, max_pixels=limit, progress=self.progress)

    def _describe_groups(self, table: pd.DataFrame) -> None:
        """Say how the images are grouped, and whether the split cuts groups."""
        text = grouping.describe(table, self.group)
        log.info("%s", text)
        if cut := splits.count_cut_groups(table):
            name = splits.resolve(self.split["name"], table)
            self.notes = (f"split={name} does not keep groups together: {cut} are in several splits; {text}",)
            log.warning("%s", self.notes[0])

    def _exclude(self, rows: pd.DataFrame, reason: Reason) -> None:
        """Add rows of a catalog to the excluded images."""
        rows = rows.assign(reason=reason.value).reindex(columns=list(EXCLUDED_COLUMNS), fill_value="")
        self.excluded = pd.concat([self.excluded, rows], ignore_index=True)

    def class_counts(self, split: str = "train") -> list[int]:
        """Images of each class in train, val or test."""
        counts = self.catalog["label"].iloc[self.find_rows(split)].value_counts()
        return [int(counts.get(name, 0)) for name in self.classes]

    def prepare_data(self) -> None:
        """List, split and decode the images that no run has decoded before; does nothing when called again.

        Raises:
            UserError: images that cannot be decoded, all of them named; or, with `on_broken=exclude`, nothing left of
                a class in a split.
        """
        if self.pixels is not None:
            return
        table = self.catalog
        paths, sha256s = [self.root / path for path in table["path"]], table["sha256"].to_list()
        cached = set(PixelCache(self.cache_dir, self.image_size, self.resize).find_cached(sha256s))
        others = [i for i, sha256 in enumerate(sha256s) if sha256 not in cached]  # images of 8 bits alone are in there
        deep = [others[i] for i in bit_depth.find_16_bit([paths[i] for i in others])]
        known = [paths[i] for i in deep], [sha256s[i] for i in deep], self._since, self.cache_dir
        self.bits = bit_depth.choose_bits(self.bits, *known, max_pixels=self.max_pixels, progress=self.progress)
        if self.cache == "none":
            files, how = (paths, sha256s, self._since), (self.image_size, self.resize)
            self.pixels = DecodeOnDemand(*files, *how, bits=self.bits, max_pixels=self.max_pixels)
            return
        used_bits = self.bits if deep else None
        cache = PixelCache(self.cache_dir, self.image_size, self.resize, used_bits, self.max_pixels)
        broken = cache.fill(paths, sha256s, self._since, progress=self.progress)
        if broken and self.on_broken == "error":
            raise decode.decoding_error(broken, ON_BROKEN_FIX)
        if unreadable := [(path, e) for path, e in broken if isinstance(e, decode.UnreadableError)]:
            raise decode.decoding_error(unreadable)
        if broken:
            self._exclude_broken(broken)
        rows = cache.find_rows(self.catalog["sha256"].to_list())
        self.pixels = CachedPixels(cache.pixels_file, self.image_size, torch.from_numpy(rows))
        self._hashes = cache.hashes(rows)

    def _exclude_broken(self, broken: Sequence[tuple[Path, Exception]]) -> None:
        """Take images out of the catalog; the others stay in their split."""
        errors = {path: f"{type(e).__name__}: {e}" for path, e in broken}
        files = self.catalog["path"].map(lambda path: self.root / path)
        table = self.catalog.assign(detail=files.map(errors))
        lost, kept = table[table["detail"].notna()], table[table["detail"].isna()].drop(columns="detail")
        if self.split:
            splits.check_classes(kept, self.classes, "(those that can be decoded); replace broken ones")
        self._exclude(lost, Reason.BROKEN)
        self.set_catalog(self.root, kept, self.classes)
        path, error = lost[["path", "detail"]].iloc[0]
        log.warning("excluded: %d × %s, such as %s (%s)", len(lost), Reason.BROKEN, path, error)

    def setup(self, stage: str) -> None:
        """Make the data sets of a stage (fit, validate, test or predict), with the pixels where the trainer needs them.

        Raises:
            UserError: what `prepare_data` refuses, pixels that do not fit, or a wrong `predict_split`.
        """
        self.prepare_data()  # Lightning does so in one process of each machine only
        if self.trainer is not None:
            self.move_pixels(self.trainer.strategy.root_device)
        check_choice("predict_split", self.predict_split, PREDICT_SPLITS)
        stages = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": (self.predict_split,)}
        self._datasets |= {split: self._dataset(split) for split in stages[stage]}

    def move_pixels(self, device: torch.device) -> None:
        """Move decoded pixels to where `cache` wants them for a network on that device; `setup` must follow."""
        if not isinstance(self.pixels, CachedPixels):
            return
        fits = device.type == "cuda" and self.pixels.nbytes <= DEVICE_FRACTION * torch.cuda.mem_get_info(device)[0]
        if self.cache == "device" or (self.cache == "auto" and fits):
            self.pixels.load(device)
        elif self.cache == "memory":
            self.pixels.load(torch.device("cpu"))

    def read_images(self, rows: np.ndarray[Any, Any]) -> decode.UInt8:
        """The images in some rows of the catalog, uint8 (N, H, W, 3)."""
        assert self.pixels is not None
        index = torch.tensor(rows, device=self.pixels.device)  # a copy: pandas gives read-only rows
        images = self.pixels.gather(index)
        return np.asarray(images.permute(0, 2, 3, 1).cpu())

    def find_near_duplicates(self) -> leakage.NearDuplicates | None:
        """Near-duplicates of which one trains and the other does not; many are noted in `notes`.

        None with `cache=none`, where it would take an epoch of decoding, and above `duplicates.MAX_IMAGES_PER_RUN`.
        """
        if self._hashes is None or len(self._hashes) > duplicates.MAX_IMAGES_PER_RUN:
            return None
        pairs = duplicates.find_pairs(self._hashes, duplicates.MAX_HASH_DISTANCE)
        found = leakage.NearDuplicates.count(pairs, self.catalog)
        self.notes += (found.sentence(),) * found.are_many
        return found

    def find_near_duplicates_of(self, sha256s: Sequence[str]) -> tuple[np.ndarray[Any, Any], int] | None:
        """Which images look like some others, of which the pixel cache knows the hashes.

        Args:
            sha256s: hashes of the content of the others.

        Returns:
            Whether each image of the catalog, (N,), is a near-duplicate of one of them, and of how many of them the
            perceptual hash is known. None as in `find_near_duplicates`.
        """
        if self._hashes is None:
            return None
        cache = PixelCache(self.cache_dir, self.image_size, self.resize)
        found = cache.hashes(cache.find_rows(known := cache.find_cached(sha256s)))
        if len(self._hashes) + len(known) > duplicates.MAX_IMAGES_PER_RUN:
            return None
        return duplicates.find_near_duplicates_of(self._hashes, found), len(known)

    def find_rows(self, split: str) -> np.ndarray[Any, Any]:
        """The rows of the catalog in train, val or test, or with `all` every one."""
        return np.arange(len(self.catalog)) if split == "all" else np.flatnonzero(splits.in_split(self.catalog, split))

    def _dataset(self, split: str) -> ImageDataset:
        assert self.pixels is not None
        # -1 for what is none of the classes
        labels = pd.Categorical(self.catalog["label"], categories=self.classes).codes.astype(np.int64)
        # the catalog is sorted by class: whoever takes the first batches alone must see all of them; in evaluations
        # the same ones for every seed, or their scores could not be compared
        rows = np.random.default_rng(self.seed if split == "train" else 0).permutation(self.find_rows(split))
        gather = self.pixels.gather if self.pixels.device.type == "cpu" else None
        return ImageDataset(torch.from_numpy(labels), torch.from_numpy(rows), gather)

    def _loader(self, split: str) -> DataLoader[Batch]:
        dataset, training = self._datasets[split], split == "train"
        # Lightning's own samplers for several processes evaluate some images twice
        rank, processes = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        sampler: Sampler[int] | None = EvaluationSampler(len(dataset), rank, processes) if processes > 1 else None
        if training:
            order = self.seed, self.first_epoch, rank, processes
            balanced = self.sampler == "balanced"
            labels = dataset.labels[dataset.rows].numpy()
            sampler = BalancedSampler(labels, *order) if balanced else TrainingSampler(len(dataset), *order)
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
        """Batches of the training images, as `sampler` draws them."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Batch]:
        """Batches of the validation images, in an order that is always the same."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """Batches of the test images, in an order that is always the same."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Batches of the images of `predict_split`, as `val_dataloader` and `test_dataloader` serve them."""
        return self._loader(self.predict_split)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Draw the random numbers of training batches while the index is still in the memory of the processor."""
        assert self.trainer is not None
        if self.augment is not None and self.trainer.training:
            self.draw_numbers(batch, self.trainer.current_epoch)
        return batch

    def draw_numbers(self, batch: Batch, epoch: int) -> None:
        """Add the random numbers of its augmentation to a training batch."""
        repeat = batch.pop("repeat", None)
        batch["random"] = augmentation_numbers(self.seed, epoch, batch["index"], Augment.COUNT, repeat)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Gather pixels that are on the device, and augment training batches there."""
        if "image" not in batch:
            assert self.pixels is not None
            batch["image"] = self.pixels.gather(batch["index"])
        if self.augment is not None and "random" in batch:
            images = self.augment(as_float(batch["image"]), batch.pop("random"))
            batch["image"], batch["label"] = self.augment.mix(images, batch["label"], len(self.classes))
        return batch
