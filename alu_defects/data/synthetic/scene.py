"""A bar on a green bench under one lamp: the fields a defect is painted onto, and the photograph of them."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Field = NDArray[np.floating[Any]]  # float32 in practice
Window = tuple[slice, slice]

BAR_TINTS = np.array(
    [(0.50, 0.51, 0.53), (0.62, 0.63, 0.65), (0.52, 0.43, 0.34), (0.63, 0.57, 0.46), (0.36, 0.37, 0.39)], np.float32
)  # grey, silver, bronze, champagne, anthracite
BARE_METAL = np.array((0.86, 0.87, 0.88), np.float32)[:, None, None]
WORN_PAINT = np.array((0.55, 0.66, 0.58), np.float32)[:, None, None]


class Scene:
    """One bar before it is photographed. Lengths are in picture heights, so that a picture can have any size.

    Attributes:
        u: position along the bar, 0 in the middle of the frame.
        v: position across the bar, from -half to half on it.
        half: half the width of the bar.
        tone: relative change of brightness that a defect makes.
        bare: how much of the coating is missing, 0 to 1.
    """

    def __init__(self, rng: np.random.Generator, width: int, height: int) -> None:
        self.rng = rng
        self.shape = (height, width)
        self.length = width / height
        self.half = float(rng.uniform(0.19, 0.34))
        self._middle = float(rng.uniform(0.4, 0.6))
        tilt = math.radians(rng.uniform(-5, 5))
        self._cos, self._sin = math.cos(tilt), math.sin(tilt)
        x = ((np.arange(width, dtype=np.float32) + 0.5) / height - self.length / 2)[None, :]
        y = ((np.arange(height, dtype=np.float32) + 0.5) / height - self._middle)[:, None]
        self._x, self._y = x, y
        self.u: Field = x * self._cos + y * self._sin
        self.v: Field = y * self._cos - x * self._sin
        self.tone: Field = np.zeros(self.shape, np.float32)
        self.bare: Field = np.zeros(self.shape, np.float32)

    def somewhere(self, margin: float) -> tuple[float, float]:
        """A place (u, v) on the bar, `margin` away from its edges and from the frame where there is room."""
        reach = np.maximum((self.length / 2 - margin, self.half - margin), 0.0)
        u, v = self.rng.uniform(-reach, reach)
        return float(u), float(v)

    def window(self, u: float, v: float, reach: float) -> Window:
        """The part of the frame within `reach` of a place, as slices into every field."""
        height, width = self.shape
        column, row = self._pixel(u, v)
        size = reach * height
        rows = slice(max(int(row - size), 0), min(int(row + size) + 2, height))
        columns = slice(max(int(column - size), 0), min(int(column + size) + 2, width))
        return rows, columns

    def mottle(self, across: float, along: float | None = None) -> Field:
        """Smooth random field of mean 0 and deviation 1 whose grains have the given size."""
        height, width = self.shape
        rows = int(1 / across) + 4
        columns = int(self.length / (along or across)) + 4
        coarse = self.rng.standard_normal((rows, columns), dtype=np.float32)
        field = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
        return np.asarray(field / field.std(), np.float32)

    def strokes(self, lines: Iterable[tuple[NDArray[np.float64], float, float]]) -> Field:
        """Draw polylines of points (u, v), each with its width and its strength from 0 to 1."""
        height, width = self.shape
        canvas = Image.new("L", (2 * width, 2 * height))  # PIL does not anti-alias lines: draw double, then halve
        draw = ImageDraw.Draw(canvas)
        for points, thickness, strength in lines:
            pixels = [tuple(2 * c for c in self._pixel(u, v)) for u, v in points]
            draw.line(pixels, fill=int(255 * strength), width=max(1, round(2 * thickness * height)), joint="curve")
        return np.asarray(canvas.reduce(2), np.float32) / 255

    def photograph(self) -> NDArray[np.uint8]:
        """The picture that the camera takes, (H, W, 3)."""
        rng, height = self.rng, self.shape[0]
        edge = np.clip((self.half - np.abs(self.v)) * height + 0.5, 0, 1)  # one pixel of anti-aliasing
        grain = self.mottle(0.005)
        bench, bar = self._bench(grain), self._bar(grain)
        planes = bench + edge * (bar - bench)  # (3, H, W) up to the end: numpy broadcasts planes twice as fast
        angle = rng.uniform(0, 2 * math.pi)
        light = 1 + rng.uniform(0.05, 0.3) * (math.cos(angle) * self._x + math.sin(angle) * self._y)
        light -= rng.uniform(0.1, 0.35) * (self._x**2 + self._y**2)  # vignetting
        planes *= rng.uniform(0.85, 1.15) * light
        planes += rng.uniform(0.008, 0.018) * rng.standard_normal(
            self.shape, dtype=np.float32
        )  # sensor; JPEG eats its colour
        picture = (255 * np.clip(planes, 0, 1) + 0.5).astype(np.uint8)
        return np.ascontiguousarray(picture.transpose(1, 2, 0))

    def _pixel(self, u: float, v: float) -> tuple[float, float]:
        """Column and row of a place on the bar."""
        height = self.shape[0]
        x, y = u * self._cos - v * self._sin, u * self._sin + v * self._cos
        return (x + self.length / 2) * height, (y + self._middle) * height

    def _bench(self, fine: Field) -> Field:
        rng = self.rng
        paint = rng.uniform((0.03, 0.36, 0.28), (0.16, 0.66, 0.52)).astype(np.float32)[:, None, None]
        worn = np.clip(0.5 * self.mottle(0.3) + 0.4 * self.mottle(0.02, 0.15) - rng.uniform(0.3, 1.2), 0, 0.7)
        grain = 1 + 0.07 * self.mottle(0.012) + 0.05 * fine
        below = np.maximum(self.v - self.half, 0)
        shadow = 1 - rng.uniform(0.5, 0.85) * np.exp(-below / rng.uniform(0.03, 0.15)) * (self.v > 0)
        return np.asarray((paint + worn * (WORN_PAINT - paint)) * (grain * shadow))

    def _bar(self, fine: Field) -> Field:
        rng = self.rng
        tint = (rng.choice(BAR_TINTS) * rng.uniform(0.96, 1.04, 3).astype(np.float32))[:, None, None]
        sheen = rng.uniform(0.05, 0.25) * np.exp(-(((self.u - rng.uniform(-0.6, 0.6)) / rng.uniform(0.2, 0.6)) ** 2))
        grain = 0.02 * self.mottle(0.006, 0.25) + 0.02 * fine
        tone = self._profile() * (1 + sheen + grain) * np.maximum(1 + self.tone, 0.03)
        return np.asarray((tint + self.bare * (BARE_METAL - tint)) * tone)

    def _profile(self) -> Field:
        """Brightness across the bar: faces that look another way, and the edges and grooves between them."""
        rng, half = self.rng, self.half
        grid = np.linspace(-half, half, 256)
        level = np.full_like(grid, rng.uniform(0.95, 1.1))
        for place in rng.uniform(-0.95, 0.95, rng.integers(0, 4)) * half:
            level += rng.normal(0, 0.12) / (1 + np.exp((place - grid) / 0.002))
            level += rng.uniform(-0.3, 0.25) * np.exp(-(((grid - place) / rng.uniform(0.003, 0.006)) ** 2))
        level += rng.uniform(-0.3, 0.3) * np.exp(-((half - np.abs(grid)) / 0.008))  # rounded outer edges
        return np.interp(self.v, grid, np.clip(level, 0.55, 1.35)).astype(np.float32)
