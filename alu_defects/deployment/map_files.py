"""Maps of the images of a table, as PNG files in a folder."""

import hashlib
import os
import re
from pathlib import Path

from PIL import Image

from alu_defects.data.decode import UInt8
from alu_defects.errors import name_disk_errors
from alu_defects.io import atomic_write

_CONTINUES = "then the same command continues; or give another folder"
_LONGEST = 50  # characters of a name that are kept, in UTF-8 up to 200 bytes: `atomic_write` adds to them


class MapFolder:
    """A folder for the maps of one network.

    Args:
        folder: is made if it is not there.
        network: that the maps are of: its digest. Maps of another one, or of another image of the same path, have
            other names.

    Raises:
        UserError: it cannot be made.
    """

    def __init__(self, folder: str, network: str) -> None:
        self.folder, self._network = Path(os.path.expanduser(folder)), network  # noqa: PTH111 (which fails for ~nobody)
        with name_disk_errors(f"save_maps={self.folder}", _CONTINUES):
            self.folder.mkdir(parents=True, exist_ok=True)

    def save(self, image: str, drawn: UInt8) -> str:
        """Write the map of an image, as its path names it; returns the path of the PNG, which begins as the folder.

        Raises:
            UserError: there is no room or right to write.
        """
        # a path may name other images later: relative to another folder, or - for the standard input
        path = self.folder / file_name(image, self._network + hashlib.sha256(drawn.tobytes()).hexdigest())
        with name_disk_errors(f"save_maps={self.folder}", _CONTINUES), atomic_write(path) as file:
            Image.fromarray(drawn).save(file, "PNG")
        return str(path)


def file_name(image: str, drawn: str = "") -> str:
    """A name for a PNG that no other image has, of letters that every file system takes; `drawn`: what else tells."""
    digest = hashlib.sha256(f"{drawn}\0{image}".encode("utf-8", "surrogateescape")).hexdigest()
    readable = re.sub(r"[^\w-]+", "_", Path(image).stem)[:_LONGEST]
    return f"{readable}_{digest[:12]}.png"
