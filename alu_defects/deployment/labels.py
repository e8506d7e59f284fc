"""Labels that people give to images, as a table that `data=table` reads."""

import csv
import hashlib
import io
import threading
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from PIL import ExifTags

from alu_defects.data.decode import open_image
from alu_defects.errors import UserError, name_disk_errors
from alu_defects.io import atomic_write, exclusive_lock, remove_unfinished

COLUMNS = ("path", "label", "time", "labelled")


class Labels:
    """A folder with labels.csv and the images, each named after its content.

    The columns: path; label; time: when the image was taken, if it says so; labelled: when the label was given.
    Further columns that somebody added stay.

    Args:
        folder: is made.

    Raises:
        UserError: it cannot be written, or holds another table.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.images, self.table = folder, folder / "images", folder / "labels.csv"
        self._lock = threading.Lock()
        with name_disk_errors(f"labels={self.folder}"):
            self.images.mkdir(parents=True, exist_ok=True)
            with exclusive_lock(self.table, f"writing {self.table}"):
                self._read()
                for place in (self.folder, self.images):
                    remove_unfinished(place)

    def add(self, content: bytes, suffix: str, label: str) -> dict[str, str]:
        """Keep an image and its label; one that the same image had before is replaced.

        Args:
            content: of an image file that can be decoded.
            suffix: of its name, such as .jpg.
            label: its class.

        Returns:
            The row of the table.
        """
        path = f"images/{hashlib.sha256(content).hexdigest()}{suffix}"
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        own = {"path": path, "label": label, "time": _capture_time(content), "labelled": now}
        with name_disk_errors(f"labels={self.folder}"), self._lock, exclusive_lock(self.table, f"writing {self.table}"):
            if not (self.folder / path).exists():  # an image without a row does no harm, a row without an image would
                with atomic_write(self.folder / path) as file:
                    file.write(content)
            columns, rows = self._read()
            kept = rows.pop(path, {})
            rows[path] = kept | own
            self._write(columns, list(rows.values()))
        return own

    def _read(self) -> tuple[list[str], dict[str, dict[str, str]]]:
        """The columns of the table, and its rows by their paths."""
        if not self.table.exists():
            return list(COLUMNS), {}
        try:
            with self.table.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file, strict=True)
                columns, rows = list(reader.fieldnames or ()), list(reader)
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{self.table} cannot be read ({error}); save it as CSV in UTF-8") from error
        if not set(COLUMNS) <= set(columns) or any(None in row or None in row.values() for row in rows):
            raise UserError(
                f"{self.table} is not a table of labels (columns {', '.join(COLUMNS)}, with commas); "
                "correct it, or give another folder: labels=…"
            )
        return columns, {row["path"]: row for row in rows}

    def _write(self, columns: list[str], rows: list[dict[str, str]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        with atomic_write(self.table) as file:
            file.write(text.getvalue().encode())


def _capture_time(content: bytes) -> str:
    """When an image was taken by its EXIF data, in ISO 8601; "" where it does not say."""
    with suppress(Exception), open_image(io.BytesIO(content)) as opened:  # broken EXIF data raise many kinds
        written = opened.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal]
        return datetime.strptime(str(written).strip("\0 "), "%Y:%m:%d %H:%M:%S").isoformat()
    return ""
