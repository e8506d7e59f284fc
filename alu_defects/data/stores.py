"""Where batches get their pixels: decoded ones on the disk, in memory or on the device, or the files themselves."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alu_defects.data import pixels
from alu_defects.errors import UserError

CACHES = ("auto", "device", "memory", "disk", "none")
DEVICE_FRACTION = 0.25  # of the free memory of a GPU that pixels take at most by themselves; the network needs the rest


class Decoded:
    """Pictures of a pixel cache.

    Args:
        file: uint8 (R, size, size, 3).
        size: side in pixels.
        rows: int64 (N,), where in the file each picture is.
    """

    def __init__(self, file: Path, size: int, rows: Tensor) -> None:
        self.file, self.size, self.rows = file, size, rows
        shape = (file.stat().st_size // (3 * size**2), size, size, 3)
        with warnings.catch_warnings():  # PyTorch knows no read-only memory; nothing here writes
            warnings.simplefilter("ignore")
            # not a private mapping that may be written: the system would have to reserve memory for all of it
            self.images = torch.from_numpy(np.memmap(file, np.uint8, "r", shape=shape))
        self._positions: Tensor | None = rows  # in `images`; None: the pictures are there in their order

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process it is mapped anew, instead of being copied."""
        return Decoded, (self.file, self.size, self.rows)

    @property
    def device(self) -> torch.device:
        """Where `gather` takes its index and puts its pictures."""
        return self.images.device

    @property
    def nbytes(self) -> int:
        """Of the pictures."""
        return len(self.rows) * self.images[0].numel()

    def load(self, device: torch.device) -> None:
        """Copy the pictures from the disk into the memory of a device.

        Raises:
            UserError: they do not fit.
        """
        if self._positions is None and self.device == device:
            return
        try:
            _check_memory(self.nbytes, device)
            loaded = torch.empty((len(self.rows), self.size, self.size, 3), dtype=torch.uint8, device=device)
            for start in range(0, len(self.rows), 256):
                part = torch.arange(start, min(start + 256, len(self.rows)), device=self.device)
                loaded[start : start + 256] = self.gather(part).permute(0, 2, 3, 1)
        except torch.OutOfMemoryError as error:
            raise _too_large(self.nbytes, str(device), None) from error
        self.images, self._positions = loaded, None

    def gather(self, index: Tensor) -> Tensor:
        """The pictures of an index (B,): uint8 (B, 3, size, size) in channels_last.

        `tensor[index]` was seven times slower and numpy's `array[index]` two times.
        """
        rows = index if self._positions is None else self._positions.index_select(0, index)
        return self.images.index_select(0, rows).permute(0, 3, 1, 2)


class Files:
    """Pictures that are decoded whenever they are asked for: more than the disk has room for."""

    device = torch.device("cpu")

    def __init__(
        self, paths: Sequence[Path], sha256s: Sequence[str], since: float, size: int, resize: str, *, bits: int
    ) -> None:
        self.paths, self.sha256s, self.since = paths, sha256s, since
        self.size, self.resize, self.bits = size, resize, bits

    def gather(self, index: Tensor) -> Tensor:
        """The pictures of an index (B,): uint8 (B, 3, size, size) in channels_last.

        Raises:
            UserError: some cannot be decoded.
        """
        chosen = index.tolist()
        if not chosen:
            return torch.empty((0, 3, self.size, self.size), dtype=torch.uint8)
        paths, sha256s = [self.paths[i] for i in chosen], [self.sha256s[i] for i in chosen]
        threads = 1 if torch.utils.data.get_worker_info() else None  # there is a worker for each core
        found = pixels.decode_all(paths, sha256s, self.since, self.size, self.resize, bits=self.bits, threads=threads)
        images = list(found)
        broken = [(path, image) for path, image in zip(paths, images, strict=True) if isinstance(image, Exception)]
        if broken:
            raise pixels.cannot_decode(broken)
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)  # type: ignore[arg-type]


def _check_memory(needed: int, device: torch.device) -> None:
    if device.type == "cpu" and "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):  # Windows does not say this way
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if needed > memory:
            raise _too_large(needed, "this machine", memory)


def _too_large(needed: int, where: str, memory: int | None) -> UserError:
    has = f"has {memory / 1e9:.1f} GB of memory" if memory else "has less memory free"
    return UserError(f"the pictures need {needed / 1e9:.1f} GB, {where} {has}; data.cache=disk leaves them on the disk")
