"""A table with a line for each image, CSV or Parquet → catalog."""

import ast
import codecs
import csv
import io
import logging
import ntpath
import os
import re
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

import pandas as pd

from alu_defects.data import catalog, duplicates, folder
from alu_defects.data.catalog import FoundImages, ImageRecord, Root
from alu_defects.data.files import Excluded, Reason
from alu_defects.data.sessions import TIME_FORMAT, capture_time
from alu_defects.errors import UserError, check_choice, did_you_mean

log = logging.getLogger(__name__)

COLUMNS = {name: name for name in ("path", "label", "split", "group", "time")}  # what each is called in the table
# names that other columns of the table may not have: the catalog, its split or the list of excluded images has them
RESERVED = {*catalog.COLUMNS, "session", "split", "group", "reason", "detail"}
PARQUET_SUFFIXES = (".parquet", ".pq")
# beside ISO 8601; 30/8/2018 and 8/30/2018 are not read: 9/8/2018 may be either
TIME_FORMATS = tuple(f"{date}{clock}" for date in ("%Y/%m/%d", "%d.%m.%Y") for clock in (" %H:%M:%S", " %H:%M", ""))
TIME_FORMATS += ("%Y:%m:%d %H:%M:%S",)  # as EXIF writes it
# what programs write where there is nothing; None may also mean the normal surface
MISSING = frozenset({"nan", "none", "null", "<na>"})
EUROPEAN = "save it as UTF-8, or give its encoding, such as data.encoding=cp1252 (European Windows)"
WINDOWS_PATH = re.compile(r"[A-Za-z]:[\\/]|\\\\")  # absolute: C:\… or \\server\…
SEPARATORS = re.compile(r"[,;，；、]")  # that others write between classes


def find_images(file: Path, root: Root, columns: Mapping[str, str], encoding: str | None = None) -> FoundImages:
    """Catalog the images of a table; those below the root that it does not list are excluded, with a warning.

    Args:
        file: CSV with a header, or Parquet.
        root: what its paths are relative to. Paths may be absolute, too, and lie in any of several roots.
        columns: what path, label, split, group and time are called in it; all but path and label may be missing.
        encoding: of a CSV, as Python names it; None: UTF-8 or UTF-16, else GB18030 with a warning.

    Returns:
        The catalog, with the columns of the table that are none of these under their own names, and `group`.

    Raises:
        UserError: what cannot be read, is there twice, or is not there; it is named with its line.
    """
    table = _name_columns(file, read_table(file, columns, encoding), columns)
    table["path"] = _locate(file, root, table["path"])
    labels = _read_labels(file, table["label"])
    splits = [_split_of(file, line, text) for line, text in table.get("split", pd.Series()).items()] or [""] * len(
        table
    )
    times = _read_times(file, table["time"]) if "time" in table else [""] * len(table)
    images = [
        ImageRecord(path, () if split == "unlabelled" else own, time=time, given_split=split)
        for path, own, split, time in zip(table["path"], labels, splits, times, strict=True)
    ]
    if nameless := [i for i, image in enumerate(images) if not image.labels and image.given_split != "unlabelled"]:
        message = "%s: %d of %d images have no label and take no part in training, the first is %s (line %s)"
        log.warning(message, file, len(nameless), len(table), images[nameless[0]].path, table.index[nameless[0]])
    excluded = [Excluded(path, Reason.NOT_IN_TABLE) for path in set(folder.list_images(root)).difference(table["path"])]
    images, dead = catalog.with_hashes(root, images)
    images, copies = duplicates.exclude_same_content(images)
    found = catalog.build_catalog(images, excluded + dead + copies, sorted({label for own in labels for label in own}))
    others = table.drop(columns=["label", "split", "time"], errors="ignore").set_index("path")
    return found._replace(table=found.table.join(others, on="path"))


def check_columns(columns: Mapping[str, Any]) -> None:
    """Refuse with a `UserError` names of columns that are no text, or one name for two of them."""
    for name, column in columns.items():
        check_choice("data.columns", name, COLUMNS)
        if not column or not isinstance(column, str):
            raise UserError(f"data.columns.{name}={column}: give the name of a column")
    names = list({**COLUMNS, **columns}.values())
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"data.columns: {twice[0]} would be two of {', '.join(COLUMNS)}; give each another column")


