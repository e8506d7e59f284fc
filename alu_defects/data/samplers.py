"""Which pictures in which order: of an epoch, and of one of several processes."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


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


class Share(Sampler[int]):
    """Every n-th picture, for one of several processes that evaluate.

    They must run the same number of batches; where pictures lack for that, there stands -1.
    """

    def __init__(self, length: int, rank: int, processes: int) -> None:
        self.length, self.rank, self.processes = length, rank, processes

    def __len__(self) -> int:
        return math.ceil(self.length / self.processes)

    def __iter__(self) -> Iterator[int]:
        own = range(self.rank, self.length, self.processes)
        return itertools.chain(own, itertools.repeat(-1, len(self) - len(own)))
