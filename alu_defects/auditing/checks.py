"""Everything that can be known about a data set before a model is trained on it. Nothing below its root is changed."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from rich.progress import track

from alu_defects.auditing import findings
from alu_defects.auditing.findings import Finding, Kind, Severity
from alu_defects.config import Size, size_text
from alu_defects.data import catalog, decode, duplicates, folder, leakage, sources, splits
from alu_defects.data.catalog import FoundImages, Root
from alu_defects.data.datamodule import DefectData
from alu_defects.data.files import Reason, is_image
from alu_defects.data.leakage import NearDuplicates
from alu_defects.errors import UserError


@dataclass(frozen=True)
class Audit:
    """The outcome of an audit."""

    root: Root  # of the images
    table: pd.DataFrame  # the catalog that would be trained on; with its split, if the images can be split
    # every image file, in the catalog or not: path, label, session and split ("" where there is none), width, height,
    # mode and format (0 and "" where it cannot be decoded)
    images: pd.DataFrame
    archives: pd.DataFrame | None  # images by class and archive; None if they are not from several archives
    findings: pd.DataFrame  # columns `findings.COLUMNS`, the most severe first
    leakage: leakage.Leakage | None  # what the capture times give away; None where there are none
    alike: NearDuplicates | None  # across the split; None if the images cannot be split

    @property
    def fails(self) -> bool:
        """Whether training would fail."""
        return bool((self.findings["severity"] == Severity.ERROR).any())

    @property
    def verdict(self) -> str:
        """One sentence."""
        errors = self.findings.loc[self.findings["severity"] == Severity.ERROR, "kind"]
        reasons = [str(Kind.CANNOT_START)] if (errors == Kind.CANNOT_START).any() else []
        if unreadable := int((errors != Kind.CANNOT_START).sum()):
            reasons.append(f"{unreadable} {'image' if unreadable == 1 else 'images'} cannot be decoded")
        if reasons:
            return f"Training would fail: {', and '.join(reasons)}."
        warnings = int((self.findings["severity"] == Severity.WARNING).sum())
        what = {0: "nothing to look at", 1: "one thing to look at"}.get(warnings, f"{warnings} things to look at")
        return f"Ready to train; {what}."

    @property
    def note(self) -> str:
        """What a reader of the scores on this split must know."""
        return splits.SELECTED_ON_TEST if "split" in self.table and splits.selected_on_test(self.table) else ""

    def classes(self) -> pd.DataFrame:
        """Images by class and split, with totals."""
        if "split" not in self.table:
            return self.table["label"].value_counts(sort=False).to_frame("images").rename_axis("class")
        counts = pd.crosstab(self.table["label"], self.table["split"]).reindex(self.table["label"].unique())
        counts = counts[sorted(counts, key=lambda name: [*splits.SPLITS, name].index(name))]
        return catalog.with_totals(counts).rename_axis("class")

    def sizes(self) -> pd.DataFrame:
        """Decoded images by format, channels and size, the most frequent first."""
        decoded = self.images[self.images["width"] > 0]
        size = decoded["width"].astype(str) + "×" + decoded["height"].astype(str)
        counts = decoded.assign(size=size).groupby(["size", "mode", "format"]).size()
        return counts.sort_values(ascending=False, kind="stable").rename("images").reset_index()


def audit_images(data: DefectData, *, max_distance: int = duplicates.MAX_HASH_DISTANCE, progress: bool = True) -> Audit:
    """Catalog, split, decode and compare the images.

    Args:
        data: not yet listed.
        max_distance: bits in which the hashes of near-duplicates may differ, of `duplicates.HASH_BITS`.
        progress: show a progress bar.

    Raises:
        UserError: there is no such root.
    """
    found: list[Finding] = []
    try:
        table = data.catalog
    except UserError as error:  # what the data cause: wrong settings are refused when `DefectData` is made
        if data.found is None and data.source in sources.GENERATED:
            raise  # there is nothing that could be looked at
        found.append(Finding(Severity.ERROR, Kind.CANNOT_START, "", detail=str(error)))
        table = data.found.table if data.found else pd.DataFrame(columns=list(catalog.COLUMNS), dtype=str)
        table = table[table["label"] != ""].reset_index(drop=True)  # what would be split
    found += [Finding(Severity.WARNING, Kind.CLASSES, "", detail=text) for text in catalog.doubts_about_classes(table)]
    found += [Finding(Severity.WARNING, Kind.SPLIT, "", detail=text) for text in data.notes]
    root = data.root if data.found else sources.given_root(data.source, data.source_options)
    images = _all_images(root, table, data.found)
    files = [root / path for path in images["path"]]
    seen = inspect_all(files, data.choose_image_size(files), data.max_pixels, progress)
    for column in ("width", "height", "mode", "format"):
        images[column] = [getattr(one, column) for one in seen]
    needed = len(table) if data.found else len(images)  # what training would read comes first
    for row, (path, one) in enumerate(zip(images["path"], seen, strict=True)):
        for kind, text in one.remarks:
            found.append(Finding(findings.severity_of(kind, fatal=row < needed), kind, path, "", text))
    found += _of_bits(data.bits, {path: one.largest for path, one in zip(images["path"], seen, strict=True)}, needed)
    archives = None
    if data.found:
        labels = dict(zip(images["path"], images["label"], strict=True))
        found += findings.findings_of_excluded(data.found.excluded, labels)
        if len(data.found.table["archive"].unique()) > 1:
            archives = catalog.count_by_archive(data.found.table)
    hashes = np.array([one.hash for one in seen[: len(table)]], np.uint8).reshape(len(table), duplicates.HASH_BITS // 8)
    near = duplicates.near_duplicates(hashes, max_distance)
    found += _of_pairs(images, near, hashes)
    baseline = leakage.time_only_baseline(table) if "split" in table else None
    alike = NearDuplicates.count([near], table) if "split" in table else None
    return Audit(root, table, images, archives, findings.findings_table(found), baseline, alike)


def _all_images(root: Root, table: pd.DataFrame, found: FoundImages | None) -> pd.DataFrame:
    """Path, label, session and split of every image file below the root, first those of the table in its order."""
    if found is None:
        return pd.DataFrame({"path": folder.list_images(root), "label": "", "session": "", "split": ""}, dtype=str)
    others = found.table.assign(label=found.table["labels"])
    aside = found.excluded[~found.excluded["reason"].isin([Reason.HIDDEN, Reason.MASK])]
    aside = aside[[is_image(path) and (root / path).is_file() for path in aside["path"]]]
    columns = ["path", "label", "session", "split"]
    parts = [part.reindex(columns=columns, fill_value="") for part in (table, others, aside)]
    return pd.concat(parts, ignore_index=True).drop_duplicates("path", ignore_index=True)


def _of_bits(bits: int | str, largest: Mapping[str, int | None], needed: int) -> list[Finding]:
    """How many bits the 16-bit images use, and which of them use more than `data.bits`.

    Args:
        bits: `data.bits`.
        largest: path → largest value of a 16-bit image, None of another.
        needed: how many of these images, the first ones, training would read.
    """
    values = {path: value for path, value in largest.items() if value is not None}
    read = {path: values[path] for path in list(largest)[:needed] if path in values}
    if not values:
        return []
    most = max((read or values).values())
    bits = bits if isinstance(bits, int) else decode.fewest_bits(most)
    text = f"{len(values)}, of which training would read {len(read)}; with data.bits={bits} white is {2**bits - 1}"
    text += f", and their largest value {most}"
    found = [Finding(findings.severity_of(Kind.SIXTEEN_BITS), Kind.SIXTEEN_BITS, "", "", text)]
    for path, value in values.items():
        if value >= 2**bits:
            severity = findings.severity_of(Kind.ABOVE_BITS, fatal=path in read)
            found.append(Finding(severity, Kind.ABOVE_BITS, path, "", f"its largest value is {value}"))
    return found


def _of_pairs(images: pd.DataFrame, pairs: duplicates.Int64, hashes: duplicates.UInt8) -> list[Finding]:
    """For every image that looks like an earlier one its most severe pair; of equally severe ones the nearest.

    With a camera that does not move all images can look alike: all of their pairs would be too many to look at. Two
    images of one session that are in the same split are no finding.
    """
    columns = ("path", "label", "split", "session")
    paths, labels, splits, sessions = (images[column].to_numpy(dtype=object) for column in columns)
    i, j = pairs.T
    expected = (sessions[i] == sessions[j]) & (sessions[i] != "") & (splits[i] == splits[j])
    i, j = pairs[~expected].T
    kinds = (Kind.NEAR_ACROSS, Kind.NEAR_LABELS, Kind.NEAR)
    ranks = np.select([(splits[i] == "train") != (splits[j] == "train"), labels[i] != labels[j]], [0, 1], 2)
    bits = np.bitwise_count(hashes[i] ^ hashes[j]).sum(axis=1)
    found = []
    order = pd.DataFrame({"j": j, "rank": ranks, "bits": bits}).sort_values(["rank", "bits"], kind="stable")
    for k in order.drop_duplicates("j").index:
        one, other = (", ".join(filter(None, (labels[row], splits[row]))) for row in (i[k], j[k]))
        text = f"{one} – {other}; {bits[k]} of {duplicates.HASH_BITS} bits differ"
        kind = kinds[ranks[k]]
        found.append(Finding(findings.severity_of(kind), kind, paths[i[k]], paths[j[k]], text))
    return found


MIN_SIDE_PIXELS = 32  # pixels; backbones halve an image five times
MAX_ASPECT_RATIO = 5  # of the image to that of the frame that it is squashed into
_ORIENTATION = 0x0112  # the EXIF tag; 1 is upright
_SAME_FORMAT = {"MPO": "JPEG"}  # what phones write: a JPEG with further images behind it


class Inspection(NamedTuple):
    """What was seen of one file; the defaults where it could not be decoded."""

    width: int = 0  # in pixels, as stored
    height: int = 0
    mode: str = ""  # of Pillow, such as RGB, L or I;16
    format: str = ""  # such as JPEG
    remarks: tuple[tuple[Kind, str], ...] = ()  # with what is to be said of each; at most one is in `UNDECODABLE`
    hash: duplicates.UInt8 = np.zeros(duplicates.HASH_BITS // 8, np.uint8)
    largest: int | None = None  # value of a 16-bit image; None of another


def inspect_all(
    paths: Sequence[Path], image_size: Size, max_pixels: int = decode.MAX_PIXELS, progress: bool = True
) -> list[Inspection]:
    """Inspect files in parallel, in their order."""
    with ThreadPoolExecutor() as pool:  # Pillow decodes without the interpreter lock
        jobs = pool.map(lambda path: inspect_file(path, image_size, max_pixels), paths)
        return list(track(jobs, f"decoding {len(paths)} images", total=len(paths), disable=not progress))


def inspect_file(path: Path, image_size: Size, max_pixels: int = decode.MAX_PIXELS) -> Inspection:
    """Decode one file completely, whatever it holds: nothing is raised for a file that cannot be decoded."""
    try:
        if path.stat().st_size == 0:
            return Inspection(remarks=((Kind.EMPTY, ""),))
        with decode.open_image(path, max_pixels) as file:
            return _inspect_opened(path, file, image_size)
    except decode.TooManyPixelsError as error:
        return Inspection(remarks=((Kind.HUGE, str(error)),))
    except UnidentifiedImageError:
        with path.open("rb") as head:
            return Inspection(remarks=((Kind.NO_IMAGE, f"it begins with {head.read(16)!r}"),))
    except Exception as error:  # Pillow raises many kinds for broken files; every one becomes a finding
        kind = Kind.TRUNCATED if "truncated" in str(error).lower() else Kind.BROKEN
        return Inspection(remarks=((kind, f"{type(error).__name__}: {error}"),))


def _inspect_opened(path: Path, file: ImageFile.ImageFile, image_size: Size) -> Inspection:
    remarks: list[tuple[Kind, str]] = []
    width, height = file.size
    size = f"{width}×{height} pixels"
    if min(width, height) < MIN_SIDE_PIXELS:
        remarks.append((Kind.TINY, size))
    found = str(file.format)
    said = Image.registered_extensions().get(path.suffix.lower())
    if said != _SAME_FORMAT.get(found, found):
        remarks.append((Kind.OTHER_FORMAT, f"the content is {found}"))
    if (frames := getattr(file, "n_frames", 1)) > 1:
        remarks.append((Kind.FRAMES, f"{frames} frames"))
    deep, mode = decode.is_16_bit(file), file.mode
    file.load()
    image: Image.Image = file
    if (orientation := file.getexif().get(_ORIENTATION, 1)) != 1:
        remarks.append((Kind.TURNED, f"orientation {orientation}; training turns it upright too"))
        image = ImageOps.exif_transpose(file)
    ratio = image.width * image_size[0] / (image.height * image_size[1])
    if max(ratio, 1 / ratio) > MAX_ASPECT_RATIO:
        remarks.append((Kind.NARROW, f"{size}; data.image_size={size_text(image_size)}"))
    if deep or mode not in ("RGB", "L"):  # as training makes it RGB, with what it refuses to
        # how bright it is does not change the hash
        image = Image.fromarray(decode.decode(path, (256, 256), bits=None, max_pixels=width * height))
    hashed = duplicates.perceptual_hash(image)
    if not hashed.any() and image.getcolors(1):  # None if there are more
        remarks.append((Kind.ONE_COLOUR, f"all pixels are {image.getpixel((0, 0))}"))
    largest = decode.largest_value(path, width * height) if deep else None
    return Inspection(width, height, mode, found, tuple(remarks), hashed, largest)
