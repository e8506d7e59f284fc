"""The catalog: a table with one row an image, every column text.

Columns:
    path: relative to the root, with forward slashes; of several roots it begins with its number, see `Roots`.
    label: class name; "" for an image that has none or several.
    labels: all class names, joined by "|" in the order of the classes.
    boxes: JSON list of {"label": name, "box": [left, top, right, bottom]} in pixels; "" where none are known.
    time: of the photograph, from the file name or a table, such as 2018-08-30T16:45:45; "" where there is none.
    archive: name of the folder that an archive was extracted to; "" outside of archives.
    sha256: of the file's bytes.
    given_split: train, val, test, val+test or unlabelled where the data bring a split; "" elsewhere.

A table of images (`tables.py`) adds its other columns. Splitting the images adds `session` and `split`.
"""

import csv
import hashlib
import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import compress
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from alu_defects.data.files import Excluded, Reason
from alu_defects.data.hashes import hash_files
from alu_defects.data.sessions import capture_time
from alu_defects.errors import UserError

log = logging.getLogger(__name__)

pd.set_option("mode.string_storage", "python")  # pyarrow, where it is installed, refuses names that are not UTF-8

COLUMNS = ("path", "label", "labels", "boxes", "time", "archive", "sha256", "given_split")
EXCLUDED_COLUMNS = ("path", "archive", "label", "split", "reason", "detail")


# found in every archive or file system; all others are worth a warning
EXPECTED = frozenset({Reason.HIDDEN, Reason.MASK, Reason.SAME_NAME, Reason.SAME_CONTENT, Reason.CLASS_OTHER})
EXPECTED |= {Reason.ROUND1, Reason.ROUND2, Reason.NO_CLASS, Reason.SEVERAL_CLASSES}


@dataclass(frozen=True)
class ImageRecord:
    """One image before it becomes a row; the fields are named after the columns."""

    path: str
    labels: tuple[str, ...]
    archive: str = ""
    boxes: str = ""
    time: str = ""  # "": that of the file name
    sha256: str = ""
    given_split: str = ""

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.rpartition("/")[2]

    @property
    def label(self) -> str:
        """The class if there is exactly one, else ""."""
        return self.labels[0] if len(self.labels) == 1 else ""

    def exclude(self, reason: Reason, detail: str = "") -> Excluded:
        """The entry of this image among the excluded ones."""
        return Excluded(self.path, reason, detail, self.archive, "|".join(self.labels))


class FoundImages(NamedTuple):
    """The images below a root, and what is excluded."""

    table: pd.DataFrame  # the catalog
    excluded: pd.DataFrame  # all that is not in it, with the columns `EXCLUDED_COLUMNS`; the split is still empty


@dataclass(frozen=True)
class Roots:
    """Several folders of images: `roots / "2/pit/7.png"` is `pit/7.png` in the second.

    Paths in a catalog begin with the number of their root, so each of the folders may be moved or renamed.
    """

    folders: tuple[Path, ...]

    def __truediv__(self, path: str) -> Path:
        number, _, below = path.partition("/")
        return self.folders[int(number) - 1] / below

    def __str__(self) -> str:
        return f"[{','.join(map(str, self.folders))}]"

    @property
    def name(self) -> str:
        """The names of the folders."""
        return ", ".join(folder.name for folder in self.folders)


Root = Path | Roots


def file_paths(root: Root, paths: Iterable[str]) -> list[str]:
    """The files of images of a catalog; texts, since making a `Path` of each takes longer than listing them."""
    return [f"{root}/{path}" if isinstance(root, Path) else str(root / path) for path in paths]


def folders_of(root: Root) -> dict[str, Path]:
    """The folders of a root by what the paths of their images begin with: `""` for one, `1/`, `2/`, … for several."""
    return {f"{n}/": folder for n, folder in enumerate(root.folders, 1)} if isinstance(root, Roots) else {"": root}


