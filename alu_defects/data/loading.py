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
    label: Tensor  # int64 (B,)
    index: Tensor  # int64 (B,): row of the catalog
    random: NotRequired[Tensor]  # float32 (B, Augment.COUNT), for training images on their way to the device
    filler: NotRequired[int]  # so many at the end only make up the number, and are not to be counted


class ImageDataset(Dataset[Batch]):
    """Some rows of the catalog; hands over whole batches."""

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
    """`__getitems__` has collated already; a named function, so that worker processes can be started with it."""
    return batch


class EpochSampler(Sampler[int]):
    """A permutation that depends on (seed, epoch) alone, so that a resumed run sees the order it would have seen.

    Of several processes each takes every n-th; all of them the same number, as their gradients are averaged.
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


class ShardSampler(Sampler[int]):
    """Every n-th image, for one of several processes that evaluate.

    They must run the same number of batches; where images lack for that, there stands -1.
    """

    def __init__(self, length: int, rank: int, processes: int) -> None:
        self.length, self.rank, self.processes = length, rank, processes

    def __len__(self) -> int:
        return math.ceil(self.length / self.processes)

    def __iter__(self) -> Iterator[int]:
        own = range(self.rank, self.length, self.processes)
        return itertools.chain(own, itertools.repeat(-1, len(self) - len(own)))