def check_encoding(encoding: Any) -> None:
    """Refuse with a `UserError` what is no encoding of text; None is one: it is detected."""
    try:
        "a".encode(str(encoding or "utf-8"))
    except (LookupError, ValueError) as error:
        raise UserError(f"data.encoding={encoding} is not an encoding; give utf-8, gb18030, cp1252 …") from error


def check_exists(table: str) -> None:
    """A `UserError` if there is no such table."""
    if not Path(str(table)).expanduser().is_file():
        raise UserError(f"data.table={table} is not a file; give a CSV or Parquet with a line for each image")


def read_table(file: Path, columns: Mapping[str, str], encoding: str | None = None) -> pd.DataFrame:
    """The cells of a table as text, without blanks around them; the index is the line, or the row of Parquet from 1."""
    try:
        if file.suffix.lower() in PARQUET_SUFFIXES:
            return _read_parquet(file)
        text = _decode(file, file.read_bytes(), encoding)
    except OSError as error:
        raise UserError(f"data.table={file} cannot be read ({error.strerror}); give a CSV or Parquet") from error
    wanted = set(columns.values())

    def header(delimiter: str) -> tuple[int, int]:
        names = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
        return len(wanted.intersection(name.strip() for name in names)), len(names)

    rows, lines, line = [], [], 1  # where a row begins
    reader = csv.reader([])  # for an error in the header
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header), strict=True)
        for row in reader:
            if any(cell.strip() for cell in row):  # Excel may end with lines of delimiters
                rows.append([cell.strip() for cell in row])
                lines.append(line)
                if len(row) != len(rows[0]):
                    raise UserError(
                        f"data.table={file}: line {line} has {len(row)} cells, the header {len(rows[0])}; "
                        "correct it, with quotes around a cell that holds a delimiter"
                    )
            line = reader.line_num + 1
    except csv.Error as error:
        message = f"data.table={file}: line {line} cannot be read ({error}); correct it"
        if line < reader.line_num:
            message += f". A quote in it is open until line {reader.line_num}"
        raise UserError(message) from error
    if len(rows) < 2:
        raise UserError(f"data.table={file} has no lines below a header; give a line for each image")
    return pd.DataFrame(rows[1:], columns=rows[0], index=lines[1:], dtype=str)


def _decode(file: Path, content: bytes, encoding: str | None) -> str:
    """The text of a file; a warning says if it is not Unicode, unless its encoding was given."""
    if encoding:
        try:
            return content.decode(str(encoding)).removeprefix("\ufeff")
        except ValueError as error:
            raise UserError(f"data.table={file} is not in data.encoding={encoding} ({error}); give another") from error
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # Excel's "Unicode text"
        return content.decode("utf-16", errors="replace")
    if b"\0" in content:
        raise UserError(f"data.table={file} is no text; save it as CSV (UTF-8) or Parquet")
    try:
        return content.decode("utf-8-sig")  # Excel marks UTF-8 by a first character
    except UnicodeDecodeError:
        pass
    try:
        text = content.decode("gb18030")
    except UnicodeDecodeError as error:
        raise UserError(f"data.table={file} is neither UTF-8 nor GB18030 text; {EUROPEAN}") from error
    example = re.search(r"""[^,;\t\r\n"]*[^\0-\x7f][^,;\t\r\n"]*""", text)
    message = "%s is not UTF-8: read as GB18030 (Chinese Windows), with names such as %s; if they look wrong, %s"
    log.warning(message, file, example.group().strip() if example else "", EUROPEAN)
    return text


def _read_parquet(file: Path) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(file, engine="pyarrow")
    except ImportError as error:
        raise UserError(
            f"data.table={file}: Parquet needs pyarrow: pip install 'alu-defects[parquet]', or save it as CSV"
        ) from error
    except ValueError as error:  # of pyarrow, whose errors are of this kind
        raise UserError(f"data.table={file} cannot be read ({error}); give a CSV or Parquet") from error
    if frame.index.names != [None]:
        frame = frame.reset_index()

    def cell(value: Any) -> str:
        if pd.api.types.is_list_like(value):
            return "|".join(map(str, value))
        return "" if pd.isna(value) else str(value).strip()

    texts = {str(name): [cell(value) for value in frame[name]] for name in frame}
    return pd.DataFrame(texts, index=range(1, len(frame) + 1), dtype=str)