def existing_root(root: str | Path | Sequence[str]) -> Root:
    """The root as an absolute path, or several; a `UserError` if one is no folder, or lies in another."""
    if not isinstance(root, list | tuple):
        return existing_folder(root)
    if not root:
        raise UserError("data.root=[] names no folder; give the folder of the images")
    folders = [existing_folder(one) for one in root]
    for i, one in enumerate(folders):
        for other in folders[:i] + folders[i + 1 :]:
            if one.resolve().is_relative_to(other.resolve()):
                raise UserError(f"data.root={Roots(tuple(folders))}: {one} lies in {other}; give each image once")
    return Roots(tuple(folders)) if len(folders) > 1 else folders[0]


def existing_folder(root: str | Path | Sequence[str]) -> Path:
    """One root as an absolute path; a `UserError` if it is no folder."""
    if isinstance(root, list | tuple):
        raise UserError(f"data.root={root}: this source reads one folder; data=folder and data=table read several")
    path = Path(str(root)).expanduser().absolute()  # the command line reads a folder named 2018 as a number
    if not path.is_dir():
        meant = "" if str(path) == str(root) else f" ({path})"
        raise UserError(f"data.root={root} is not a folder{meant}; give the folder of the images")
    return path


def with_hashes(root: Root, images: Sequence[ImageRecord]) -> tuple[list[ImageRecord], list[Excluded]]:
    """The images with the hash of their content, and those that are dead links; other errors as of `hash_files`.

    Dead links are excluded as broken images, which `DefectData` refuses unless `on_broken` is `exclude`.
    """
    targets = [dead_link(file) for file in file_paths(root, [image.path for image in images])]
    dead = [p.exclude(Reason.BROKEN, target) for p, target in zip(images, targets, strict=True) if target]
    images = [image for image, target in zip(images, targets, strict=True) if not target]
    found = hash_files(file_paths(root, [image.path for image in images]))
    # `replace` takes three times as long, which counts with 200,000 images
    return [ImageRecord(**(vars(p) | {"sha256": sha256})) for p, sha256 in zip(images, found, strict=True)], dead


def dead_link(file: str) -> str:
    """What is wrong with a link whose target does not exist; "" of any other file."""
    if os.path.exists(file) or not os.path.islink(file):  # noqa: PTH110, PTH114 (a Path takes longer than the call)
        return ""
    return f"a link to {os.readlink(file)}, which is not there"  # noqa: PTH115


def build_catalog(images: Sequence[ImageRecord], excluded: Sequence[Excluded], classes: Sequence[str]) -> FoundImages:
    """Make the tables; logs what is excluded, with a warning if that is not `EXPECTED`.

    The images are sorted by class, in the order of `classes`, and path, those of several classes and of none last.
    """
    kinds = (*classes, "several", "unlabelled")
    rank = {p.labels: kinds.index(_kind(p.label, p.labels)) for p in {p.labels: p for p in images}.values()}
    rows = sorted(images, key=attrgetter("path"))
    rows.sort(key=lambda image: rank[image.labels])  # as by class and path at once, in half the time
    known = [
        (
            p.path,
            p.label,
            "|".join(p.labels),
            p.boxes,
            p.time or capture_time(p.name),
            p.archive,
            p.sha256,
            p.given_split,
        )
        for p in rows
    ]
    table = pd.DataFrame(known, columns=COLUMNS, dtype=str)
    others = [(one.path, one.archive, one.label, "", one.reason.value, one.detail) for one in sorted(excluded)]
    missing = pd.DataFrame(others, columns=EXCLUDED_COLUMNS, dtype=str)
    for reason, count in count_reasons(missing).items():
        path, detail = missing.loc[missing["reason"] == reason, ["path", "detail"]].iloc[0]
        level = logging.INFO if reason in EXPECTED else logging.WARNING
        log.log(level, "excluded: %d × %s, such as %s%s", count, reason, path, f" ({detail})" if detail else "")
    return FoundImages(table, missing)


