"""Which images a source names: a file, a folder, a pattern, or the standard input."""

import codecs
import glob
import io
import logging
import os
import re
import sys
from pathlib import Path
from typing import BinaryIO

from alu_defects.data.files import IMAGE_SUFFIXES, Excluded, Reason, is_image, list_files
from alu_defects.errors import UserError, counted

log = logging.getLogger(__name__)

STANDARD_INPUT = "-"
# how files begin, and their suffix; TIFF in both orders of bytes. Paths may begin with BM and RIFF, too
_KINDS = {
    rb"\xff\xd8\xff": ".jpg",
    rb"\x89PNG": ".png",
    rb"II\*\x00|MM\x00\*": ".tif",
    rb"BM.{12}[\x0c-\x7c]\x00\x00\x00": ".bmp",
    rb"RIFF.{4}WEBP": ".webp",
}

File = str | BinaryIO


def list_source(source: str, *, recursive: bool = True, standard_input: BinaryIO | None = None) -> list[File]:
    """The images of a source, in the order of their names; paths begin as the source does.

    Of a folder these are the files that are named like images; hidden ones are not. A file that is named itself, by a
    pattern or in a list is taken whatever its name.

    Args:
        source: an image, a folder, a pattern such as `line3/*.jpg` (`**` for any folders), or `-`: an image or paths
            from the standard input, one a line, or with a NUL after each.
        recursive: whether a folder means those in it, too.
        standard_input: None: that of this process.

    Raises:
        UserError: there is no such file, or no image.
    """
    if source == STANDARD_INPUT:
        return _from_standard_input((standard_input or sys.stdin.buffer).read())
    if not source:  # of an empty shell variable
        raise UserError("source= is empty; give an image, a folder, a pattern, or - for the standard input")
    path = Path(os.path.expanduser(source))  # noqa: PTH111 (which leaves ~ before an unknown name)
    if os.path.isdir(path):  # noqa: PTH112 (Path raises for names that are too long)
        return _in_folder(path, recursive)
    if os.path.exists(path):  # noqa: PTH110
        return [str(path)]
    if any(sign in source for sign in "*?["):
        found = sorted(name for name in glob.glob(str(path), recursive=True) if not os.path.isdir(name))  # noqa: PTH112, PTH207
        if not found:
            raise UserError(f"source={source}: no file has such a name; quote a pattern, so that the shell leaves it")
        return list(found)
    raise UserError(f"source={source} is not there; give an image, a folder, a pattern, or - for the standard input")


def image_suffix(content: bytes | bytearray) -> str:
    """The suffix of an image file by its first bytes, such as .jpg; "" if it is of none of our kinds."""
    return next((suffix for start, suffix in _KINDS.items() if re.match(start, content, re.DOTALL)), "")


def _in_folder(folder: Path, recursive: bool) -> list[File]:
    found, excluded = list_files(folder)
    if not recursive:
        found = [name for name in found if "/" not in name]
    images: list[File] = [str(folder / name) for name in found if is_image(name)]
    others = [Excluded(name, Reason.NOT_AN_IMAGE) for name in found if not is_image(name)]
    others += [one for one in excluded if one.reason is not Reason.HIDDEN]
    if not images:
        hint = "" if recursive else "; recursive=true looks into its folders"
        raise UserError(f"source={folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}){hint}")
    if others:
        log.warning("%s skipped, such as %s (%s)", counted(len(others), "file"), others[0].path, others[0].reason)
    return images


def _from_standard_input(content: bytes) -> list[File]:
    if image_suffix(content):
        return [io.BytesIO(content)]
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and b"\0" in content:
        raise UserError("source=-: the paths are UTF-16, as Windows PowerShell writes them; give them as UTF-8")
    content = content.removeprefix(codecs.BOM_UTF8)
    if b"\0" in content:  # a name may hold anything else
        names = [name for name in content.split(b"\0") if name]
    else:
        names = [name.removesuffix(b"\r") for name in content.split(b"\n") if name.strip()]
    if not (found := [os.fsdecode(name) for name in names]):
        raise UserError("source=-: the standard input is empty; give an image or paths, one a line")
    return list(found)
