"""Rows of the catalog → batches."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np
from torch import Tensor, tensor
from torch.utils.data import Dataset, Sampler


class Batch(TypedDict):
    """What the loaders yield."""

    # uint8 (B, 3, H, W) in channels_last; float32 in [0, 1] once augmented. Absent until the batch is on the device if
    # the pixels are there
    image: NotRequired[Tensor]
    # int64 (B,); -1 for an image of no known class; the share of each class, float32 (B, C), where images are mixed
    label: Tensor
    index: Tensor  # int64 (B,): row of the catalog
    repeat: NotRequired[Tensor]  # int64 (B,): how often an image was used before in the epoch; absent: never
    random: NotRequired[Tensor]  # float32 (B, Augment.COUNT), for training images on their way to the device
    filler: NotRequired[int]  # so many images at the end only fill the batch and must not be counted


class ImageDataset(Dataset[Batch]):
    """Some rows of the catalog, in whole batches; position n * len(self) + i is the n-th repeat of position i."""

    def __init__(self, labels: Tensor, rows: Tensor, gather: Callable[[Tensor], Tensor] | None) -> None:
        self.labels, self.rows, self.gather = labels, rows, gather

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, positions: list[int]) -> Batch:
        repeat, place = np.divmod(positions, len(self))  # -1, a filler, is the last position
        rows = self.rows[tensor(place)]
        batch = Batch(label=self.labels[rows], index=rows)
        if (repeat > 0).any():
            batch["repeat"] = tensor(repeat)
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
        return iter(self._order()[self.rank :: self.processes][: len(self)].tolist())

    def _order(self) -> np.ndarray[Any, Any]:
        """The positions of the epoch, for all processes."""
        return np.random.default_rng([self.seed, self.epoch]).permutation(self.length)


class BalancedSampler(TrainingSampler):
    """Every class equally often; of one class, all images are used before one repeats, from epoch to epoch too.

    An epoch still has as many images as there are. It depends on (seed, epoch) alone: each class is an endless row of
    permutations of its images, of which epoch n takes the part that it would have come to.

    Args:
        labels: class ids (N,), in the order of the data set.
        options: those of `TrainingSampler`.
    """

    def __init__(self, labels: Sequence[int] | np.ndarray[Any, Any], *options: Any) -> None:
        super().__init__(len(labels), *options)
        self.members = [np.flatnonzero(np.equal(labels, label)) for label in np.unique(labels)]

    def _order(self) -> np.ndarray[Any, Any]:
        number = np.arange(self.epoch * self.length, (self.epoch + 1) * self.length)  # since the first epoch
        order = np.empty_like(number)
        for k, members in enumerate(self.members):  # the classes take turns
            own = number % len(self.members) == k
            cycle, place = np.divmod(number[own] // len(self.members), len(members))
            cycles = range(cycle[0], cycle[-1] + 1)
            permutations = np.stack([np.random.default_rng([self.seed, k, c]).permutation(members) for c in cycles])
            order[own] = permutations[cycle - cycle[0], place] + (cycle - cycle[0]) * self.length
        return np.random.default_rng([self.seed, self.epoch]).permutation(order)


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
