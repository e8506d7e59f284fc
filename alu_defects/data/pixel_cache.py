"""Every picture decoded once, for all runs: pixels in one file that each process maps into its memory.

A folder for each size and way of resizing, and for each `data.bits` of data sets with 16-bit pictures, holds

    pixels    uint8 (R, size, size, 3), row after row
    index     R records: SHA-256 of the picture's file, perceptual hash of its pixels

Pictures are found by what their files hold, not by where these lie: another data set with the same pictures, another
split or the test part alone decode nothing again, and one changed file means one more row. A row is entered in the
index when its pixels are safe on the disk, and never changed, so that readers need no lock and a killed writer loses
no more than what it was just decoding.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import joblib
import numpy as np
import numpy.typing as npt
from rich.progress import track

from alu_defects.data import pixels, similarity
from alu_defects.data.locking import alone
from alu_defects.data.pixels import UInt8
from alu_defects.errors import UserError

BUFFERS = 256_000_000  # bytes of decoded pictures that wait to be written
VERSION = 1  # raise it when the same file gives other pixels or another hash, so that old ones are not taken for new
_RECORD = np.dtype([("sha256", "u1", 32), ("hash", "u1", similarity.BITS // 8)])
_Digests = npt.NDArray[np.uint8]  # (N, 32)


class PixelCache:
    """The pictures that were decoded to one size in one way.

    Args:
        root: the folder of all caches.
        size, resize: see `pixels.decode`.
        bits: likewise; None where no picture has 16 bits.
    """

    def __init__(self, root: Path, size: int, resize: str, bits: int | None = None) -> None:
        deep = f"_{bits}bits" if bits else ""
        self.folder = root.expanduser().absolute() / f"v{VERSION}_{size}_{resize}{deep}"
        self.size, self.resize, self.bits = size, resize, bits or 16
        self.pixels_file, self._index_file = self.folder / "pixels", self.folder / "index"
        self._row_bytes = 3 * size**2

    def fill(
        self, paths: Sequence[Path], sha256s: Sequence[str], since: float, *, progress: bool = True
    ) -> list[tuple[Path, Exception]]:
        """Decode what is not there yet, in the order given.

        Args:
            paths: of the pictures.
            sha256s: hash of the bytes of each.
            since: when the hashes were taken, see `pixels.decode_all`.
            progress: show a progress bar.

        Returns:
            Pictures that cannot be decoded, and why; the others are there.

        Raises:
            UserError: no room for it on the disk, or no right to write there.
        """
        wanted = dict(zip(sha256s, paths, strict=True))
        if not self._missing(wanted):
            return []
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with alone(self.pixels_file, f"decoding pictures into {self.folder}"):
                missing = self._missing(wanted)  # the other process may have had the same ones
                self._check_room(len(missing))
                return self._append(missing, since, progress)
        except OSError as error:
            raise UserError(
                f"{self.folder} cannot be written ({error.strerror or error}); what is in it is unharmed. "
                "Give another paths.cache, or do without: data.cache=none"
            ) from error

    def rows(self, sha256s: Sequence[str]) -> npt.NDArray[np.int64]:
        """Where in `pixels` the pictures are, (N,); they must be there."""
        known = self._known()
        return np.array([known[sha256] for sha256 in sha256s], np.int64)

    def hashes(self, rows: npt.NDArray[np.int64]) -> UInt8:
        """The perceptual hashes of rows, uint8 (N, `similarity.BITS` / 8)."""
        hashes: UInt8 = self._index()["hash"][rows]
        return hashes

    def __len__(self) -> int:
        """How many pictures are there."""
        return len(self._index())

    def _index(self) -> npt.NDArray[np.void]:
        """The records whose pixels are there; one that is just being written is none yet."""
        if not (self._index_file.exists() and self.pixels_file.exists()):
            return np.empty(0, _RECORD)
        complete = self._index_file.stat().st_size // _RECORD.itemsize
        return np.fromfile(self._index_file, _RECORD, complete)[: self.pixels_file.stat().st_size // self._row_bytes]

    def _known(self) -> dict[str, int]:
        digests = np.ascontiguousarray(self._index()["sha256"]).tobytes().hex()
        return {digests[start : start + 64]: start // 64 for start in range(0, len(digests), 64)}

    def _missing(self, wanted: Mapping[str, Path]) -> list[tuple[str, Path]]:
        known = self._known()
        return [(sha256, path) for sha256, path in wanted.items() if sha256 not in known]

    def _check_room(self, pictures: int) -> None:
        needed, free = pictures * (self._row_bytes + _RECORD.itemsize), shutil.disk_usage(self.folder).free
        if needed > free:
            raise UserError(
                f"{pictures} pictures of data.image_size={self.size} need {needed / 1e9:.1f} GB in {self.folder}, "
                f"where {free / 1e9:.1f} GB are free; give another paths.cache, a smaller data.image_size, or "
                "data.cache=none, which decodes anew in every epoch"
            )

    def _append(
        self, missing: Sequence[tuple[str, Path]], since: float, progress: bool
    ) -> list[tuple[Path, Exception]]:
        """Decode and write; returns what cannot be decoded."""
        broken: list[tuple[Path, Exception]] = []
        rows = len(self)
        with self.pixels_file.open("ab") as pixels_file, self._index_file.open("ab") as index_file:
            pixels_file.truncate(rows * self._row_bytes)  # halves that a killed writer left
            index_file.truncate(rows * _RECORD.itemsize)
            steps = self._append_steps(missing, since, pixels_file, index_file, broken)
            what = f"decoding {len(missing)} pictures ({len(missing) * self._row_bytes / 1e6:,.0f} MB)"
            for _ in track(steps, what, total=len(missing), disable=not progress):
                pass
        return broken

    def _append_steps(
        self,
        missing: Sequence[tuple[str, Path]],
        since: float,
        pixels_file: BinaryIO,
        index_file: BinaryIO,
        broken: list[tuple[Path, Exception]],
    ) -> Iterator[None]:
        """Yield after every picture."""

        def write(images: UInt8, sha256s: Sequence[str]) -> None:
            records = np.zeros(len(images), _RECORD)
            records["sha256"] = np.frombuffer(bytes.fromhex("".join(sha256s)), np.uint8).reshape(-1, 32)
            records["hash"] = similarity.hashes(images)
            for file, rows in ((pixels_file, images), (index_file, records)):
                file.write(rows.view(np.uint8).data)
                file.flush()
                os.fsync(file.fileno())  # the pixels first: the index never names what a power cut took

        with ThreadPoolExecutor(1) as writer:  # the next pictures are decoded while the last are written
            writing: Future[None] | None = None
            # what a killed writer loses, and two of it are held in memory: one is filled while the other is written
            at_once = max(1, min(32 * joblib.cpu_count(), BUFFERS // 2 // self._row_bytes))
            images, done = np.empty((at_once, self.size, self.size, 3), np.uint8), list[str]()
            sha256s, paths = [sha256 for sha256, _ in missing], [path for _, path in missing]
            decoded = pixels.decode_all(paths, sha256s, since, self.size, self.resize, bits=self.bits)
            for path, sha256, image in zip(paths, sha256s, decoded, strict=True):
                if isinstance(image, Exception):
                    broken.append((path, image))
                else:
                    images[len(done)] = image
                    done.append(sha256)
                if len(done) == at_once:
                    if writing:
                        writing.result()
                    writing = writer.submit(write, images, done)
                    images, done = np.empty_like(images), []
                yield
            if writing:
                writing.result()
            if done:
                write(images[: len(done)], done)
