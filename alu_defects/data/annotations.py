"""The boxes around defects that people drew: JSON of labelme (round 2) and XML of Pascal VOC (APSPC)."""

import json
import math
from collections.abc import Iterator, Mapping, Set
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.etree import ElementTree

from alu_defects.errors import UserError

SUFFIXES = frozenset({".json", ".xml"})


class AnnotationError(Exception):
    """An annotation file cannot be used; the message says why."""


class Box(NamedTuple):
    """A class name and its corners, in pixels from the top left."""

    label: str
    left: float
    top: float
    right: float
    bottom: float


def find_annotation(image: str, annotations: Set[str]) -> str:
    """The annotation of an image: of the same name beside it, or in VOC's `Annotations/`; "" if there is none."""
    if not annotations:
        return ""
    path = PurePosixPath(image)
    voc = path.parent.parent / "Annotations" / f"{path.stem}.xml"
    candidates = (path.with_suffix(".json"), path.with_suffix(".xml"), voc)
    return next((str(candidate) for candidate in candidates if str(candidate) in annotations), "")


def read_boxes(path: Path, names: Mapping[str, str]) -> list[Box]:
    """The boxes of one annotation file.

    Args:
        path: .json of labelme or .xml of Pascal VOC.
        names: what annotators write for a class → class name.

    Raises:
        AnnotationError: it does not parse, marks nothing, or has a class that is not in `names`.
        UserError: the file cannot be read at all.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); fix its permissions or remove it") from error
    try:
        marks = list(_labelme(content) if path.suffix == ".json" else _voc(content))
    except (ValueError, KeyError, TypeError, ElementTree.ParseError) as error:
        raise AnnotationError(f"does not parse: {type(error).__name__}: {error}") from error
    if not marks:
        raise AnnotationError("marks nothing")
    if unknown := sorted({label for label, _, _ in marks} - names.keys()):
        raise AnnotationError(f"unknown class {', '.join(unknown)}")
    return [Box(names[label], min(xs), min(ys), max(xs), max(ys)) for label, xs, ys in marks]


def to_json(boxes: list[Box]) -> str:
    """Boxes as the catalog's column of that name holds them."""
    return json.dumps([{"label": label, "box": corners} for label, *corners in boxes], ensure_ascii=False)


Mark = tuple[str, list[float], list[float]]  # label, x of the corners, y of the corners


def _labelme(content: bytes) -> Iterator[Mark]:
    for shape in json.loads(content)["shapes"]:
        if not (points := shape["points"]):
            raise ValueError("a shape without points")
        yield _text(shape["label"]), [_pixels(x) for x, _ in points], [_pixels(y) for _, y in points]


def _voc(content: bytes) -> Iterator[Mark]:
    for thing in ElementTree.fromstring(content).iterfind("object"):
        xs, ys = ([_pixels(thing.findtext(f"bndbox/{axis}{end}")) for end in ("min", "max")] for axis in "xy")
        yield _text(thing.findtext("name")), xs, ys


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a class")
    return value.strip()


def _pixels(value: object) -> float:
    """A coordinate; to a tenth of a pixel, which is finer than anybody draws."""
    if not isinstance(value, int | float | str) or not math.isfinite(number := float(value)):
        raise ValueError(f"{value!r} is not a coordinate")
    return round(number, 1)
