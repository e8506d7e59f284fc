"""Text for people."""

import math


def printable(text: str) -> str:
    """Replace what is no character, such as the bytes of a file name that is not UTF-8, by �."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "�" for c in text)


def percent(value: float, unit: str = " %") -> str:
    """A fraction in per cent; a dash for what is not known."""
    return "–" if math.isnan(value) else f"{100 * value:.1f}{unit}"


def span(ends: tuple[float, float], unit: str = " %") -> str:
    """An interval in per cent."""
    return f"{percent(ends[0], '')}–{percent(ends[1], unit)}"


def points(value: float) -> str:
    """A fraction, or a difference of two, in points of a per cent."""
    return "–" if math.isnan(value) else f"{100 * value:.1f}".replace("-", "−")


def p_value(value: float, equals: str = "") -> str:
    """A p-value; `equals` stands before all but those that are too small to write."""
    return "< 0.001" if value < 0.001 else f"{equals}{value:.3f}" if value < 0.1 else f"{equals}{value:.2f}"
