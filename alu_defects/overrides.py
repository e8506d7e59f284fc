"""What a person types, such as `data.root=~/photos (new)` → an override that Hydra reads as exactly that.

It is prepared in one place, `prepare_overrides`: paths and texts are quoted, and shorthands such as `split=test` of
evaluate are written out.
"""

import re
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

# Settings that hold a file or a folder. A new one belongs in here, so that it takes every path.
PATH_SETTINGS = (
    "data.root",
    "data.cache_dir",
    "data.table",
    "labels",
    "model.weights",
    "output",
    "paths.cache",
    "paths.runs",
    "reference",
    "resume",
    "run",
    "run_dir",
    "runs",
    "save_maps",
    "source",
    "split.file",
)
COLUMN_SETTINGS = tuple(f"data.columns.{name}" for name in ("path", "label", "split", "group", "time"))
# what is typed for them is never a number, true or false
TEXT_SETTINGS = (
    *PATH_SETTINGS,
    *COLUMN_SETTINGS,
    "classes",
    "data.group",
    "host",
    "layer",
    "operating.normal",
    "token",
    "webhook",
)
LIST_SETTINGS = ("classes", "data.root", "runs")  # of these, [a,b] are two texts; elsewhere it is one that is called so

# what Hydra would take for a group of conf/ or for a sweep → the override that is meant
SHORTHANDS = {
    "evaluate": {"split": "split.name={}", "data": "data.source={}"},
    "explain": {"split": "split.name={}"},
    "benchmark": {"model": "models=[{}]"},
    "export": {"format": "formats=[{}]", "precision": "precisions=[{}]"},
}

_WORD = re.compile(r"(?P<sign>\+\+|\+|~|)(?P<key>[^=]*)=(?P<value>.*)", re.DOTALL)
_QUOTED = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
_CALL = re.compile(r"(?:choice|glob|interval|range|shuffle|sort|tag)\s*\(.*\)", re.DOTALL)
_TOKEN = re.compile(rf"(?<![^,\[({{\s]){_QUOTED}(?=\s*(?:[,\])}}]|$))|.", re.DOTALL)


def prepare_overrides(config_name: str, words: Sequence[str], sweep: bool = False) -> list[str]:
    """The words of a command line as overrides for Hydra, which would refuse or change many a path.

    Settings of `TEXT_SETTINGS` reach the code exactly as they are typed, and so does every other value that Hydra
    cannot read. As in Hydra remain: what is quoted already (`"/a b"`), `null`, interpolations (`${paths.cache}/x`), and
    values that Hydra reads, of all other settings: numbers, lists, sweeps. Prepared words are prepared already. In a
    `sweep` (-m) commas separate the values; a comma inside a value then needs quotes.
    """
    return [_override(SHORTHANDS.get(config_name, {}), word, sweep) for word in words]


def setting_of(word: str) -> str:
    """The setting or group that an override is about: `optimizer.lr` of `++optimizer.lr=1`."""
    return word.split("=", 1)[0].lstrip("+~")


def _override(shorthands: dict[str, str], word: str, sweep: bool) -> str:
    match = _WORD.fullmatch(word)
    if not match:  # ~name, or what Hydra will complain about
        return word
    sign, key, value = match.groups()
    if key in shorthands and not sign:
        key, value = shorthands[key].format(value).split("=", 1)
    text = key in TEXT_SETTINGS
    return f"{sign}{key}={_quoted_value(value, text=text, lists=key in LIST_SETTINGS or not text, sweep=sweep)}"


def _quoted_value(value: str, *, text: bool, lists: bool, sweep: bool = False) -> str:
    if sweep and _CALL.fullmatch(value):
        return value
    if not text and _parse(value):
        return value
    if sweep and len(parts := _split_at_commas(value)) > 1:
        return ",".join(_quoted_value(part, text=text, lists=lists) for part in parts)
    if lists and value.startswith("[") and value.endswith("]"):
        parts = _split_at_commas(value[1:-1])
        return f"[{','.join(_quoted_value(part, text=text, lists=lists) for part in parts)}]"
    return quote(value)


def quote(value: str) -> str:
    """The value as Hydra reads it as this text; unchanged where it already does."""
    if value in ("", "null") or re.fullmatch(_QUOTED, value, re.DOTALL):
        return value
    read = _parse(value)
    if read and read.value() == value == read.get_value_element_as_str():
        return value
    return QuotedString(value, Quote.double if "'" in value else Quote.single).with_quotes()


def _parse(value: str) -> Override | None:
    """What Hydra reads; None: it cannot."""
    try:
        return OverridesParser.create().parse_override(f"x={value}")
    except HydraException:
        return None


def _split_at_commas(value: str) -> list[str]:
    """At the commas that are outside quotes and brackets, without the blanks around them."""
    parts, depth = [""], 0
    for token in _TOKEN.findall(value):
        depth = max(0, depth + (token in "[({") - (token in "])}"))
        if token == "," and not depth:
            parts.append("")
        else:
            parts[-1] += token
    return [part.strip() for part in parts]
