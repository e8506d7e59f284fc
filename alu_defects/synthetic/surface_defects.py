"""The kinds of defects on generated surfaces: one function each draws it into a `Canvas`.

They are forms, not the ten classes of the aluminium bars: what inspection meets on any material.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from alu_defects.synthetic.surfaces import Canvas, Field, Noise, Texture, grid, shade

Points = NDArray[np.float64]  # (number, 2): x and y, from -0.5 to 0.5
Window = tuple[slice, slice]


@dataclass(frozen=True)
class Defect:
    """One kind of defect with its parameters; where it lies is drawn for each image."""

    kind: str  # a key of `KINDS`
    size: float  # of its longest part, in sides of the image
    polarity: int  # 1: brighter than the surface, -1: darker
    slender: float  # 1: round or thick, 0: drawn out or thin
    ragged: float  # 0: smooth borders, 1: torn
    number: float  # 0: few parts, 1: many
    angle: float  # radians
    strength: float  # brightness of the defect, in units in which 1 is clearly seen

    @classmethod
    def sample(cls, rng: np.random.Generator, kind: str) -> "Defect":
        """From a twentieth of the side to nearly all of it, from hardly visible to glaring."""
        return cls(
            kind=kind,
            size=math.exp(rng.uniform(math.log(0.05), math.log(0.7))),
            polarity=int(rng.choice((-1, 1), p=(0.6, 0.4))),
            slender=rng.random(),
            ragged=rng.random(),
            number=rng.random(),
            angle=rng.uniform(0, 2 * math.pi),
            strength=math.exp(rng.uniform(math.log(0.6), math.log(2.5))),
        )

    def vary(self, rng: np.random.Generator) -> "Defect":
        """The same defect on another piece."""
        return Defect(
            self.kind,
            float(np.clip(self.size * math.exp(rng.normal(0, 0.2)), 0.04, 0.8)),
            self.polarity,
            float(np.clip(self.slender + rng.normal(0, 0.1), 0, 1)),
            float(np.clip(self.ragged + rng.normal(0, 0.1), 0, 1)),
            float(np.clip(self.number + rng.normal(0, 0.15), 0, 1)),
            self.angle + rng.normal(0, 0.3),
            self.strength * math.exp(rng.normal(0, 0.2)),
        )

    def draw(self, canvas: Canvas) -> None:
        """Draw it."""
        KINDS[self.kind](canvas, self)


class Blob(NamedTuple):
    """A part of the image, and for each pixel there how far inside a form it lies: 1 in the middle, 0 at its border."""

    window: Window
    inside: Field


def _place(canvas: Canvas, margin: float = 0.1) -> tuple[float, float]:
    x, y = canvas.rng.uniform(margin - 0.5, 0.5 - margin, 2)
    return float(x), float(y)


def _blob(
    canvas: Canvas, x: float, y: float, radius: float, *, flat: float = 1.0, angle: float = 0.0, ragged: float = 0.0
) -> Blob:
    """An ellipse with the half axes `radius` and `flat * radius`, its border torn by noise."""
    side, reach = canvas.side, radius * (1.3 + 0.6 * ragged) + 2 / canvas.side
    rows, columns = (
        slice(max(0, int((place + 0.5 - reach) * side)), max(0, math.ceil((place + 0.5 + reach) * side)))
        for place in (y, x)
    )
    window = rows, columns
    g = grid(side)
    dx, dy = g.x[:, columns] - np.float32(x), g.y[rows] - np.float32(y)
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    along, across = dx * cos + dy * sin, (dy * cos - dx * sin) / np.float32(flat)
    inside = 1 - np.sqrt(along * along + across * across) / np.float32(radius)
    if ragged:
        inside = inside + np.float32(0.3 * ragged) * canvas.ragged[window]
    return Blob(window, np.asarray(inside))


def _fill(inside: Field, softness: float = 0.2) -> Field:
    """1 inside a form, 0 outside, with a border of that softness."""
    return np.asarray(np.clip(inside / np.float32(softness), 0, 1))


def _add(canvas: Canvas, window: Window, tone: Field, inside: Field | NDArray[np.bool_]) -> None:
    canvas.tone[window] += tone
    canvas.mask[window] |= inside > 0


def _lines(canvas: Canvas, lines: Sequence[tuple[Points, float]]) -> Field:
    """Lines of a width in sides, drawn at twice the resolution; 1 on a line, 0 beside it."""
    side = 2 * canvas.side
    image = Image.new("L", (side, side))
    pen = ImageDraw.Draw(image)
    for points, width in lines:
        corners = [(float(x), float(y)) for x, y in (points + 0.5) * side]
        pen.line(corners, fill=255, width=max(1, round(width * side)), joint="curve")
    return np.asarray(image.reduce(2), np.float32) / np.float32(255)


def _walk(
    canvas: Canvas, start: tuple[float, float], angle: float, length: float, *, bend: float, steps: int = 12
) -> Points:
    """A path that turns by `bend` radians a step at random."""
    angles = angle + np.cumsum(canvas.rng.normal(0, bend, steps))
    way = np.cumsum(np.stack([np.cos(angles), np.sin(angles)], axis=1), axis=0) * (length / steps)
    path = np.vstack([np.zeros(2), way]) - way[len(way) // 2]
    return np.asarray(path + np.array(start))


def _width(defect: Defect, low: float = 0.004, high: float = 0.02) -> float:
    return float(low * (high / low) ** defect.slender)


def scratch(canvas: Canvas, defect: Defect) -> None:
    """One to three long thin marks."""
    lines = [
        (
            _walk(canvas, _place(canvas), defect.angle, max(0.15, defect.size), bend=0.02 + 0.1 * defect.ragged),
            _width(defect),
        )
        for _ in range(1 + round(2 * defect.number))
    ]
    drawn = _lines(canvas, lines)
    _add(canvas, (slice(None), slice(None)), defect.polarity * drawn, drawn)


def rubbed(canvas: Canvas, defect: Defect) -> None:
    """A bundle of fine, nearly parallel marks."""
    rng, (x, y) = canvas.rng, _place(canvas, 0.2)
    size = max(0.2, defect.size)
    offsets = rng.normal(0, (0.35 * size, 0.3 * size * (0.3 + defect.slender)), (8 + round(25 * defect.number), 2))
    cos, sin = math.cos(defect.angle), math.sin(defect.angle)
    lines = []
    for a, b in offsets:
        start, angle = (x + a * cos - b * sin, y + a * sin + b * cos), defect.angle + rng.normal(0, 0.1)
        lines.append((_walk(canvas, start, angle, size * rng.uniform(0.2, 0.7), bend=0.02, steps=4), 0.004))
    drawn = _lines(canvas, lines)
    _add(canvas, (slice(None), slice(None)), np.float32(0.8 * defect.polarity) * drawn, drawn)


def crack(canvas: Canvas, defect: Defect) -> None:
    """A dark line that changes its direction and branches."""
    rng, lines = canvas.rng, list[tuple[Points, float]]()
    width = _width(defect, 0.004, 0.012)
    tips = [(_place(canvas, 0.25), defect.angle, max(0.25, defect.size), width)]
    while tips and len(lines) < 12:
        start, angle, length, thick = tips.pop()
        path = _walk(canvas, start, angle, length, bend=0.25 + 0.35 * defect.ragged, steps=10)
        path += np.array(start) - path[0] if lines else 0  # branches begin at the crack
        lines.append((path, thick))
        for point in path[2:-1]:
            if rng.random() < 0.05 + 0.2 * defect.number:
                side = rng.choice((-1, 1)) * rng.uniform(0.5, 1.2)
                tips.append(
                    ((float(point[0]), float(point[1])), angle + side, length * rng.uniform(0.2, 0.5), 0.7 * thick)
                )
    drawn = _lines(canvas, lines)
    _add(canvas, (slice(None), slice(None)), -drawn, drawn)


def crazing(canvas: Canvas, defect: Defect) -> None:
    """A net of fine cracks."""
    rng = canvas.rng
    net = Noise(4 + 14 * defect.number, 0.5, 1 + 2 * defect.slender, defect.angle).draw(rng, canvas.side)
    where = _blob(canvas, *_place(canvas), max(0.3, defect.size), ragged=defect.ragged)
    inside = _fill(where.inside, 0.4) * np.clip(1 - np.abs(net[where.window]) * 9, 0, 1)
    _add(canvas, where.window, defect.polarity * inside, inside)


def fibre(canvas: Canvas, defect: Defect) -> None:
    """A hair or thread that lies on the surface in curls."""
    length = max(0.3, 1.5 * defect.size)
    path = _walk(canvas, _place(canvas, 0.2), defect.angle, length, bend=0.25, steps=40)
    path = path + np.cumsum(np.cumsum(canvas.rng.normal(0, 0.0015, path.shape), axis=0), axis=0)
    drawn = _lines(canvas, [(path, _width(defect, 0.004, 0.01))])
    _add(canvas, (slice(None), slice(None)), defect.polarity * drawn, drawn)


def _cluster(
    canvas: Canvas, defect: Defect, low: int, high: int, radius: float
) -> Iterator[tuple[float, float, float]]:
    rng, (x, y) = canvas.rng, _place(canvas, 0.15)
    spread = max(0.05, 0.5 * defect.size)
    for _ in range(round(low * (high / low) ** defect.number)):
        dx, dy = rng.normal(0, spread, 2)
        yield float(np.clip(x + dx, -0.49, 0.49)), float(np.clip(y + dy, -0.49, 0.49)), radius * rng.uniform(0.6, 1.5)


def pits(canvas: Canvas, defect: Defect) -> None:
    """Small hollows in a cluster."""
    for x, y, radius in _cluster(canvas, defect, 3, 30, 0.012 + 0.02 * defect.slender):
        window, inside = _blob(canvas, x, y, radius)
        hollow = np.clip(inside, 0, 1)
        canvas.relief[window] -= 2 * hollow
        _add(canvas, window, np.float32(-0.6) * hollow, inside)


def bumps(canvas: Canvas, defect: Defect) -> None:
    """Small raised lumps in a cluster."""
    for x, y, radius in _cluster(canvas, defect, 2, 20, 0.018 + 0.03 * defect.slender):
        window, inside = _blob(canvas, x, y, radius, flat=canvas.rng.uniform(0.7, 1), angle=defect.angle)
        lump = np.sqrt(np.clip(inside, 0, 1))
        canvas.relief[window] += 2 * lump
        _add(canvas, window, np.float32(0.2) * lump, inside)


def spots(canvas: Canvas, defect: Defect) -> None:
    """A few ragged specks of another brightness."""
    for x, y, radius in _cluster(canvas, defect, 1, 8, 0.02 + 0.05 * defect.slender):
        flat, angle = canvas.rng.uniform(0.5, 1), canvas.rng.uniform(0, math.pi)
        window, inside = _blob(canvas, x, y, radius, flat=flat, angle=angle, ragged=defect.ragged)
        _add(canvas, window, defect.polarity * _fill(inside), inside)


def speckle(canvas: Canvas, defect: Defect) -> None:
    """A region that is densely sprinkled with grains."""
    rng = canvas.rng
    grains = Noise(20 + 25 * (1 - defect.slender), 0.5, 1.0, 0.0).draw(rng, canvas.side)
    where = _blob(
        canvas,
        *_place(canvas),
        max(0.15, 0.6 * defect.size),
        flat=rng.uniform(0.4, 1),
        angle=defect.angle,
        ragged=defect.ragged,
    )
    inside = _fill(where.inside, 0.5) * np.clip(grains[where.window] - np.float32(1.3 - defect.number), 0, 1)
    _add(canvas, where.window, defect.polarity * inside, where.inside)


def stain(canvas: Canvas, defect: Defect) -> None:
    """A soft patch that is a little darker or brighter."""
    window, inside = _blob(
        canvas,
        *_place(canvas),
        max(0.1, 0.6 * defect.size),
        flat=0.4 + 0.6 * defect.slender,
        angle=defect.angle,
        ragged=0.7 * defect.ragged,
    )
    _add(canvas, window, np.float32(0.55 * defect.polarity) * _fill(inside, 0.8), inside)


def ring(canvas: Canvas, defect: Defect) -> None:
    """The border of a drop that has dried."""
    for x, y, _ in _cluster(canvas, defect, 1, 4, 1.0):
        radius = max(0.06, 0.4 * defect.size) * canvas.rng.uniform(0.7, 1.2)
        window, inside = _blob(canvas, x, y, radius, flat=canvas.rng.uniform(0.7, 1), ragged=0.4 * defect.ragged)
        border = np.exp(-np.square((inside - np.float32(0.15)) / np.float32(0.06 + 0.12 * defect.slender)))
        _add(canvas, window, np.float32(0.7 * defect.polarity) * border, inside)


def inclusion(canvas: Canvas, defect: Defect) -> None:
    """Foreign matter, rolled or drawn out in one direction."""
    for x, y, _ in _cluster(canvas, defect, 1, 7, 1.0):
        radius = max(0.05, 0.5 * defect.size) * canvas.rng.uniform(0.5, 1.2)
        flat = 0.05 + 0.25 * defect.slender
        window, inside = _blob(canvas, x, y, radius, flat=flat, angle=defect.angle, ragged=0.5 + 0.8 * defect.ragged)
        _add(canvas, window, defect.polarity * _fill(inside, 0.3), inside)


def streak(canvas: Canvas, defect: Defect) -> None:
    """A broad band from one border of the image to the other."""
    g, width = grid(canvas.side), 0.02 + 0.15 * defect.slender
    across = g.y * np.float32(math.cos(defect.angle)) - g.x * np.float32(math.sin(defect.angle))
    across = across - np.float32(canvas.rng.uniform(-0.3, 0.3)) + np.float32(0.02 * defect.ragged) * canvas.ragged
    band = np.exp(-np.square(across / np.float32(width)))
    _add(canvas, (slice(None), slice(None)), np.float32(0.6 * defect.polarity) * band, band > 0.3)


def groove(canvas: Canvas, defect: Defect) -> None:
    """Lines pressed into the surface: one flank dark, the other bright."""
    drawn = np.zeros_like(canvas.tone)
    g, cos, sin = grid(canvas.side), np.float32(math.cos(defect.angle)), np.float32(math.sin(defect.angle))
    for _ in range(1 + round(3 * defect.number)):
        x, y = _place(canvas)
        along, across = (g.x - x) * cos + (g.y - y) * sin, (g.y - y) * cos - (g.x - x) * sin
        length = np.float32(max(0.15, defect.size))
        drawn += np.exp(-np.square(across / np.float32(_width(defect, 0.01, 0.04)))) * _fill(
            length - np.abs(along), 0.08
        )
    canvas.relief -= 2 * defect.polarity * drawn
    _add(canvas, (slice(None), slice(None)), np.float32(-0.25) * drawn, drawn > 0.3)


def dent(canvas: Canvas, defect: Defect) -> None:
    """One shallow hollow or bulge, seen by its shading alone."""
    radius = max(0.08, 0.5 * defect.size)
    window, inside = _blob(canvas, *_place(canvas), radius, flat=0.4 + 0.6 * defect.slender, angle=defect.angle)
    hollow = np.square(np.clip(inside, 0, 1))
    canvas.relief[window] += np.float32(40 * radius * defect.polarity) * hollow
    canvas.mask[window] |= inside > 0


def hole(canvas: Canvas, defect: Defect) -> None:
    """One clearly bounded dark hollow with a bright rim."""
    radius = max(0.03, 0.25 * defect.size)
    window, inside = _blob(
        canvas, *_place(canvas), radius, flat=0.6 + 0.4 * defect.slender, angle=defect.angle, ragged=0.3 * defect.ragged
    )
    rim = np.exp(-np.square(inside / np.float32(0.12)))
    _add(canvas, window, np.float32(0.5) * rim - np.float32(1.4) * _fill(inside, 0.15), inside)


def broken_edge(canvas: Canvas, defect: Defect) -> None:
    """A piece is missing at the border of the image: behind it lies something darker or brighter."""
    g = grid(canvas.side)
    outward = g.x * np.float32(math.cos(defect.angle)) + g.y * np.float32(math.sin(defect.angle))
    border = 0.42 - 0.25 * defect.size + (0.01 + 0.05 * defect.ragged) * canvas.ragged
    beyond = _fill(outward - border.astype(np.float32), 0.02)
    rim = np.exp(-np.square((outward - border) / np.float32(0.02)))
    _add(canvas, (slice(None), slice(None)), np.float32(1.2 * defect.polarity) * beyond - np.float32(0.4) * rim, beyond)


def fold(canvas: Canvas, defect: Defect) -> None:
    """A step along a crooked line, with a shadow on one side."""
    g, rng = grid(canvas.side), canvas.rng
    across = g.y * np.float32(math.cos(defect.angle)) - g.x * np.float32(math.sin(defect.angle))
    bend = Noise(rng.uniform(1, 4), 0.6, 1.0, 0.0).draw(rng, canvas.side)
    across = across - np.float32(rng.uniform(-0.3, 0.3)) + np.float32(0.01 + 0.04 * defect.ragged) * bend
    shadow = np.exp(-across * np.float32(1 / (0.02 + 0.08 * defect.slender))) * (across > 0)
    canvas.relief += np.tanh(across * np.float32(40)) * np.float32(defect.polarity)
    _add(canvas, (slice(None), slice(None)), np.float32(-0.8) * shadow, shadow > 0.3)


def other_texture(canvas: Canvas, defect: Defect) -> None:
    """A region whose texture is another one."""
    texture = Texture.sample(canvas.rng).draw(canvas.rng, canvas.side, 0.0, 1.0, canvas.light)
    window, inside = _blob(
        canvas,
        *_place(canvas),
        max(0.15, 0.6 * defect.size),
        flat=0.4 + 0.6 * defect.slender,
        angle=defect.angle,
        ragged=defect.ragged,
    )
    where = _fill(inside, 0.15)
    _add(canvas, window, (np.float32(0.45) * texture[window] + np.float32(0.2 * defect.polarity)) * where, inside)


def scale(canvas: Canvas, defect: Defect) -> None:
    """Many ragged flecks, rolled in or of rust."""
    rng = canvas.rng
    flecks = Noise(4 + 16 * defect.number, 0.9, 1 + 3 * (1 - defect.slender), defect.angle).draw(rng, canvas.side)
    where = _blob(canvas, *_place(canvas), max(0.3, defect.size), ragged=defect.ragged)
    inside = _fill(where.inside, 0.5) * np.clip((flecks[where.window] - np.float32(0.9)) * 4, 0, 1)
    _add(canvas, where.window, defect.polarity * inside, inside)


def peeling(canvas: Canvas, defect: Defect) -> None:
    """The coat is gone: an even area with a torn border and a shadow along it."""
    window, inside = _blob(
        canvas,
        *_place(canvas),
        max(0.1, 0.5 * defect.size),
        flat=0.4 + 0.6 * defect.slender,
        angle=defect.angle,
        ragged=0.5 + 0.8 * defect.ragged,
    )
    bare = _fill(inside, 0.08)
    canvas.relief[window] -= np.float32(1.5) * bare
    _add(canvas, window, np.float32(0.8 * defect.polarity) * bare, inside)


def smear(canvas: Canvas, defect: Defect) -> None:
    """Something was wiped over the surface: a soft trace drawn out in one direction."""
    trace = Noise(3 + 9 * defect.number, 0.8, 12.0, defect.angle).draw(canvas.rng, canvas.side)
    where = _blob(canvas, *_place(canvas), max(0.2, defect.size), flat=0.25 + 0.4 * defect.slender, angle=defect.angle)
    inside = _fill(where.inside, 0.7) * np.clip(trace[where.window] + 0.6, 0, 2)
    _add(canvas, where.window, np.float32(0.5 * defect.polarity) * inside, where.inside)


def blur_spot(canvas: Canvas, defect: Defect) -> None:
    """A polished or worn area, where the relief is softer: a soft lump of it."""
    lumps = gaussian_filter(canvas.ragged, 1.5)
    where = _blob(
        canvas,
        *_place(canvas),
        max(0.15, 0.6 * defect.size),
        flat=0.4 + 0.6 * defect.slender,
        angle=defect.angle,
        ragged=defect.ragged,
    )
    relief = shade(lumps, canvas.light)[where.window] * _fill(where.inside, 0.4)
    _add(canvas, where.window, relief * np.float32(4), where.inside)


KINDS: dict[str, Callable[[Canvas, Defect], None]] = {
    function.__name__: function
    for function in (
        scratch,
        rubbed,
        crack,
        crazing,
        fibre,
        pits,
        bumps,
        spots,
        speckle,
        stain,
        ring,
        inclusion,
        streak,
        groove,
        dent,
        hole,
        broken_edge,
        fold,
        other_texture,
        scale,
        peeling,
        smear,
        blur_spot,
    )
}
