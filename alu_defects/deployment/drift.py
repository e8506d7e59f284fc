"""Whether a line still looks as it did: hourly means of what was decided against those of a reference.

The chart is Shewhart's for means (x-bar): a warning is a mean outside of three standard errors. Images that come one
after the other look alike, and the usual standard error would be too small for them; that of batch means is taken
(Runger and Willemain 1996, Batch-means control charts for autocorrelated data), here of 20 batches (Schmeiser 1982,
Batch size effects in the analysis of simulation output: 10 to 30): a longer reference has longer ones. It is never
below that of independent images: for shares this is the p′-chart (Laney 2002, Improved control charts for attributes)
with a σ_z of at least 1. A share has the variance of Agresti and Coull (1998), which is not 0 if nothing was rejected
yet. The reference is a sample, too, and adds its own error.
"""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from alu_defects.deployment.bundle import Action, Bundle
from alu_defects.deployment.ledger import Ledger
from alu_defects.deployment.table import Row, csv_line
from alu_defects.errors import UserError
from alu_defects.evaluation.calibration import Floats
from alu_defects.io import atomic_write, write_json

log = logging.getLogger(__name__)

BATCHES = 20  # parts of the reference, images in a row, whose means are compared
SIGMAS = 3.0  # Shewhart's
HOUR = 3600.0  # seconds
FEWEST = 100  # images that a mean needs; a slow line waits longer than an hour for them
ROUNDING = 1e-9  # of means of equal values
SHARE = "rejects"  # the quantity that is 0 or 1
TITLES = {SHARE: "share of rejects", "confidence": "mean confidence", "brightness": "mean brightness"}


