"""What the images of one session share: the bar, its coat, the bench, the light and how the phone is held.

Lengths are in image heights, so that an image can have any size.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RGB = NDArray[np.float32]

# grey, silver, silver with a blue cast, bronze, dark bronze, champagne, anthracite, powder white
_COATS = [(0.46, 0.48, 0.50), (0.64, 0.64, 0.66), (0.57, 0.58, 0.66), (0.44, 0.42, 0.37)]
_COATS += [(0.33, 0.30, 0.26), (0.66, 0.63, 0.52), (0.27, 0.29, 0.31), (0.78, 0.78, 0.76)]
COAT_COLOURS = np.array(_COATS, np.float32)
BENCH_COLOURS = np.array([(0.06, 0.66, 0.58), (0.13, 0.52, 0.48), (0.06, 0.44, 0.36), (0.05, 0.32, 0.27)], np.float32)
PROFILE_STEPS = 1024


class Bar(NamedTuple):
    """A profile seen from the front: faces in different directions, and the bends between them."""

    half: float  # half the width of the bar
    face: tuple[float, float]  # (top, bottom) of its main face across the bar, within [-half, half]
    bends: tuple[float, ...]  # where faces meet, across the bar
    levels: NDArray[np.float32]  # brightness across the bar at `PROFILE_STEPS` places from -half to half


class Light(NamedTuple):
    """One bright window or lamp."""

    direction: tuple[float, float]  # unit vector (x, y) in the plane of the image that points to the light
    slope: float  # how much brighter it gets per image height towards the light
    glare: float  # strength of the mirror image of the lamp
    centre: tuple[float, float]  # of the glare, (x, y)
    reach: float  # radius of the glare
    tint: RGB


class Bench(NamedTuple):
    """A table of green leatherette, worn in places."""

    paint: RGB
    wear: float  # how much of the paint is rubbed off, 0 to 1
    sparkle: float  # how strongly its grain glitters in the glare
    shade: float  # how dark the bar makes the bench below it, 0 to 1
    shade_reach: float  # how far that shadow reaches
    dim: float  # brightness of the bench below the bar against that above it


class Setting(NamedTuple):
    """Everything that the images of a session share."""

    bar: Bar
    light: Light
    bench: Bench
    coat: RGB
    bare_metal: RGB  # what shows where the coat is missing
    grain: float  # strength of the coat's grain
    grain_size: float
    gloss: float  # how strongly the coat mirrors the lamp
    middle: float  # of the bar, from the top of the image
    tilt: float  # radians
    convergence: float  # how much wider the bar is at the right border than at the left: perspective
    vignetting: float
    noise: float  # of the sensor
    quality: int  # of the JPEG

    @classmethod
    def sample(cls, rng: np.random.Generator) -> "Setting":
        """Choose at random what a session looks like."""
        coat = rng.choice(COAT_COLOURS) * rng.uniform(0.92, 1.06) * rng.uniform(0.98, 1.02, 3)
        pale = float(coat.mean()) > 0.6  # metal under a pale coat is darker than the coat
        low, high = (0.40, 0.40, 0.40), (0.50, 0.49, 0.47)
        bare = rng.uniform(low, high) if pale else rng.uniform(0.74, 0.86) * _sample_white(rng)
        bar = _sample_bar(rng)
        return cls(
            bar=bar,
            light=_sample_light(rng),
            bench=_sample_bench(rng),
            coat=coat.astype(np.float32),
            bare_metal=bare.astype(np.float32),
            grain=rng.uniform(0.012, 0.035),
            grain_size=rng.uniform(0.003, 0.006),
            gloss=rng.uniform(0.15, 0.6),
            middle=_sample_middle(rng, bar.half),
            tilt=math.radians(rng.normal(0, 1.3)),
            convergence=rng.normal(0, 0.03),
            vignetting=rng.uniform(0.05, 0.25),
            noise=rng.uniform(0.006, 0.016),
            quality=int(rng.integers(86, 96)),
        )


def _sample_bar(rng: np.random.Generator) -> Bar:
    """One main face, up to two narrow lips beside it, and sometimes a groove or a ridge along it."""
    half = rng.uniform(0.38, 0.52) if rng.random() < 0.2 else rng.uniform(0.2, 0.36)
    grid = np.linspace(-half, half, PROFILE_STEPS)
    level = np.full(PROFILE_STEPS, rng.uniform(0.92, 1.05))
    level += rng.uniform(-0.08, 0.08) * grid / half  # a face is rarely quite flat
    bends: list[float] = []
    top, bottom = -half, half
    for _ in range(rng.integers(0, 3)):  # lips below the face look away from the light: darker and darker
        bottom -= rng.uniform(0.02, 0.07) * (1 if half < 0.4 else 1.5)
        bends.append(bottom)
        level[grid > bottom] *= rng.uniform(0.45, 0.85)
    for _ in range(rng.integers(0, 2)):
        top += rng.uniform(0.02, 0.08)
        bends.append(top)
        level[grid < top] *= rng.uniform(0.75, 1.15)
    for _ in range(rng.choice((0, 1, 2), p=(0.55, 0.3, 0.15))):  # a groove, dark with a bright flank, or a ridge
        place, sign = rng.uniform(0.75 * top + 0.25 * bottom, 0.25 * top + 0.75 * bottom), rng.choice((-1, 1))
        width = rng.uniform(0.004, 0.008)
        level += sign * rng.uniform(0.15, 0.3) * _ridge(grid, place, width)
        level -= sign * rng.uniform(0.1, 0.25) * _ridge(grid, place + 1.8 * width, width)
        bends.append(float(place))
    for place in (*bends, -half, half):  # edges catch the light or lie in the dark
        level += rng.uniform(-0.2, 0.3) * _ridge(grid, place, rng.uniform(0.002, 0.005))
    level = np.convolve(np.pad(level, 3, mode="edge"), np.full(7, 1 / 7), mode="valid")  # bends are not quite sharp
    return Bar(half, (top, bottom), tuple(sorted(bends)), np.clip(level, 0.1, 1.5).astype(np.float32))


def _sample_middle(rng: np.random.Generator, half: float) -> float:
    """The whole bar in the frame, or one edge of a large one."""
    if half < 0.37:  # so that an edge is always within 0.07 and 0.93 of the height, where a defect may sit on it
        return float(rng.uniform(0.44, 0.56))
    return float(rng.choice((0.88 - half, half + 0.12)) + rng.uniform(-0.05, 0.05))


def _ridge(grid: NDArray[np.float64], place: float, width: float) -> NDArray[np.float64]:
    return np.asarray(np.exp(-(((grid - place) / width) ** 2)))


def _sample_light(rng: np.random.Generator) -> Light:
    angle = -math.pi / 2 + rng.normal(0, 0.7)  # from behind the bench: from above in the image
    direction = (math.cos(angle), math.sin(angle))
    centre = (rng.uniform(-0.6, 0.6), rng.uniform(-0.6, 0.1))
    slope, glare, reach = rng.uniform(0.05, 0.35), rng.uniform(0.0, 0.5), rng.uniform(0.25, 0.6)
    return Light(direction, slope, glare, centre, reach, _sample_white(rng))


def _sample_bench(rng: np.random.Generator) -> Bench:
    paint = rng.choice(BENCH_COLOURS) * rng.uniform(0.85, 1.15) * rng.uniform(0.95, 1.05, 3)
    wear = rng.uniform(0.2, 1.0) if rng.random() < 0.3 else rng.uniform(0.0, 0.15)
    shade, reach, dim = rng.uniform(0.3, 0.9), rng.uniform(0.02, 0.12), rng.uniform(0.35, 1.0)
    return Bench(paint.astype(np.float32), wear, rng.uniform(0.03, 0.2), shade, reach, dim)


def _sample_white(rng: np.random.Generator) -> RGB:
    """White that is a little warm or cold."""
    warmth = rng.normal(0, 0.025)
    return np.array((1 + warmth, 1, 1 - warmth), np.float32)
