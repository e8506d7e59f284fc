"""Everything that can be known about a data set before a model is trained on it. Nothing below its root is changed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from alu_defects.data import catalog, files, findings, leakage, pixels, similarity, splits
from alu_defects.data.catalog import Scan
from alu_defects.data.datamodule import DefectData
from alu_defects.data.findings import Finding, Kind, Severity
from alu_defects.data.inspection import inspect_all
from alu_defects.data.left_out import Reason
from alu_defects.errors import UserError


@dataclass(frozen=True)
class Audit:
    """The outcome of an audit.

    Attributes:
        root: where the pictures lie.
        table: the catalogue that would be trained on, with its split; without it if the pictures cannot be divided.
        pictures: every picture file, in the catalogue or not: path, label, session and split ("" where there is none),
            width, height, mode and format (0 and "" where it cannot be decoded).
        archives: pictures by class and archive; None if they are not from several archives.
        findings: columns `findings.COLUMNS`, the gravest first.
        leakage: what the capture times give away; None where there are none.
    """

    root: Path
    table: pd.DataFrame
    pictures: pd.DataFrame
    archives: pd.DataFrame | None
    findings: pd.DataFrame
    leakage: leakage.Leakage | None

    @property
    def fails(self) -> bool:
        """Whether training would fail."""
        return bool((self.findings["severity"] == Severity.ERROR).any())

    @property
    def verdict(self) -> str:
        """One sentence."""
        errors = self.findings[self.findings["severity"] == Severity.ERROR]
        unreadable = int((errors["kind"] != Kind.CANNOT_START).sum())
        reasons = []
        if unreadable < len(errors):
            reasons.append(str(Kind.CANNOT_START))
        if unreadable:
            reasons.append(f"{unreadable} {'picture' if unreadable == 1 else 'pictures'} cannot be decoded")
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
        """Pictures by class and split, with totals."""
        if "split" not in self.table:
            return self.table["label"].value_counts(sort=False).to_frame("pictures").rename_axis("class")
        counts = pd.crosstab(self.table["label"], self.table["split"]).reindex(self.table["label"].unique())
        counts = counts[sorted(counts, key=lambda name: [*splits.SPLITS, name].index(name))]
        counts["total"] = counts.sum(axis="columns")
        return pd.concat([counts, counts.sum().to_frame("total").T]).rename_axis("class")

    def sizes(self) -> pd.DataFrame:
        """Decoded pictures by format, channels and size, the most frequent first."""
        decoded = self.pictures[self.pictures["width"] > 0]
        size = decoded["width"].astype(str) + "×" + decoded["height"].astype(str)
        counts = decoded.assign(size=size).groupby(["size", "mode", "format"]).size()
        return counts.sort_values(ascending=False, kind="stable").rename("pictures").reset_index()


def audit(data: DefectData, *, max_distance: int = similarity.NEAR, progress: bool = True) -> Audit:
    """Catalogue, divide, decode and compare the pictures.

    Args:
        data: not yet scanned.
        max_distance: bits in which the hashes of near-duplicates may differ, of `similarity.BITS`.
        progress: show a progress bar.

    Raises:
        UserError: there is no such root.
    """
    found: list[Finding] = []
    try:
        table = data.scan()
    except UserError as error:  # what the data cause: wrong settings are refused when `DefectData` is made
        if data.found is None and data.source == "synthetic":
            raise  # there is nothing that could be looked at
        found.append(Finding(Severity.ERROR, Kind.CANNOT_START, "", detail=str(error)))
        table = _undivided(data.found)
    root = data.root if data.found else catalog.existing_root(data.source_options["root"])
    pictures = _all_pictures(root, table, data.found)
    seen = inspect_all([root / path for path in pictures["path"]], progress)
    for column in ("width", "height", "mode", "format"):
        pictures[column] = [getattr(one, column) for one in seen]
    needed = len(table) if data.found else len(pictures)  # what training would read comes first
    for row, (path, one) in enumerate(zip(pictures["path"], seen, strict=True)):
        for kind, text in one.remarks:
            found.append(Finding(findings.severity(kind, fatal=row < needed), kind, path, "", text))
    found += _of_bits(data.bits, dict(zip(pictures["path"], (one.largest for one in seen), strict=True)), needed)
    if data.found:
        labels = dict(zip(pictures["path"], pictures["label"], strict=True))
        found += findings.of_left_out(data.found.left_out, labels)
    hashes = np.array([one.hash for one in seen[: len(table)]], np.uint8).reshape(len(table), similarity.BITS // 8)
    near = similarity.near_duplicates(hashes, max_distance)
    found += _of_pairs(pictures, near, hashes)
    across = similarity.across_splits(near, pictures)
    return Audit(
        root=root,
        table=table,
        pictures=pictures,
        archives=_archives(data.found),
        findings=findings.table(found),
        leakage=leakage.probe(table, near_duplicates=len(across)) if "split" in table else None,
    )


def _undivided(found: Scan | None) -> pd.DataFrame:
    """The pictures that would be divided."""
    if found is None:
        return pd.DataFrame(columns=list(catalog.COLUMNS), dtype=str)
    return found.table[found.table["label"] != ""].reset_index(drop=True)


def _all_pictures(root: Path, table: pd.DataFrame, found: Scan | None) -> pd.DataFrame:
    """Path, label, session and split of every picture file below the root, first those of the table in its order."""
    if found is None:
        paths = [path for path in files.below(root)[0] if files.is_picture(path)]
        return pd.DataFrame({"path": paths, "label": "", "session": "", "split": ""}, dtype=str)
    others = found.table.assign(label=found.table["labels"])
    aside = found.left_out[found.left_out["reason"] != Reason.HIDDEN]
    aside = aside[[files.is_picture(path) and (root / path).is_file() for path in aside["path"]]]
    parts = [
        part.reindex(columns=["path", "label", "session", "split"], fill_value="") for part in (table, others, aside)
    ]
    return pd.concat(parts, ignore_index=True).drop_duplicates("path", ignore_index=True)


def _of_bits(bits: int | str, largest: Mapping[str, int | None], needed: int) -> list[Finding]:
    """What 16-bit images use of their bits, and those that use more than `data.bits`; training would read the first."""
    values = {path: value for path, value in largest.items() if value is not None}
    read = {path: values[path] for path in list(largest)[:needed] if path in values}
    if not values:
        return []
    most = max((read or values).values())
    bits = bits if isinstance(bits, int) else pixels.fewest_bits(most)
    text = f"{len(values)}, of which training would read {len(read)}; with data.bits={bits} white is {2**bits - 1}"
    kinds = {path: findings.severity(Kind.ABOVE_BITS, fatal=path in read) for path in values if values[path] >= 2**bits}
    return [
        Finding(
            findings.severity(Kind.SIXTEEN_BITS), Kind.SIXTEEN_BITS, "", "", f"{text}, and their largest value {most}"
        ),
        *(Finding(kinds[path], Kind.ABOVE_BITS, path, "", f"its largest value is {values[path]}") for path in kinds),
    ]


def _of_pairs(pictures: pd.DataFrame, pairs: similarity.Int64, hashes: similarity.UInt8) -> list[Finding]:
    """Of every picture that looks like an earlier one the gravest pair, and of those the nearest.

    A rig that does not move can make all pictures alike, and all of their pairs would be too many to look at. Shots of
    one session that the camera took without moving are no finding as long as they are in one part of the split.
    """
    columns = ("path", "label", "split", "session")
    paths, labels, splits, sessions = (pictures[column].to_numpy(dtype=object) for column in columns)
    i, j = pairs.T
    burst = (sessions[i] == sessions[j]) & (sessions[i] != "") & (splits[i] == splits[j])
    i, j = pairs[~burst].T
    kinds = (Kind.NEAR_ACROSS, Kind.NEAR_LABELS, Kind.NEAR)
    ranks = np.select([(splits[i] == "train") != (splits[j] == "train"), labels[i] != labels[j]], [0, 1], 2)
    bits = np.bitwise_count(hashes[i] ^ hashes[j]).sum(axis=1)
    found = []
    order = pd.DataFrame({"j": j, "rank": ranks, "bits": bits}).sort_values(["rank", "bits"], kind="stable")
    for k in order.drop_duplicates("j").index:
        one, other = (", ".join(filter(None, (labels[row], splits[row]))) for row in (i[k], j[k]))
        text = f"{one} – {other}; {bits[k]} of {similarity.BITS} bits differ"
        kind = kinds[ranks[k]]
        found.append(Finding(findings.severity(kind), kind, paths[i[k]], paths[j[k]], text))
    return found


def _archives(found: Scan | None) -> pd.DataFrame | None:
    if found is None or found.table["archive"].nunique() < 2:
        return None
    return catalog.summary(found)
