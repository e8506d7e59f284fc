"""What deciding on an image needs beside the network: classes, size, preprocessing, calibration, thresholds.

A bundle travels with its network. It is plain data, and needs numpy alone.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alu_defects.config import Size
from alu_defects.errors import UserError
from alu_defects.evaluation.calibration import Calibration, Floats

FORMAT = 1  # of the JSON


class Cells(NamedTuple):
    """Where the cells of a map look: the middle of the first, and how far it is to the next, in pixels of the frame."""

    top: float
    left: float
    down: float
    across: float


class Outputs(NamedTuple):
    """What a network gives for N images."""

    probabilities: Floats  # calibrated (N, C)
    maps: NDArray[np.float32] | None  # of each class (N, C, h, w), without flips; None: it has none, or was not asked


Network = Callable[[NDArray[np.uint8], bool], Outputs]  # of images (N, H, W, 3), and whether maps are asked for


class Action(StrEnum):
    """What is done with a piece."""

    PASS = "pass"
    REJECT = "reject"
    ACCEPT = "accept"  # the class, where no class is that of good pieces
    ASK = "ask"  # a person


class Decision(NamedTuple):
    """What the network says of one image."""

    label: str
    confidence: float  # calibrated probability of the label
    action: Action
    probabilities: dict[str, float]  # calibrated, of each class


@dataclass(frozen=True)
class Bundle:
    """How images are brought to the network, and what its probabilities mean.

    Attributes:
        classes: names in the order of their ids.
        titles: their names for people, in Chinese where they are of the aluminium data.
        image_size: height and width in pixels.
        resize: squash or letterbox, see `data.decode.decode`.
        bits: white in 16-bit images is 2^bits - 1.
        mean: of each channel from 0 to 1, which is subtracted.
        std: of each channel, by which it is divided then.
        calibration: makes calibrated probabilities of those of the network.
        tta: flips whose probabilities are averaged with those of the image itself.
        normal: the class of good pieces; None where there is none.
        threshold: `evaluation.operating.Threshold` as a dict; None where none could be chosen.
        ask_below: confidence below which a person decides.
        about: where it comes from: model, run, data_hash, starting weights with their licence, version; of an exported
            file also its precision.
        temperature_inside: that the network itself divides its logits by. That of `calibration` is another one where it
            was chosen after the export.
        cells: where its class-activation maps look; None where the network has none.
    """

    classes: list[str]
    titles: list[str]
    image_size: Size
    resize: str
    bits: int
    mean: list[float]
    std: list[float]
    calibration: Calibration
    tta: list[str]
    normal: str | None
    threshold: dict[str, Any] | None
    ask_below: float
    about: dict[str, Any]
    temperature_inside: float
    task: str = "multiclass"
    cells: Cells | None = None

    def as_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return {"format": FORMAT, **asdict(self), "image_size": list(self.image_size)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Bundle":
        """The reverse of `as_dict`."""
        entries = {key: value for key, value in content.items() if key != "format"}
        height, width = entries["image_size"]
        cells = Cells(*entries["cells"]) if entries.get("cells") else None
        calibration = Calibration(**entries["calibration"])
        return cls(**entries | {"image_size": (height, width), "calibration": calibration, "cells": cells})

    def as_json(self) -> str:
        """For the metadata of a file, which are UTF-8: other bytes, of names of folders, become JSON's escapes."""
        return json.dumps(self.as_dict(), ensure_ascii=False).encode("utf-8", "backslashreplace").decode()

    @classmethod
    def from_json(cls, text: str, file: Path) -> "Bundle":
        """The reverse of `as_json`; a `UserError` that names the file if it is of another version, or damaged."""
        try:
            content = json.loads(text)
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']}, this version reads {FORMAT}")
            return cls.from_dict(content)
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"run={file} is damaged or of another version of alu_defects ({type(error).__name__}: {error}); "
                "export it again"
            ) from error

    def calibrate(self, probabilities: Floats) -> Floats:
        """Calibrated probabilities (N, C) of those that the network gives."""
        if self.calibration.temperature == self.temperature_inside:
            return probabilities
        left = self.calibration.temperature / self.temperature_inside
        return Calibration(left, self.calibration.images).apply(probabilities)

    @property
    def score_threshold(self) -> float | None:
        """1 - the probability of `normal` from which a piece is rejected; None where there is none."""
        return float(self.threshold["score"]) if self.threshold else None

    def decide(self, probabilities: Floats) -> list[Decision]:
        """Decide on images by their calibrated probabilities (N, C).

        With a threshold a piece passes below it and is rejected from it on. Without, its class is accepted. In both
        cases a person is asked below the confidence `ask_below`.
        """
        return [self._decide(row) for row in probabilities]

    def _decide(self, row: Floats) -> Decision:
        best = int(np.argmax(row))
        confidence = float(row[best])
        if confidence < self.ask_below:
            action = Action.ASK
        elif self.normal is None or self.score_threshold is None:
            action = Action.ACCEPT
        else:
            score = 1 - row[self.classes.index(self.normal)]
            action = Action.REJECT if score >= self.score_threshold else Action.PASS
        return Decision(self.classes[best], confidence, action, dict(zip(self.classes, map(float, row), strict=True)))
