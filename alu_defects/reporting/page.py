"""The HTML page that reports share: one file that needs no network, in light and dark."""

from html import escape

from alu_defects.reporting.text import printable

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #687078; --line: #dfe3e6; --paper: #fff; --card: #f6f7f8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ea; --soft: #9aa2aa; --line: #343a40; --paper: #16191c;
  --card: #1f2327; } }
body { font: 15px/1.5 system-ui, "Noto Sans CJK SC", sans-serif; color: var(--ink); background: var(--paper);
  max-width: 1060px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; margin: 0 0 8px; } h2 { font-size: 19px; margin: 36px 0 6px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 0 4px 18px; border-bottom: 1px solid var(--line); text-align: right; }
th { color: var(--soft); font-weight: 500; } th:first-child, td:first-child { text-align: left; padding-left: 0; }
a { color: inherit; }
"""


def html(title: str, body: str, style: str) -> str:
    """A page with this title, body and further style."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(printable(title))}</title><style>{_STYLE}{style}</style></head>\n<body>\n{body}</body></html>\n"
    )