def doubts_about_classes(table: pd.DataFrame) -> list[str]:
    """What makes it doubtful that the classes of a catalog are those that its maker meant, for people."""
    labels = [name for name in table["label"].unique() if name]
    alike = defaultdict[str, list[str]](list)
    for name in labels:
        alike[" ".join(name.casefold().split())].append(name)
    found = [
        f"{' and '.join(map(repr, names))} are {len(names)} classes, though they differ in capitals or blanks alone; "
        "rename one if they are the same"
        for names in alike.values()
        if len(names) > 1
    ]
    below = defaultdict[str, set[str]](set)  # class → folders in its folder, "" for none
    for path, label in zip(table["path"], table["label"], strict=True):
        *folders, _ = path.split("/")
        if label in folders:
            below[label].add("".join(folders[folders.index(label) + 1 :][:1]))
    inner = set.union(*below.values()) if below else set[str]()
    if len(below) == len(labels) > 1 < len(inner) and "" not in inner and all(own == inner for own in below.values()):
        found.append(
            f"the folder of each class ({', '.join(labels[:3])}{', …' if len(labels) > 3 else ''}) holds the same "
            f"folders ({', '.join(sorted(inner)[:5])}); if these are the classes, give the outer ones: data.root=[a,b]"
        )
    return found


def count_by_archive(table: pd.DataFrame) -> pd.DataFrame:
    """Images by class (rows) and archive (columns), with totals; those of no archive are in the total alone."""
    kinds = pd.Series([_kind(*row) for row in zip(table["label"], table["labels"], strict=True)], name="class")
    counts = with_totals(pd.crosstab(kinds, table["archive"]).reindex(kinds.unique()))
    return counts.drop(columns="", errors="ignore").rename_axis(index="class", columns="archive")


def with_totals(counts: pd.DataFrame) -> pd.DataFrame:
    """The counts with a column and a row of their sums, `total`."""
    counts = counts.assign(total=counts.sum(axis="columns"))
    return pd.concat([counts, counts.sum().to_frame("total").T])


def count_reasons(excluded: pd.DataFrame) -> pd.Series:
    """How many files and folders are excluded for which reason, the most frequent first."""
    return excluded["reason"].value_counts()


def _kind(label: str, labels: str | tuple[str, ...]) -> str:
    return label or ("several" if labels else "unlabelled")


class FilesOfCatalog(NamedTuple):
    """The files of a catalog below a root: their paths."""

    unchanged: list[str]
    missing: list[str]
    changed: list[str]


def compare_files(root: Root, table: pd.DataFrame) -> FilesOfCatalog:
    """Look which files of a catalog are below a root, with the content that they had."""
    paths = file_paths(root, table["path"])
    there = [Path(path).is_file() for path in paths]
    now = dict(zip(found := list(compress(paths, there)), hash_files(found), strict=True))
    same = [now.get(path) == then for path, then in zip(paths, table["sha256"], strict=True)]
    kinds = [0 if s else 2 if t else 1 for s, t in zip(same, there, strict=True)]
    return FilesOfCatalog(*([p for p, kind in zip(paths, kinds, strict=True) if kind == k] for k in range(3)))


def verify_files(root: Root, found: FilesOfCatalog, instead: str = "") -> None:
    """Refuse with a `UserError` files of which one is missing or has changed; `instead` is a further thing to do."""
    total = sum(map(len, found))
    instead = f"; {instead}" if instead else ""
    if found.missing:
        raise UserError(
            f"{found.missing[0]} is missing: {root} holds {total - len(found.missing)} of the {total} images of the "
            f"run that are needed. Give the folder that holds all of them with data.root=…{instead}"
        )
    if found.changed:
        raise UserError(
            f"{found.changed[0]} is not the image that the run was made with: {len(found.changed)} of {total} have "
            f"changed. Restore them{instead}"
        )


def data_hash(catalog: pd.DataFrame) -> str:
    """SHA-256 of which images there are, how they are labelled and how they are split."""
    columns = [c for c in ("path", "label", "split", "sha256") if c in catalog]
    text = catalog[columns].sort_values("path").to_csv(index=False, lineterminator="\n")
    return hashlib.sha256(os.fsencode(text)).hexdigest()


def save_catalog(catalog: pd.DataFrame, path: Path) -> None:
    """Write a catalog as CSV; names that are not UTF-8 survive and, thanks to the quotes, those with line ends."""
    catalog.to_csv(path, index=False, errors="surrogateescape", quoting=csv.QUOTE_ALL)


def load_catalog(path: Path) -> pd.DataFrame:
    """Read a catalog written by `save_catalog`."""
    return pd.read_csv(path, dtype=str, keep_default_na=False, encoding_errors="surrogateescape")