def _name_columns(file: Path, table: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """The table with our names for its columns; a `UserError` for one that is missing, twice there, or named like ours.

    A column without a name, such as the row numbers that pandas writes, is dropped.
    """
    table = table[[name for name in dict.fromkeys(table) if name]]
    if len(twice := table.columns[table.columns.duplicated()]):
        raise UserError(f"data.table={file} has the column {twice[0]} twice; rename one")
    ours = {}
    for name, column in {**COLUMNS, **columns}.items():
        if column in table:
            ours[column] = name
        elif name in ("path", "label") or column != name:  # the name was given
            raise UserError(
                f"data.table={file} has no column {column}, only {', '.join(map(str, table))}; "
                f"name that of the {name} with data.columns.{name}=…{did_you_mean(column, map(str, table)).rstrip('.')}"
            )
    if taken := [name for name in table if name not in ours and name in RESERVED]:
        raise UserError(
            f"data.table={file}: the catalog has a column {taken[0]} of its own; rename that of the table"
            + (f", or say what it holds with data.columns.{taken[0]}={taken[0]}" if taken[0] in COLUMNS else "")
        )
    return table.rename(columns=ours)


def _locate(file: Path, root: Root, texts: pd.Series) -> list[str]:
    """The paths of a table as the catalog writes them; a `UserError` for one that is outside, absent or twice."""
    bases = [
        (f"{os.path.normpath(base).rstrip(os.sep)}{os.sep}", prefix)  # pathlib is slow for 100,000 images
        for prefix, folder in catalog.folders_of(root).items()
        for base in dict.fromkeys((folder, folder.resolve()))
    ]
    lines = dict[str, Any]()
    absent = list[tuple[Any, str, set[str]]]()
    for line, text in texts.items():
        where = f"data.table={file}, line {line}:"
        if not text:
            raise UserError(f"{where} the path is empty; give the image, or remove the line")
        if os.name != "nt" and WINDOWS_PATH.match(text):
            raise _windows_error(file, root, texts)
        files, slashed = dict[str, str](), text.replace("\\", "/")
        for base, prefix in bases:
            full = os.path.normpath(os.path.join(base, slashed))  # noqa: PTH118
            if full.startswith(base):
                files.setdefault(prefix + full[len(base) :].replace(os.sep, "/"), full)
        if not files:
            exists = any(os.path.exists(os.path.join(base, slashed)) for base, _ in bases)  # noqa: PTH110, PTH118
            raise UserError(
                f"{where} {text} {'lies' if exists else 'does not exist, and would lie'} outside of data.root={root}; "
                "correct it, or give a root, or roots [a,b], that hold it"
            )
        there = [path for path, full in files.items() if os.path.isfile(full) or catalog.dead_link(full)]  # noqa: PTH113
        if len(there) > 1:
            raise UserError(f"{where} {text} is in several roots, as {' and '.join(there)}; write its path in full")
        path = there[0] if there else next(iter(files))
        if not there:
            absent.append((line, text, {one.casefold() for one in files}))
        if path in lines:
            raise UserError(
                f"{where} {text} is also in line {lines[path]}; keep one of them, and write several classes as a|b"
            )
        lines[path] = line
    if absent:
        line, text, wanted = absent[0]
        other = next((path for path in folder.list_images(root) if path.casefold() in wanted), "")
        meant = f"; did you mean {root / other}?" if other else ""
        raise UserError(
            f"data.table={file}: {len(absent)} of {len(texts)} images do not exist in {root}, the first is {text} "
            f"(line {line}){meant}; correct the table, or give the folder that its paths are relative to: "
            "data.root=…"
        )
    return list(lines)


def _windows_error(file: Path, root: Root, texts: pd.Series) -> UserError:
    """The error that says which folder to remove from absolute paths of Windows, where this is another system."""
    absolute = texts[texts.str.match(WINDOWS_PATH)]
    line, text = absolute.index[0], absolute.iloc[0]
    drive = ntpath.splitdrive(text)[0].casefold()
    others = [path for path in absolute if ntpath.splitdrive(path)[0].casefold() == drive]
    common = PureWindowsPath(ntpath.commonpath([ntpath.dirname(path) for path in others]))
    above = [folder for folder in (*reversed(common.parents), common) if _exists_below(root, text, folder)]
    removed = str(above[0] if above else common).rstrip(ntpath.sep) + ntpath.sep
    return UserError(
        f"data.table={file}: {len(absolute)} of {len(texts)} paths are absolute paths of Windows, the first is {text} "
        f"(line {line}); remove {removed} from their beginning"
        + ("" if above else f", so that they are relative to data.root={root}")
    )


def _exists_below(root: Root, text: str, above: PureWindowsPath) -> bool:
    """Whether a root has the image of a path of Windows without the folder that it begins with."""
    below = PureWindowsPath(text).relative_to(above).as_posix()
    return any((folder / below).is_file() for folder in catalog.folders_of(root).values())


def _read_labels(file: Path, texts: pd.Series) -> list[tuple[str, ...]]:
    """The classes of each image; a `UserError` for cells that do not say which they are."""
    labels = {text: _split_label(text) for text in texts.unique()}
    alone = {own[0] for own in labels.values() if len(own) == 1}

    def refuse(wrong: list[str], fix: str) -> None:
        if len(found := texts[texts.isin(wrong)]):
            count, line, text = len(found), found.index[0], found.iloc[0]
            raise UserError(f"data.table={file}: {count} of {len(texts)} labels are like {text} in line {line}; {fix}")

    refuse(
        [text for text, own in labels.items() if any(name.startswith("[") and name.endswith("]") for name in own)],
        "this list cannot be read: several classes are written a|b",
    )
    refuse(
        [text for text, own in labels.items() if any(name.casefold() in MISSING for name in own)],
        "leave it empty for an image without a label, or write the name of the class, such as normal",
    )
    refuse(
        [t for t, own in labels.items() if len(own) == 1 and _is_joined(own[0], alone)],
        "its parts are labels of other lines: several classes are written a|b",
    )
    return [labels[text] for text in texts]


def _split_label(text: str) -> tuple[str, ...]:
    """The classes in a cell, `a|b` or a list as pandas and JSON write it; of a list that cannot be read the text."""
    parts = text.split("|")
    # arrays of numpy have no commas, and Python would join their texts
    if text.startswith("[") and text.endswith("]") and not re.search(r"""["']\s+["']""", text):
        try:
            listed = ast.literal_eval(text)
            parts = [part for one in listed for part in one.split("|")]
        except (ValueError, SyntaxError, AttributeError, MemoryError, RecursionError):  # hostile ones, or no texts
            parts = [text]
    return tuple(sorted({part.strip() for part in parts} - {""}))


def _is_joined(name: str, known: set[str]) -> bool:
    parts = [part.strip() for part in SEPARATORS.split(name)]
    return len(parts) > 1 and known.issuperset(parts)


def _split_of(file: Path, line: Any, text: str) -> str:
    """The split that a cell names; a `UserError` if it is none."""
    if text and (name := folder.plain_name(text)) not in (*folder.SPLIT_NAMES, "val+test"):
        raise UserError(
            f"data.table={file}, line {line}: split {text} is none of train, val, test, val+test, unlabelled"
        )
    return folder.SPLIT_NAMES.get(name, name) if text else ""


def _read_times(file: Path, texts: pd.Series) -> list[str]:
    """The times of a table in the catalog's format; those with an offset from UTC in UTC."""
    left, known = texts[texts != ""], pd.Series("", index=texts.index, dtype=object)
    for format in ("ISO8601", *TIME_FORMATS):
        dated = left[left.str.match(r"\d{4}-?\d\d-?\d\d")] if format == "ISO8601" else left  # 2018 alone is no time
        times = pd.to_datetime(dated, format=format, errors="coerce", utc=True).dropna()
        known[times.index] = times.dt.strftime(TIME_FORMAT)
        left = left.drop(times.index)
    joined = left.map(capture_time)  # 20180830164545
    known[joined.index] = joined
    if len(wrong := joined[joined == ""]):
        line = wrong.index[0]
        raise UserError(
            f"data.table={file}, line {line}: time {texts[line]} is not known; write it like 2018-08-30T16:45:45, or "
            "leave it empty"
        )
    if len(dates := texts[texts.str.len().between(1, len("2018-08-30"))]):
        log.warning(
            "%s: %d of %d times are dates without a clock, such as %s in line %s; images of one day are no session, so "
            "they count as images without a time",
            *(file, len(dates), len(texts), dates.iloc[0], dates.index[0]),
        )
        known[dates.index] = ""
    return list(known)
