"""Which images a source names: a file, a folder, a pattern, or the standard input."""

import glob
import io
import logging
import os
import sys
from pathlib import Path
from typing import BinaryIO

from alu_defects.data.files import IMAGE_SUFFIXES, Excluded, Reason, is_image, list_files
from alu_defects.errors import UserError, counted

log = logging.getLogger(__name__)

STANDARD_INPUT = "-"
# how JPEG, PNG, BMP, TIFF (in both orders of bytes) and WebP files begin
_FIRST_BYTES = (b"\xff\xd8\xff", b"\x89PNG", b"BM", b"II*\x00", b"MM\x00*", b"RIFF")

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
    path = Path(source).expanduser()
    if path.is_dir():
        return _in_folder(path, recursive)
    if path.exists():
        return [str(path)]
    if any(sign in source for sign in "*?["):
        found = sorted(name for name in glob.glob(str(path), recursive=True) if Path(name).is_file())  # noqa: PTH207
        if not found:
            raise UserError(f"source={source}: no file has such a name; quote a pattern, so that the shell leaves it")
        return list(found)
    raise UserError(f"source={source} is not there; give an image, a folder, a pattern, or - for the standard input")


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
        log.warning("no images: %s, such as %s (%s)", counted(len(others), "file"), others[0].path, others[0].reason)
    return images


def _from_standard_input(content: bytes) -> list[File]:
    if content.startswith(_FIRST_BYTES):
        return [io.BytesIO(content)]
    separator = b"\0" if b"\0" in content else b"\n"
    names = [os.fsdecode(name.removesuffix(b"\r")) for name in content.split(separator)]
    if not (found := [name for name in names if name.strip()]):
        raise UserError("source=-: the standard input is empty; give an image or paths, one a line")
    return list(found)
