"""One image of a bar: the fields that a defect changes, and the image that the camera takes of them."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from alu_defects.synthetic.setting import PROFILE_STEPS, Setting

Field = NDArray[np.floating[Any]]  # float32 in practice
Window = tuple[slice, slice]

FABRIC_COLOUR = (0.62, 0.60, 0.50)  # under the green paint of the bench
TEXTURE_MARGIN = 0.1  # image heights by which a texture is larger than the frame: the camera may move


class Scene:
    """A bar in front of the camera. Lengths are in image heights, so that an image can have any size.

    Args:
        setting: what the images of a session share.
        piece_rng: for what belongs to this piece of the bar: place, size and form of its defects, its texture.
        image_rng: for what belongs to this one image: how the phone moved, noise.
        shape: (height, width) of the image.
        severity: multiplies the strength of defects; 0.3 makes them hardly visible.
    """

    def __init__(
        self,
        setting: Setting,
        piece_rng: np.random.Generator,
        image_rng: np.random.Generator,
        shape: tuple[int, int],
        severity: float = 1.0,
    ) -> None:
        self.setting, self.rng, self.shape, self.severity = setting, piece_rng, shape, severity
        self.bar = setting.bar
        # (top, bottom) of the main face within the frame
        self.face = max(self.bar.face[0], 0.05 - setting.middle), min(self.bar.face[1], 0.95 - setting.middle)
        self._image_rng = image_rng
        self._texture_rng = np.random.default_rng(piece_rng.integers(2**63))  # the same for any defect
        height, width = shape
        self.length = width / height
        self.camera_shift = image_rng.normal(0, (0.05, 0.015)).clip(-0.1, 0.1)  # along the bar and across it
        tilt = setting.tilt + math.radians(image_rng.normal(0, 0.4))
        self._zoom = 1 + image_rng.normal(0, 0.015)
        self._cos, self._sin = math.cos(tilt) / self._zoom, math.sin(tilt) / self._zoom
        self._x: Field = ((np.arange(width, dtype=np.float32) + 0.5) / height - self.length / 2)[None, :]
        self._y: Field = ((np.arange(height, dtype=np.float32) + 0.5) / height - setting.middle)[:, None]
        cos, sin = np.float32(self._cos), np.float32(self._sin)
        # positions along the bar, 0 in the middle of the frame, and across it, from -half to half
        self.u: Field = self._x * cos + self._y * sin + np.float32(self.camera_shift[0])
        narrowing = np.float32(1) - np.float32(setting.convergence) * self._x
        self.v: Field = (self._y * cos - self._x * sin) * narrowing + np.float32(self.camera_shift[1])
        self.tone: Field = np.zeros(shape, np.float32)  # relative change of brightness that a defect makes
        self.missing_coat: Field = np.zeros(shape, np.float32)  # share of it, 0 to 1
        self.missing_edge: Field = np.zeros(shape, np.float32)  # how far the edge of the bar is gone
        self.mask = np.zeros(shape, np.bool_)  # where the defect is

    # Places --------------------------------------------------------------------------------------------------------

    def pick_on_face(self, margin: float) -> tuple[float, float]:
        """Pick a place (u, v) on the main face, `margin` from its borders and the frame's where there is room."""
        top, bottom = self.face
        return self._pick_along(margin), _uniform(self.rng, top + margin, bottom - margin)

    def pick_on_bend(self) -> tuple[float, float]:
        """Pick a place (u, v) where faces meet, or at an edge of the bar where no bend is in the frame."""
        bends = [v for v in self.bar.bends if self._is_in_frame(v)]
        return (self._pick_along(0.15), float(self.rng.choice(bends))) if bends else self.pick_on_edge()

    def pick_on_edge(self) -> tuple[float, float]:
        """Pick a place (u, v) at an outer edge of the bar."""
        edges = [v for v in (-self.bar.half, self.bar.half) if self._is_in_frame(v)]
        return self._pick_along(0.12), float(self.rng.choice(edges))

    def _pick_along(self, margin: float) -> float:
        reach = self.length / 2 - 0.1 - margin  # the camera moves by as much as 0.1
        return _uniform(self.rng, -reach, reach)

    def _is_in_frame(self, v: float) -> bool:
        return 0.05 < v + self.setting.middle < 0.95

    def window(self, u: float, v: float, along: float, across: float | None = None) -> Window:
        """The part of the frame within a distance of a place along and across the bar; at least one pixel of it."""
        height, width = self.shape
        column, row = self._pixel(u, v)
        columns, rows = along * height, (along if across is None else across) * height
        rows += abs(self._sin) * columns  # the bar lies a little tilted
        return _pixel_range(row - rows, row + rows, height), _pixel_range(column - columns, column + columns, width)

    def window_and_offsets(
        self, u: float, v: float, along: float, across: float | None = None
    ) -> tuple[Window, Field, Field]:
        """A window round a place and the offsets (du, dv) from the place: a small defect is computed there alone."""
        window = self.window(u, v, along, across)
        return window, self.u[window] - np.float32(u), self.v[window] - np.float32(v)

    def _pixel(self, u: float, v: float) -> tuple[float, float]:
        """Column and row of a place on the bar."""
        height = self.shape[0]
        u, v = u - self.camera_shift[0], v - self.camera_shift[1]
        scale = self._zoom**2
        x, y = (u * self._cos - v * self._sin) * scale, (u * self._sin + v * self._cos) * scale
        return (x + self.length / 2) * height, (y + self.setting.middle) * height

    # What defects change -------------------------------------------------------------------------------------------

    def random_texture(self, across: float, along: float | None = None, window: Window | None = None) -> Field:
        """Smooth random field of mean 0 and deviation about 1, in a window or everywhere, that moves with the bar.

        `across` and `along` are the size of its grains across the bar and along it; None: the same.
        """
        return self._draw_texture(self.rng, across, along or across, window)

    def _draw_texture(
        self, rng: np.random.Generator, across: float, along: float, window: Window | None = None
    ) -> Field:
        height, width = self.shape
        rows, columns = window or (slice(0, height), slice(0, width))
        box_height, box_width = (rows.stop - rows.start) / height, (columns.stop - columns.start) / height
        size = (int((box_height + 2 * TEXTURE_MARGIN) / across) + 4, int((box_width + 2 * TEXTURE_MARGIN) / along) + 4)
        # a generator of its own: however large the window, what is drawn next from `rng` stays the same
        coarse = np.random.default_rng(rng.integers(2**63)).standard_normal(size, dtype=np.float32)
        left = (TEXTURE_MARGIN + self.camera_shift[0]) / along + 1
        top = (TEXTURE_MARGIN + self.camera_shift[1]) / across + 1
        box = (left, top, left + box_width / along, top + box_height / across)
        target = (columns.stop - columns.start, rows.stop - rows.start)
        field = Image.fromarray(coarse).resize(target, Image.Resampling.BICUBIC, box=box)
        return np.asarray(field) * np.float32(1.25)  # interpolation takes a fifth of the deviation

    def draw_lines(self, lines: Iterable[tuple[NDArray[np.float64], float, float]]) -> Field:
        """Draw polylines of points (u, v), each with its width and its strength from 0 to 1."""
        height, width = self.shape
        canvas = Image.new("L", (2 * width, 2 * height))  # PIL does not anti-alias lines: draw double, then halve
        draw = ImageDraw.Draw(canvas)
        for points, thickness, strength in lines:
            pixels = [tuple(2 * c for c in self._pixel(u, v)) for u, v in points]
            wide = 2 * thickness * height  # a line thinner than a pixel is a paler one
            draw.line(pixels, fill=int(255 * strength * min(wide / 2, 1)), width=max(2, round(wide)), joint="curve")
        return np.asarray(canvas.reduce(2), np.float32) / 255

    def emboss(self, window: Window, relief: Field, contrast: float) -> None:
        """Shade a relief: slopes towards the light get brighter by up to `contrast`, the others darker."""
        if min(relief.shape) < 2:
            return
        x, y = self.setting.light.direction
        slope = -(x * np.gradient(relief, axis=1) + y * np.gradient(relief, axis=0))
        steepest = max(float(np.abs(slope).max()), 1e-12)
        self.tone[window] += self.severity * contrast / steepest * slope

    def shade(self, window: Window, change: Field) -> None:
        """Make the surface brighter or darker by a share of its brightness."""
        self.tone[window] += self.severity * change

    def remove_coat(self, window: Window, share: Field) -> None:
        """Remove a share of the coat."""
        self.missing_coat[window] = np.maximum(self.missing_coat[window], min(self.severity, 1) * share)

    def mark_defect(self, window: Window, where: NDArray[np.bool_]) -> None:
        """Add to the mask of the defect."""
        self.mask[window] |= where & (np.abs(self.v[window]) < self.bar.half)

    # The image -----------------------------------------------------------------------------------------------------

    def render(self) -> NDArray[np.uint8]:
        """The image that the camera takes (H, W, 3)."""
        setting, light, image_rng = self.setting, self.setting.light, self._image_rng
        y = self._y + np.float32(setting.middle - 0.5)  # from the middle of the frame
        distance = np.square(self._x - np.float32(light.centre[0])) + np.square(y - np.float32(light.centre[1]))
        glare = np.exp(distance * np.float32(-1 / light.reach**2)) * np.float32(light.glare)
        # the finest grain and the sensor's noise in one
        noise = image_rng.standard_normal(self.shape, dtype=np.float32)
        on_bar = (self.bar.half - self.missing_edge - np.abs(self.v)) * self.shape[0] + 0.5
        on_bar = np.clip(on_bar, 0, 1)  # anti-aliased
        exposure = 1 + light.slope * (light.direction[0] * self._x + light.direction[1] * self._y)
        exposure = (exposure - setting.vignetting * (np.square(self._x) + np.square(y))) * image_rng.normal(1, 0.03)
        level = self._bar_brightness(glare, noise) * exposure * on_bar
        bench, worn, glints = self._bench_brightness(glare, noise)
        bench *= exposure * (1 - on_bar)
        white = light.tint * image_rng.normal(1, 0.006, 3)
        noise *= np.float32(setting.noise)
        image = np.empty((*self.shape, 3), np.uint8)
        for channel in range(3):  # one after the other: planes of this size stay in the processor's cache
            paint, coat = float(setting.bench.paint[channel]), float(setting.coat[channel])
            plane = glints + (1 + glare) * paint
            if worn is not None:
                plane += worn * (FABRIC_COLOUR[channel] - paint)
            plane *= bench
            plane += level * (coat + self.missing_coat * (float(setting.bare_metal[channel]) - coat))
            plane *= float(white[channel])
            plane += noise
            plane *= 255
            image[..., channel] = np.clip(plane, 0, 255, out=plane)
        return image

    def _bench_brightness(self, glare: Field, noise: Field) -> tuple[Field, Field | None, Field]:
        """Brightness of the bench, how much of its paint is rubbed off, if any, and the glints of its grain."""
        bench, rng = self.setting.bench, self._texture_rng
        leather = self._draw_texture(rng, 0.007, 0.009)
        sparkle = bench.sparkle * (0.15 + glare)
        level = 1 + sparkle * leather + (0.04 + 0.5 * sparkle) * noise
        worn = None
        if bench.wear > 0.15:
            patches = self._draw_texture(rng, 0.35, 0.4) + 0.5 * self._draw_texture(rng, 0.01, 0.2)
            worn = np.clip(0.35 * (patches + (2 * bench.wear - 1.8)), 0, 0.75) * np.clip(0.8 + 0.6 * leather, 0, 1)
        glints = 0.35 * glare * np.clip(leather + noise - 1.2, 0, None)
        below, above = self.v > self.bar.half, self.v < -self.bar.half
        away = np.abs(self.v) - np.float32(self.bar.half)
        level[below] *= bench.dim * (1 - bench.shade * np.exp(away[below] * np.float32(-1 / bench.shade_reach)))
        level[above] *= 1 - 0.35 * np.exp(away[above] * np.float32(-1 / 0.006))  # a dark line where the bar lies on it
        return level, worn, glints

    def _bar_brightness(self, glare: Field, noise: Field) -> Field:
        """Brightness of the bar."""
        setting, half = self.setting, self.bar.half
        place = ((self.v + np.float32(half)) * np.float32((PROFILE_STEPS - 1) / (2 * half))).astype(np.int32)
        level = self.bar.levels.take(place, mode="clip")
        grain = self._draw_texture(self._texture_rng, setting.grain_size, setting.grain_size)
        grain += noise
        level *= 1 + setting.gloss * glare
        level *= 1 + setting.grain * (1 + glare) * grain
        level *= np.maximum(1 + self.tone, 0.04)
        return level


def _pixel_range(low: float, high: float, length: int) -> slice:
    """The pixels between two places within [0, length); at least one."""
    start = min(max(int(low), 0), length - 1)
    return slice(start, min(max(int(high) + 2, start + 1), length))


def _uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Uniform between two numbers; their middle where there is no room (low > high)."""
    return float(rng.uniform(low, high)) if low < high else (low + high) / 2
