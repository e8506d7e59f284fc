"""An audit as one file for the browser, without a network: the verdict, tables, and the images of the findings."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image, ImageOps

from alu_defects.auditing.checks import Audit
from alu_defects.auditing.findings import FIXES, Severity
from alu_defects.data import decode
from alu_defects.reports import html

MAX_SHOWN = {Severity.ERROR: 60, Severity.WARNING: 60, Severity.INFO: 12}  # findings of a kind; audit.csv has all
_THUMBNAIL = (360, 270)  # pixels; shown at half the size, for screens with two pixels a point


def write_audit_page(audit: Audit, path: Path) -> None:
    """Write the page."""
    kinds = audit.findings.groupby(["severity", "kind"], sort=False)
    tables = {"Sizes": audit.sizes()}
    if len(kinds):
        numbers = kinds.size().rename("number").reset_index()[["kind", "severity", "number"]]
        tables = {"Findings": numbers, **tables}
    if audit.archives is not None:
        tables["Archives"] = audit.archives.reset_index()
    warns = (audit.findings["severity"] == Severity.WARNING).any()
    html.write_page(
        path,
        "audit.html",
        title=f"Data audit of {audit.root.name}",
        audit=audit,
        time=f"{datetime.now():%Y-%m-%d %H:%M}",
        status="error" if audit.fails else "warning" if warns else "good",
        tables=tables,
        sections=(_section(audit, Severity(str(name[0])), str(name[1]), found) for name, found in kinds),
    )


def _section(audit: Audit, severity: Severity, kind: str, found: pd.DataFrame) -> dict[str, Any]:
    """The findings of one kind: a card each, with its one or two files."""
    shown = found.head(MAX_SHOWN[severity])
    files = _files(audit, [*shown["path"], *shown["other"]])
    cards = [
        ([files[path] for path in (path, other) if path], detail)
        for path, other, detail in zip(shown["path"], shown["other"], shown["detail"], strict=True)
    ]
    return {"severity": severity, "kind": kind, "fix": FIXES.get(kind, ""), "number": len(found), "cards": cards}


def _files(audit: Audit, paths: list[str]) -> dict[str, dict[str, Any]]:
    """What the page shows of each file: link, class and split, and a thumbnail if it can be decoded."""
    rows = audit.images.set_index("path")
    rows = rows.loc[rows.index.intersection(pd.Index(paths)).unique()]
    decoded = list(rows.index[rows["width"] > 0])
    with ThreadPoolExecutor() as pool:
        thumbnails = dict(zip(decoded, pool.map(_thumbnail, [audit.root / path for path in decoded]), strict=True))
    captions = {path: " · ".join(filter(None, map(str, row))) for path, *row in rows[["label", "split"]].itertuples()}
    return {
        path: {
            "path": path,
            "link": (audit.root / path).as_uri(),
            "is_image": path in rows.index,
            "caption": captions.get(path, ""),
            "thumbnail": thumbnails.get(path),
        }
        for path in paths
    }


def _thumbnail(path: Path) -> str:
    with decode.open_image(path) as file:  # the audit has seen how large it is
        deep, pixels = decode.is_16_bit(file), file.width * file.height
        file.draft("RGB", _THUMBNAIL)
        image = ImageOps.exif_transpose(file)
    if deep or image.mode not in ("RGB", "L"):  # as training sees it
        image = Image.fromarray(decode.decode(path, _THUMBNAIL[::-1], bits=None, max_pixels=pixels))
    image.thumbnail(_THUMBNAIL)
    jpeg = BytesIO()
    image.save(jpeg, "JPEG", quality=78)
    return html.data_url(jpeg.getvalue(), "image/jpeg")
