"""Every pixel of every picture decoded once, to see which pictures would fail, and which are odd."""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from rich.progress import track

from alu_defects.data import pixels, similarity
from alu_defects.data.findings import Kind

LEAST_SIDE = 32  # pixels; backbones halve a picture five times
NARROWEST = 5  # long side to short side; the whole frame is squashed into a square
_ORIENTATION = 0x0112  # the EXIF tag; 1 is upright
_SAME_FORMAT = {"MPO": "JPEG"}  # what phones write: a JPEG with further pictures behind it


@dataclass(frozen=True)
class Inspection:
    """What was seen of one file.

    Attributes:
        width: in pixels, as stored; 0 where the file could not be decoded, as for the others.
        height: in pixels.
        mode: of Pillow, such as RGB, L or I;16.
        format: such as JPEG.
        remarks: kinds of findings and what is to be said of each; of those in `UNDECODABLE` there is at most one.
        hash: see `similarity.perceptual_hash`.
        largest: value of a 16-bit picture; None of another.
    """

    width: int = 0
    height: int = 0
    mode: str = ""
    format: str = ""
    remarks: tuple[tuple[Kind, str], ...] = ()
    hash: similarity.UInt8 = field(default_factory=lambda: np.zeros(similarity.BITS // 8, np.uint8))
    largest: int | None = None


def inspect_all(paths: Sequence[Path], progress: bool = True) -> list[Inspection]:
    """Inspect files in parallel, in their order."""
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:  # Pillow decodes without the interpreter lock
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # a finding says it
        jobs = pool.map(inspect, paths)
        return list(track(jobs, f"decoding {len(paths)} pictures", total=len(paths), disable=not progress))


def inspect(path: Path) -> Inspection:
    """Decode one file completely, whatever it holds: nothing is raised for a file that cannot be decoded."""
    try:
        if path.stat().st_size == 0:
            return Inspection(remarks=((Kind.EMPTY, ""),))
        with Image.open(path) as file:
            return _inspect(path, file)
    except UnidentifiedImageError:
        return Inspection(remarks=((Kind.NO_PICTURE, _beginning(path)),))
    except Exception as error:  # Pillow raises many kinds for broken files; every one becomes a finding
        kind = Kind.TRUNCATED if "truncated" in str(error).lower() else Kind.BROKEN
        return Inspection(remarks=((kind, f"{type(error).__name__}: {error}"),))


def _inspect(path: Path, file: ImageFile.ImageFile) -> Inspection:
    remarks: list[tuple[Kind, str]] = []
    width, height = file.size
    if min(width, height) < LEAST_SIDE:
        remarks.append((Kind.TINY, f"{width}×{height} pixels"))
    if Image.MAX_IMAGE_PIXELS and width * height > Image.MAX_IMAGE_PIXELS:
        remarks.append((Kind.HUGE, f"{width}×{height} pixels; at twice the limit of Pillow it is refused"))
    if max(width, height) > NARROWEST * min(width, height):
        remarks.append((Kind.NARROW, f"{width}×{height} pixels"))
    found = str(file.format)
    said = Image.registered_extensions().get(path.suffix.lower())
    if said != _SAME_FORMAT.get(found, found):
        remarks.append((Kind.OTHER_FORMAT, f"the content is {found}"))
    if (frames := getattr(file, "n_frames", 1)) > 1:
        remarks.append((Kind.FRAMES, f"{frames} frames"))
    deep, mode = pixels.is_deep(file), file.mode
    file.load()
    picture: Image.Image = file
    if (orientation := file.getexif().get(_ORIENTATION, 1)) != 1:
        remarks.append((Kind.TURNED, f"orientation {orientation}; training turns it upright too"))
        picture = ImageOps.exif_transpose(file)
    if deep or mode not in ("RGB", "L"):  # as training makes it RGB, with what it refuses to
        picture = Image.fromarray(pixels.decode(path, 256, bits=None))  # how bright it is does not change the hash
    hashed = similarity.perceptual_hash(picture)
    if not hashed.any() and picture.getcolors(1):  # None if there are more
        remarks.append((Kind.ONE_COLOUR, f"all pixels are {picture.getpixel((0, 0))}"))
    largest = pixels.largest_value(path) if deep else None
    return Inspection(width, height, mode, found, tuple(remarks), hashed, largest)


def _beginning(path: Path) -> str:
    with path.open("rb") as file:
        return f"it begins with {file.read(16)!r}"
