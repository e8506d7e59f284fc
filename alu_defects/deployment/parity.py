"""Does an exported file decide as the network that it was made of? On val images, from the bytes of the files on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from alu_defects.deployment.bundle import Bundle
from alu_defects.evaluation.calibration import Floats

MAX_DIFFERENCE = 1e-4  # of any probability, in full precision
MIN_AGREEMENT = 0.995  # of the labels, in lower precision
_WORST = 3  # images that a refusal names


@dataclass(frozen=True)
class Parity:
    """An exported file beside its reference on the same images.

    Attributes:
        images: how many.
        agreement: share of them with the same label.
        difference: largest of any probability.
        f1: macro F1 of the exported file.
        drop: that of the reference less `f1`.
        escapes: defective images below the threshold; None without one.
        reference_escapes: those of the reference.
        overkills: good images at the threshold or above; None without one.
        reference_overkills: those of the reference.
        worst: the paths of the images with another label, then of those with the largest differences.
    """

    images: int
    agreement: float
    difference: float
    f1: float
    drop: float
    escapes: int | None
    reference_escapes: int | None
    overkills: int | None
    reference_overkills: int | None
    worst: list[str]

    @classmethod
    def measure(
        cls,
        bundle: Bundle,
        paths: Sequence[str],
        labels: Sequence[str],
        reference_threshold: float | None,
        *,
        reference: Floats,
        exported: Floats,
    ) -> "Parity":
        """Compare calibrated probabilities (N, C) on images with known labels; the bundle is of the exported file."""
        ids = np.array([bundle.classes.index(label) for label in labels])
        predicted, expected = exported.argmax(axis=1), reference.argmax(axis=1)
        difference = np.abs(exported - reference).max(axis=1)
        present = np.unique([ids, predicted, expected])  # a mean over the same classes for both
        f1, before = (
            float(f1_score(ids, own, labels=present, average="macro", zero_division=0)) for own in (predicted, expected)
        )
        escapes, overkills = _count_errors(bundle, bundle.score_threshold, ids, exported)
        reference_escapes, reference_overkills = _count_errors(bundle, reference_threshold, ids, reference)
        return cls(
            images=len(ids),
            agreement=float((predicted == expected).mean()),
            difference=float(difference.max()),
            f1=f1,
            drop=before - f1,
            escapes=escapes,
            reference_escapes=reference_escapes,
            overkills=overkills,
            reference_overkills=reference_overkills,
            worst=[paths[row] for row in np.lexsort((-difference, predicted == expected))[:_WORST]],
        )

    def differences(self, *, max_difference: float, min_agreement: float, max_drop: float) -> list[str]:
        """What is more different than allowed, in words; nothing if the file decides as its reference.

        Where the probabilities may differ by no more than `MAX_DIFFERENCE`, so may the scores at the threshold: an
        escape more is then one of rounding, at the image that chose the threshold. Elsewhere no more images may pass,
        and of the good ones no more be rejected than labels may differ.
        """
        found = []
        if self.agreement < min_agreement:
            found.append(f"{self.agreement:.2%} of the labels agree, {min_agreement:.2%} must")
        if not self.difference <= max_difference:  # NaN is neither
            found.append(f"probabilities differ by up to {self.difference:.2g}, {max_difference:g} is allowed")
        if self.drop > max_drop:
            found.append(f"macro F1 is {self.drop:.2%} lower, {max_drop:.2%} is allowed")
        if max_difference > MAX_DIFFERENCE:
            if more := self.more_escapes:
                found.append(f"{more} more defective images pass ({self.escapes} instead of {self.reference_escapes})")
            scrapped, before = self.overkills or 0, self.reference_overkills or 0
            if scrapped - before > (1 - min_agreement) * self.images:
                found.append(f"{scrapped - before} more good images are rejected ({scrapped} instead of {before})")
        return found

    @property
    def more_escapes(self) -> int:
        """How many more defective images pass than with the reference."""
        return max(0, (self.escapes or 0) - (self.reference_escapes or 0))

    def refusal(self, name: str, differences: Sequence[str]) -> str:
        """Why a file is not written, with the worst images."""
        return (
            f"{name} decides otherwise than its network and was not written: {'; '.join(differences)}, on "
            f"{self.images} val images. The worst: {', '.join(self.worst)}"
        )


def _count_errors(
    bundle: Bundle, threshold: float | None, ids: NDArray[np.intp], given: Floats
) -> tuple[int | None, int | None]:
    """Escapes and overkills."""
    if bundle.normal is None or threshold is None:
        return None, None
    rejected, defective = bundle.scores(given) >= threshold, ids != bundle.classes.index(bundle.normal)
    return int((~rejected & defective).sum()), int((rejected & ~defective).sum())
