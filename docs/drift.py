"""How often alu-watch warns of an hour that is like the others: `python docs/drift.py` prints what watch.md has."""

import math

import numpy as np
from scipy.signal import lfilter

from alu_defects.deployment.drift import SHARE, SIGMAS, Reference

HOURS, IMAGES = 2000, 1000
RNG = np.random.default_rng(0)
Values = np.ndarray[tuple[int], np.dtype[np.float64]]


def neighbours(number: int, likeness: float) -> Values:
    """Standard normal values that resemble the one before."""
    weights = [math.sqrt(1 - likeness**2)], [1, -likeness]
    values, _ = lfilter(*weights, RNG.standard_normal(number), zi=[likeness * RNG.standard_normal()])
    return np.asarray(values)


def rejects(number: int, share: float, in_a_row: int = 1) -> Values:
    """Ones and zeros, so many equal ones in a row."""
    return np.repeat(RNG.random(number // in_a_row + 1) < share, in_a_row)[:number].astype(np.float64)


def is_warned(name: str, reference: Values, hour: Values) -> tuple[bool, bool]:
    """Whether an hour is warned of: as alu-watch does, and with the usual standard error."""
    made = Reference.measure("", {name: reference})
    usual = SIGMAS * reference.std(ddof=1) / math.sqrt(len(hour))
    return bool(made.compare({name: hour})["warning"]), bool(abs(hour.mean() - reference.mean()) > usual)


def main() -> None:
    """Print a row for each kind of line."""
    cases = [
        ("brightness, independent", "brightness", 500, lambda n: 120 + 10 * RNG.standard_normal(n)),
        ("brightness, neighbours alike (correlation 0.9)", "brightness", 500, lambda n: 120 + 10 * neighbours(n, 0.9)),
        ("brightness, much alike (0.99)", "brightness", 500, lambda n: 120 + 10 * neighbours(n, 0.99)),
        ("brightness, much alike (0.99)", "brightness", 20_000, lambda n: 120 + 10 * neighbours(n, 0.99)),
        ("2 % rejects, independent", SHARE, 500, lambda n: rejects(n, 0.02)),
        ("2 % rejects, 8 in a row", SHARE, 500, lambda n: rejects(n, 0.02, 8)),
        ("2 % rejects, 8 in a row", SHARE, 5000, lambda n: rejects(n, 0.02, 8)),
    ]
    print("| images | of the reference | warned of | with the usual standard error |\n|---|---|---|---|")
    for title, name, number, make in cases:
        warned = np.mean([is_warned(name, make(number), make(IMAGES)) for _ in range(HOURS)], axis=0)
        print(f"| {title} | {number:,} | {100 * warned[0]:.1f} % | {100 * warned[1]:.0f} % |")
    for images in (100, 1000):
        found = [is_warned(SHARE, rejects(500, 0.02), rejects(images, 0.06))[0] for _ in range(HOURS)]
        print(f"from 2 to 6 % rejects, {images} images an hour: {100 * np.mean(found):.0f} %")


if __name__ == "__main__":
    main()
