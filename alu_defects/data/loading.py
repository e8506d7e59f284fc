"""Rows of the catalog → batches."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NotRequired, TypedDict

import numpy as np
from torch import Tensor, tensor
from torch.utils.data import Dataset, Sampler


class Batch(TypedDict):
    """What the loaders yield."""

    # uint8 (B, 3, H, W) in channels_last; float32 in [0, 1] once augmented. Absent until the batch is on the device if
    # the pixels are there
    image: NotRequired[Tensor]
    label: Tensor  # int64 (B,); -1 for an image of no known class
    index: Tensor  # int64 (B,): row of the catalog
    random: NotRequired[Tensor]  # float32 (B, Augment.COUNT), for training images on their way to the device
    filler: NotRequired[int]  # so many images at the end only fill the batch and must not be counted


class ImageDataset(Dataset[Batch]):
    """Some rows of the catalog, in whole batches."""

    def __init__(self, labels: Tensor, rows: Tensor, gather: Callable[[Tensor], Tensor] | None) -> None:
        self.labels, self.rows, self.gather = labels, rows, gather

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, positions: list[int]) -> Batch:
        rows = self.rows[tensor(positions)]
        batch = Batch(label=self.labels[rows], index=rows)
        if filler := positions.count(-1):
            batch["filler"] = filler
        if self.gather:
            batch["image"] = self.gather(rows)
        return batch


def return_batch(batch: Any) -> Any:
    """The `collate_fn`: `__getitems__` has made the batch. No lambda: worker processes must be able to import it."""
    return batch


class TrainingSampler(Sampler[int]):
    """Shuffles by (seed, epoch) alone, so that a resumed run has the order that it would have had.

    Of n processes each gets every n-th image; all get the same number, since their gradients are averaged.
    """

    def __init__(self, length: int, seed: int, epoch: int = 0, rank: int = 0, processes: int = 1) -> None:
        self.length, self.seed, self.epoch = length, seed, epoch
        self.rank, self.processes = rank, processes

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch, but after worker processes have begun the first one."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length // self.processes

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        return iter(order[self.rank :: self.processes][: len(self)].tolist())


class EvaluationSampler(Sampler[int]):
    """Every n-th image, for one of n processes that evaluate.

    All must run the same number of batches: -1 stands for a missing image.
    """

    def __init__(self, length: int, rank: int, processes: int) -> None:
        self.length, self.rank, self.processes = length, rank, processes

    def __len__(self) -> int:
        return math.ceil(self.length / self.processes)

    def __iter__(self) -> Iterator[int]:
        own = range(self.rank, self.length, self.processes)
        return itertools.chain(own, itertools.repeat(-1, len(self) - len(own)))