@dataclass(frozen=True)
class Centre:
    """What a quantity is when all is well: its mean, and the standard deviation that an image adds to a mean."""

    mean: float
    deviation: float

    @classmethod
    def estimate(cls, values: Floats, *, is_share: bool) -> "Centre":
        """Of the values of images, in the order in which they came."""
        number = len(values)
        length = max(1, number // BATCHES)
        batches = values[: number // length * length].reshape(-1, length).mean(axis=1)
        if is_share:
            share = (values.sum() + 2) / (number + 4)  # Agresti and Coull
            independent = share * (1 - share)
        else:
            independent = values.var(ddof=1)
        return cls(float(values.mean()), math.sqrt(max(independent, length * batches.var(ddof=1))))


@dataclass(frozen=True)
class Reference:
    """What hours are compared with.

    Attributes:
        model: the network that decided; another one has other probabilities.
        images: how many there were.
        centres: of each quantity.
    """

    model: str
    images: int
    centres: dict[str, Centre]

    @classmethod
    def measure(cls, model: str, values: dict[str, Floats]) -> "Reference":
        """Of the values of the images, for each quantity."""
        centres = {name: Centre.estimate(found, is_share=name == SHARE) for name, found in values.items()}
        return cls(model, len(next(iter(values.values()))), centres)

    @classmethod
    def load(cls, file: Path) -> "Reference":
        """The reverse of `save`; a `UserError` if the file is damaged or cannot be read."""
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            centres = {name: Centre(**centre) for name, centre in content["centres"].items()}
            return cls(str(content["model"]), int(content["images"]), centres)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"reference={file} cannot be read ({type(error).__name__}: {error}); give a reference_….json of a line"
            ) from error

    def save(self, file: Path) -> None:
        """Write it as JSON."""
        write_json(file, asdict(self))

    def limits(self, name: str, images: int) -> tuple[float, float]:
        """Between which values the mean of so many images lies."""
        centre = self.centres[name]
        width = SIGMAS * centre.deviation * math.sqrt(1 / images + 1 / self.images)
        highest = 255.0 if name == "brightness" else 1.0
        return max(0.0, centre.mean - width), min(highest, centre.mean + width)

    def compare(self, values: dict[str, Floats]) -> Row:
        """The means of an hour with their limits, and what is to be said about them."""
        row: Row = {}
        warnings = []
        for name in self.centres:
            mean, images = float(values[name].mean()), len(values[name])
            low, high = self.limits(name, images)
            row |= {name: mean, f"{name}_low": low, f"{name}_high": high}
            if not low - ROUNDING <= mean <= high + ROUNDING:
                warnings.append(
                    f"{TITLES[name]} is {_text(name, mean)}, outside {_text(name, low)} to {_text(name, high)}"
                )
        return row | {"warning": "; ".join(warnings)}


def _text(name: str, value: float) -> str:
    return f"{value:.1f}" if name == "brightness" else f"{100 * value:.2f} %"


class Drift:
    """Compares each hour of a line with its reference, also if the process was killed meanwhile.

    Args:
        ledger: with the rows, and how far they were compared.
        output: gets drift.csv, a row an hour, and reference_<network>.json.
        bundle: of the network.
        model: a hash of it.
        reference: None: the one in `output`; if there is none, the images that come make one.
        images: of the line that make a reference.

    Raises:
        UserError: a reference that cannot be read, or is of another network.
    """

    def __init__(
        self, ledger: Ledger, output: Path, bundle: Bundle, model: str, *, reference: Path | None, images: int
    ) -> None:
        self._ledger, self._output, self._model, self._images = ledger, output, model, images
        self._names = list(TITLES) if bundle.score_threshold is not None else [name for name in TITLES if name != SHARE]
        self._key = f"drift {model}"
        self._file = reference or output / f"reference_{model}.json"
        self._reference: Reference | None = None
        note = ledger.note(self._key) or {"after": 0, "has_reference": False}
        if reference or self._file.exists():
            self._reference = Reference.load(self._file)
            self._check()
        if note["has_reference"] != (self._reference is not None):  # given or removed: what comes from now on counts
            note = {"after": ledger.last()[0], "has_reference": self._reference is not None}
        ledger.write_note(self._key, note)
        self._images_now: list[tuple[str, list[float]]] = []  # time and quantities
        self.add(list(ledger.decisions_of(model, note["after"])))
        hours = list(ledger.hours())
        self.last_hour: Row | None = hours[-1] if hours else None
        self._write_table()

    def _check(self) -> None:
        assert self._reference
        if self._reference.model != self._model or set(self._reference.centres) != set(self._names):
            raise UserError(
                f"reference={self._file} is of the network {self._reference.model}, and run is {self._model}; "
                "give a reference of this network, or leave it out"
            )

    def state(self) -> Row:
        """For the heartbeat."""
        images = len(self._images_now)
        waits = f"{images} of {self._images} images of the reference" if self._reference is None else None
        return {"reference": waits or str(self._file), "images_this_hour": images, "last_hour": self.last_hour}

    def add(self, rows: Sequence[Row]) -> None:
        """Take rows that the ledger has."""
        for row in rows:
            if row["status"] == "ok":
                found = {**row, SHARE: row["decision"] == Action.REJECT}
                self._images_now.append((row["time"], [float(found[name]) for name in self._names]))

    def close_hour(self) -> None:
        """Make the reference if there are images enough, or compare the hour if it is over; a warning is logged.

        Raises:
            OSError, sqlite3.Error: what is kept cannot be written; the next call tries again.
        """
        if self._reference is None:
            if len(self._images_now) < self._images:
                return
            made = Reference.measure(self._model, self._values(self._images))
            made.save(self._file)
            self._ledger.write_note(self._key, {"after": self._ledger.last()[0], "has_reference": True})
            self._reference, self._images_now = made, []
            log.info("drift: %d images made %s", made.images, self._file)
            return
        if len(self._images_now) < FEWEST:
            return
        (first, _), (last, _) = self._images_now[0], self._images_now[-1]
        seconds = (datetime.now().astimezone() - datetime.fromisoformat(first)).total_seconds()
        if abs(seconds) < HOUR:  # the clock may have been set back
            return
        row = {"from": first, "to": last, "model": self._model, "images": len(self._images_now)}
        row |= self._reference.compare(self._values(len(self._images_now)))
        self._ledger.add_hour(row, self._key, {"after": self._ledger.last()[0], "has_reference": True})
        self._images_now, self.last_hour = [], row
        if row["warning"]:
            log.warning("drift: %s; docs/watch.md says what to do", row["warning"])
        self._write_table()

    def _values(self, number: int) -> dict[str, Floats]:
        """The quantities of so many images."""
        table = np.array([values for _, values in self._images_now[:number]], np.float64)
        return dict(zip(self._names, table.T, strict=True))

    def _write_table(self) -> None:
        """All hours, from the ledger: a killed process leaves nothing half."""
        columns = ["from", "to", "model", "images"]
        columns += [f"{name}{end}" for name in TITLES for end in ("", "_low", "_high")]
        columns += ["warning"]
        with atomic_write(self._output / "drift.csv") as file:
            file.write(csv_line(columns).encode())
            for row in self._ledger.hours():
                file.write(csv_line(row.get(name) for name in columns).encode())
