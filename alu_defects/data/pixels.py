"""Photographs, decoded once into one uint8 array."""

import logging
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from rich.progress import track

from alu_defects.errors import UserError, did_you_mean

log = logging.getLogger(__name__)

UInt8 = npt.NDArray[np.uint8]
RESIZES = ("squash", "letterbox")
LETTERBOX_GREY = (128, 128, 128)  # about zero after normalisation


def decode(path: Path, size: int, resize: str = "squash") -> UInt8:
    """Decode the whole frame of a photograph, upright, as RGB of `size` × `size`.

    Args:
        path: jpg, png, bmp, tif or webp; grey, palette, RGBA, CMYK or 16 bit. Of several frames the first is taken.
        size: side of the result in pixels.
        resize: `squash` changes the aspect ratio, as the paper does; `letterbox` keeps it and pads with grey.

    Returns:
        uint8 (size, size, 3).

    Raises:
        OSError, ValueError and what else Pillow raises for a file that it cannot decode.
    """
    with Image.open(path) as file:
        file.draft("RGB", (size, size))  # JPEG: decode at the smallest DCT scale that is not below the target
        picture = _rgb(ImageOps.exif_transpose(file))
    if resize == "letterbox":
        picture = _letterbox(picture, size)
    elif picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)  # antialiased in Pillow
    return np.asarray(picture)


def _letterbox(picture: Image.Image, size: int) -> Image.Image:
    """Like `ImageOps.pad`, but a picture as narrow as a line keeps one pixel instead of none."""
    width, height = (max(1, round(side * size / max(picture.size))) for side in picture.size)
    result = Image.new("RGB", (size, size), LETTERBOX_GREY)
    resized = picture.resize((width, height), Image.Resampling.BILINEAR)
    result.paste(resized, ((size - width) // 2, (size - height) // 2))
    return result


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16 bit; Pillow's own conversion clips at 255
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"values from {values.min()} to {values.max()} are not 16-bit grey levels")
        picture = Image.fromarray((values // 257).astype(np.uint8))
    elif picture.mode == "F":
        raise ValueError("floating-point pictures have no agreed range; save it with 8 or 16 bits")
    if picture.has_transparency_data:
        opaque = Image.new("RGBA", picture.size, "black")
        picture = Image.alpha_composite(opaque, picture.convert("RGBA"))
    return picture.convert("RGB")


def decode_all(paths: Sequence[Path], size: int, resize: str = "squash", progress: bool = True) -> UInt8:
    """Decode photographs in parallel.

    Returns:
        uint8 (N, size, size, 3).

    Raises:
        UserError: the array would not fit into memory, or pictures cannot be decoded; all of them are named.
    """
    if resize not in RESIZES:
        raise UserError(f"data.resize={resize} is not one of {', '.join(RESIZES)}{did_you_mean(resize, RESIZES)}")
    shape = (len(paths), size, size, 3)
    _check_memory(shape)
    pixels = np.empty(shape, np.uint8)
    broken: list[str] = []

    def work(item: tuple[int, Path]) -> None:
        index, path = item
        try:
            pixels[index] = decode(path, size, resize)
        except Exception as error:  # Pillow raises many kinds for broken files; every one is reported below
            broken.append(f"{path} ({type(error).__name__}: {error})")

    with ThreadPoolExecutor(_cores()) as pool:  # Pillow releases the interpreter lock while it decodes
        jobs = pool.map(work, enumerate(paths))
        for _ in track(jobs, f"decoding {len(paths)} pictures", total=len(paths), disable=not progress):
            pass
    if broken:
        shown = "\n  ".join(sorted(broken)[:20])
        more = f"\n  and {len(broken) - 20} more" if len(broken) > 20 else ""
        raise UserError(f"{len(broken)} pictures cannot be decoded; replace or remove them:\n  {shown}{more}")
    return pixels


def _check_memory(shape: tuple[int, ...]) -> None:
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return  # Windows does not say this way
    needed, memory = math.prod(shape), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory:
        raise UserError(
            f"{shape[0]} pictures of data.image_size={shape[1]} need {needed / 1e9:.1f} GB, this machine has "
            f"{memory / 1e9:.1f} GB of memory; choose a smaller data.image_size"
        )


def _cores() -> int:
    affinity: Any = getattr(os, "sched_getaffinity", None)  # the cores given to this process, where the system says
    return len(affinity(0)) if affinity else os.cpu_count() or 1
