"""Rows of the catalogue → batches."""

from collections.abc import Callable
from typing import Any, NotRequired, TypedDict

from torch import Tensor, tensor
from torch.utils.data import Dataset


class Batch(TypedDict):
    """What the loaders yield."""

    # uint8 (B, 3, H, W) in channels_last; float32 in [0, 1] once augmented. Absent until the batch is on the device if
    # the pixels are there
    image: NotRequired[Tensor]
    label: Tensor  # int64 (B,)
    index: Tensor  # int64 (B,): row of the catalogue
    random: NotRequired[Tensor]  # float32 (B, Augment.COUNT), for training pictures on their way to the device
    filler: NotRequired[int]  # so many at the end only make up the number, and are not to be counted


class Pictures(Dataset[Batch]):
    """Some rows of the catalogue; hands over whole batches."""

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


def whole_batch(batch: Any) -> Any:
    """`__getitems__` has collated already; a named function, so that worker processes can be started with it."""
    return batch
