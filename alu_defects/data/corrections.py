"""Labels of the competition that people have reported as wrong: corrections.csv.

A row holds for pictures of that name in the class `was`. Where it gives no other label, theirs is doubtful and stays.
"""

import csv
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from alu_defects.data.catalog import Picture

log = logging.getLogger(__name__)

FILE = Path(__file__).with_name("corrections.csv")


def correct(pictures: Sequence[Picture]) -> list[Picture]:
    """The pictures with the right labels; which are changed and which are doubtful is logged."""
    with FILE.open(encoding="utf-8", newline="") as file:
        known: dict[tuple[str, tuple[str, ...]], str] = {
            (row["name"], (row["was"],)): row["label"] for row in csv.DictReader(file)
        }
    concerned = {p.path: known[p.name, p.labels] for p in pictures if (p.name, p.labels) in known}
    right = {path: (label,) for path, label in concerned.items() if label}
    if right:
        changes = ", ".join(f"{path} is {label}" for path, (label,) in right.items())
        log.info("%d labels corrected, data.corrections=false leaves them: %s", len(right), changes)
    if doubtful := [path for path, label in concerned.items() if not label]:
        log.info("%d labels are doubtful and kept: %s", len(doubtful), ", ".join(doubtful))
    return [replace(p, labels=right.get(p.path, p.labels)) for p in pictures]
