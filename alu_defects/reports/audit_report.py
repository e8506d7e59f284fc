"""An audit as one file for the browser, without a network: the verdict, tables, and what was found as images."""

import base64
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from html import escape
from io import BytesIO
from pathlib import Path

import pandas as pd
from PIL import Image, ImageOps

from alu_defects.auditing.checks import Audit
from alu_defects.auditing.findings import FIXES, Severity
from alu_defects.data import decode
from alu_defects.reports import html
from alu_defects.reports.terminal import printable

MAX_SHOWN = {Severity.ERROR: 60, Severity.WARNING: 60, Severity.INFO: 12}  # shown of one kind; audit.csv has all
_THUMBNAIL = (360, 270)  # pixels, for screens with two a point


def write_audit_page(audit: Audit, path: Path) -> None:
    """Write the page."""
    title = f"Data audit of {audit.root.name}"
    path.write_text(html.html_page(title, "\n".join(_body(audit)), _STYLE), encoding="utf-8")


def _body(audit: Audit) -> Iterator[str]:
    colour = "error" if audit.fails else "warning" if Severity.WARNING in set(audit.findings["severity"]) else "good"
    yield f"""<header><h1>Data audit</h1>
<p>{len(audit.images)} images below {_html(str(audit.root))}, {datetime.now():%Y-%m-%d %H:%M}</p></header>
<p class="verdict {colour}">{_html(audit.verdict)}</p>
<div class="tables"><div>"""
    kinds = audit.findings.groupby(["severity", "kind"], sort=False)
    if len(audit.table):
        yield _table("Images", audit.classes().reset_index())
        yield f"<p>{_html(audit.note)}</p>"
    yield "</div><div>"
    if len(kinds):
        yield _table("Findings", kinds.size().rename("number").reset_index()[["kind", "severity", "number"]])
    yield _table("Sizes", audit.sizes())
    if audit.archives is not None:
        yield _table("Archives", audit.archives.reset_index())
    yield "</div></div>"
    if audit.leakage:
        yield f"<h2>What the split gives away</h2><p>{_html(audit.leakage.sentence())}</p>"
    for (severity, kind), found in kinds:
        yield from _section(audit, Severity(str(severity)), str(kind), found)


def _section(audit: Audit, severity: Severity, kind: str, found: pd.DataFrame) -> Iterator[str]:
    shown = found.head(MAX_SHOWN[severity])
    yield f'<h2><i class="{severity}">{severity}</i> {_html(kind)} <small>{len(found)}</small></h2>'
    yield f"<p>{_html(FIXES.get(kind, ''))}</p>"
    album = _Album(audit, [*shown["path"], *shown["other"]])
    yield '<div class="cards">'
    for path, other, detail in zip(shown["path"], shown["other"], shown["detail"], strict=True):
        figures = "".join(album.figure(one) for one in (path, other) if one)
        yield f'<article class="of{2 if other else 1}"><div>{figures}</div><p>{_html(detail)}</p></article>'
    yield "</div>"
    if len(shown) < len(found):
        yield f"<p>The first {len(shown)} of {len(found)}; audit.csv has all.</p>"


class _Album:
    """Thumbnails of the files of one section, each linked to the file."""

    def __init__(self, audit: Audit, paths: Iterable[str]) -> None:
        self.root = audit.root
        rows = audit.images.set_index("path")
        self.rows = rows.loc[rows.index.intersection(pd.Index(list(paths))).unique()]
        decoded = list(self.rows.index[self.rows["width"] > 0])
        with ThreadPoolExecutor() as pool:
            made = pool.map(_thumbnail, [self.root / path for path in decoded])
            self.thumbnails = dict(zip(decoded, made, strict=True))

    def figure(self, path: str) -> str:
        """A file: its image if there is one, class and split, and path."""
        caption, image = "", ""
        if path in self.rows.index:
            row = self.rows.loc[path]
            image = '<div class="none">cannot be decoded</div>'
            caption = " · ".join(word for word in map(str, row[["label", "split"]]) if word)
        if path in self.thumbnails:
            image = f'<img src="data:image/jpeg;base64,{self.thumbnails[path]}" alt="">'
        link, name = escape((self.root / path).as_uri()), _html(path).replace("/", "/<wbr>")
        return f'<figure><a href="{link}">{image}</a><b>{_html(caption)}</b><span>{name}</span></figure>'


def _thumbnail(path: Path) -> str:
    with Image.open(path) as file:
        deep = decode.is_16_bit(file)
        file.draft("RGB", _THUMBNAIL)
        image = ImageOps.exif_transpose(file)
    if deep or image.mode not in ("RGB", "L"):  # as training sees it
        image = Image.fromarray(decode.decode(path, min(_THUMBNAIL), bits=None))
    image.thumbnail(_THUMBNAIL)
    jpeg = BytesIO()
    image.save(jpeg, "JPEG", quality=78)
    return base64.b64encode(jpeg.getvalue()).decode("ascii")


def _table(title: str, table: pd.DataFrame) -> str:
    head = "".join(f"<th>{_html(str(name))}</th>" for name in table)
    lines = ["".join(f"<td>{_html(str(cell))}</td>" for cell in row) for row in table.itertuples(index=False)]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<section><h2>{_html(title)}</h2><table><tr>{head}</tr>{body}</table></section>"


def _html(text: str) -> str:
    return escape(printable(text))


_STYLE = """:root { --error: #b3261e; --warning: #8a5a00; --info: #4b5660; --good: #17693a; }
@media (prefers-color-scheme: dark) { :root { --error: #ff8a80; --warning: #f2bd5c; --info: #aab4be;
  --good: #6fd39a; } }
body { max-width: 1180px; } h1 { margin: 0; }
header p { color: var(--soft); margin: 2px 0 20px; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 34px 0 4px; } h2 small { color: var(--soft); font-weight: 400; }
h2 i { font: 600 11px/1 system-ui; letter-spacing: .04em; text-transform: uppercase; border: 1px solid;
  border-radius: 4px; padding: 2px 6px; vertical-align: 2px; }
p { margin: 4px 0; max-width: 76ch; }
.verdict { font-size: 19px; font-weight: 600; padding: 14px 18px; border-left: 5px solid; background: var(--card);
  max-width: none; }
.error { color: var(--error); } .warning { color: var(--warning); } .info { color: var(--info); }
.good { color: var(--good); }
.tables { display: flex; flex-wrap: wrap; gap: 0 56px; }
table { margin-top: 6px; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 14px; margin-top: 12px; }
article { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px; min-width: 0; }
article.of2 { grid-column: span 2; } article > div { display: flex; gap: 10px; }
article p { font-size: 12.5px; color: var(--soft); overflow-wrap: anywhere; }
article p:empty, b:empty, p:empty { display: none; }
figure { margin: 0; flex: 1; min-width: 0; } figure img { width: 100%; border-radius: 4px; display: block; }
figure b { display: block; margin-top: 6px; font-size: 13px; }
figure span { display: block; font-size: 12px; color: var(--soft); overflow-wrap: anywhere; }
.none { aspect-ratio: 4/3; display: grid; place-items: center; border: 1px dashed var(--soft); border-radius: 4px;
  color: var(--soft); font-size: 13px; } .of1 .none { aspect-ratio: 3; } a { text-decoration: none; }
@media (max-width: 520px) { article.of2 { grid-column: auto; } }
"""
