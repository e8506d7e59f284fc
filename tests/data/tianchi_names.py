"""The true file names of the round-1 train archives, and tiny images under such names."""

import gzip
import io
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

NAMES_FILE = Path(__file__).with_name("tianchi_round1_names.txt.gz")
TRAIN1 = "guangdong_round1_train1_20180903"
TRAIN2 = "guangdong_round1_train2_20180910"
TRAIN3 = "guangdong_round1_train2_20180916"


def true_names() -> list[str]:
    """The 4,162 relative paths `<archive>/…/<file>` of the three archives."""
    return gzip.decompress(NAMES_FILE.read_bytes()).decode().splitlines()


def tiny_jpeg(comment: str) -> bytes:
    """A JPEG of 2×2 pixels; another comment, another content."""
    text = comment.encode()
    return _JPEG[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + _JPEG[2:]


def write_tree(root: Path, names: Iterable[str]) -> Path:
    """Write a tiny image for each name; files of one name have one content, others never."""
    names = list(names)
    for folder in {(root / name).parent for name in names}:
        folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / name).write_bytes(tiny_jpeg(name.rpartition("/")[2]))
    return root


def _encode() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), "grey").save(buffer, "JPEG")
    return buffer.getvalue()


_JPEG = _encode()
