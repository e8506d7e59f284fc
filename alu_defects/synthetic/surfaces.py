"""Generated surfaces: textures with or without a defect, to learn from before a network sees real images.

Textures are filtered noise and repeated patterns with continuous parameters, lit from one side and photographed:
colour, uneven light, blur, noise, JPEG. No real image takes part. Lengths are in sides of the image.
"""

import functools
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

Field = NDArray[np.float32]  # (side, side)


class Grid(NamedTuple):
    """Places and frequencies of the pixels of an image."""

    x: Field  # (1, side), from -0.5 to 0.5
    y: Field  # (side, 1)
    fx: Field  # (1, side // 2 + 1), periods a side, of a real Fourier transform
    fy: Field  # (side, 1)


def _zero_or(rng: np.random.Generator, low: float, high: float) -> float:
    """Zero, or as often a number of the range."""
    return rng.uniform(low, high) if rng.random() < 0.5 else 0.0


@functools.cache
def grid(side: int) -> Grid:
    """The grid of square images of `side` pixels."""
    place = ((np.arange(side) + 0.5) / side - 0.5).astype(np.float32)
    fx, fy = scipy.fft.rfftfreq(side, 1 / side), scipy.fft.fftfreq(side, 1 / side)
    return Grid(place[None, :], place[:, None], fx[None, :].astype(np.float32), fy[:, None].astype(np.float32))


@dataclass(frozen=True)
class Noise:
    """Filtered Gaussian noise.

    `centre` is the middle of its frequencies in periods a side, `octaves` their spread; `stretch` above 1 draws it out
    along `angle` (radians). A spectrum that falls with the frequency, as of clouds, has a low centre and many octaves.
    """

    centre: float
    octaves: float
    stretch: float
    angle: float

    @classmethod
    def sample(cls, rng: np.random.Generator, coarsest: float = 1.5, finest: float = 60.0) -> "Noise":
        """Isotropic, slightly or strongly drawn out; narrow or broad."""
        centre = math.exp(rng.uniform(math.log(coarsest), math.log(finest)))
        low, high = ((0.0, 0.0), (0.0, 0.7), (1.0, 3.5))[rng.choice(3, p=(0.45, 0.2, 0.35))]
        stretch = math.exp(rng.uniform(low, high))
        return cls(centre, rng.uniform(0.25, 2.0), stretch, rng.uniform(0, math.pi))

    def draw(self, rng: np.random.Generator, side: int, turn: float = 0.0, zoom: float = 1.0) -> Field:
        """Values of mean 0 and standard deviation 1, turned by `turn` radians and enlarged `zoom` times."""
        g, angle = grid(side), self.angle + turn
        cos, sin, root = math.cos(angle), math.sin(angle), math.sqrt(self.stretch)
        along, across = (
            (g.fx * np.float32(cos) + g.fy * np.float32(sin)),
            (g.fy * np.float32(cos) - g.fx * np.float32(sin)),
        )
        square = np.square(along * np.float32(root)) + np.square(across / np.float32(root))
        octave = np.log(square * np.float32(zoom**2 / self.centre**2) + np.float32(1e-9))  # twice the natural logarithm
        weight = np.exp(np.square(octave) * np.float32(-0.125 / (self.octaves * math.log(2)) ** 2))
        # the same number of octaves has more frequencies higher up: their power is that of an octave
        weight /= np.sqrt(square + np.float32(0.5))
        weight[0, 0] = 0
        normal = rng.standard_normal((2, *weight.shape), dtype=np.float32)
        values = scipy.fft.irfft2((normal[0] + 1j * normal[1]) * weight, s=(side, side))
        return np.asarray(values / np.float32(values.std() + 1e-12))


@dataclass(frozen=True)
class Pattern:
    """A repeated profile: stripes, or two of them as a weave; or the rings and arcs of a turned or ground face."""

    form: str  # stripes, weave, arcs
    period: float
    angle: float
    sharpness: float  # 0: a sine, above: nearly black and white
    wobble: float  # how far lines leave their place, in periods
    unequal: float  # how unequal the lines are

    @classmethod
    def sample(cls, rng: np.random.Generator) -> "Pattern":
        """Any form, two to fifty periods a side."""
        return cls(
            form=str(rng.choice(("stripes", "weave", "arcs"), p=(0.55, 0.25, 0.2))),
            period=math.exp(rng.uniform(math.log(0.02), math.log(0.4))),
            angle=rng.uniform(0, math.pi),
            sharpness=_zero_or(rng, 0, 4),
            wobble=_zero_or(rng, 0, 0.6),
            unequal=_zero_or(rng, 0, 1.5),
        )

    def draw(self, rng: np.random.Generator, side: int, turn: float = 0.0, zoom: float = 1.0) -> Field:
        """Values of about mean 0 and standard deviation 1."""
        g, angle, period = grid(side), self.angle + turn, self.period * zoom
        cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
        ways = [g.x * cos + g.y * sin]
        if self.form == "weave":
            ways.append(g.y * cos - g.x * sin)
        if self.form == "arcs":
            middle = rng.uniform(0.3, 2.5) * np.array((cos, sin), np.float32)
            ways = [np.hypot(g.x - middle[0], g.y - middle[1])]
        if self.wobble:
            bend = Noise(rng.uniform(1, 4), 0.7, 1.0, 0.0).draw(rng, side)
            ways = [way + np.float32(self.wobble * period) * bend for way in ways]
        waves = [
            np.sin(way * np.float32(2 * math.pi / period) + np.float32(rng.uniform(0, 2 * math.pi))) for way in ways
        ]
        if self.unequal:  # each line has a strength of its own
            lines = 1 + self.unequal * rng.standard_normal(512).astype(np.float32)
            waves = [
                w * lines[np.floor(way / np.float32(period)).astype(np.int64) % 512]
                for w, way in zip(waves, ways, strict=True)
            ]
        if self.sharpness:
            waves = [np.tanh(wave * np.float32(1 + self.sharpness)) for wave in waves]
        value = waves[0] if len(waves) == 1 else np.maximum(*waves)
        return np.asarray((value - value.mean()) / (value.std() + np.float32(1e-6)))


def _plain(values: Field) -> Field:
    return values


def _veins(values: Field) -> Field:
    """Bright lines where the noise passes zero."""
    return np.asarray(2 * np.exp(-np.square(values) * np.float32(6)) - np.float32(0.7))


def _grains(values: Field) -> Field:
    """Few strong peaks."""
    return np.asarray(np.exp(np.minimum(values, 4) * np.float32(0.9)) * np.float32(0.6) - np.float32(0.9))


def _patches(values: Field) -> Field:
    """Two levels with clear borders."""
    return np.asarray(np.tanh(values * np.float32(5)))


def _folds(values: Field) -> Field:
    return np.asarray((np.abs(values) - np.float32(0.8)) * np.float32(1.6))


CURVES = {"plain": _plain, "veins": _veins, "grains": _grains, "patches": _patches, "folds": _folds}


@dataclass(frozen=True)
class Layer:
    """One texture of a surface."""

    source: Noise | Pattern
    curve: str  # a key of `CURVES`
    strength: float
    is_relief: bool  # lit from the side; else it is brightness itself

    @classmethod
    def sample(cls, rng: np.random.Generator) -> "Layer":
        """Four of five are noise."""
        is_noise = rng.random() < 0.8
        source = Noise.sample(rng) if is_noise else Pattern.sample(rng)
        curve = str(rng.choice(list(CURVES), p=(0.6, 0.1, 0.1, 0.1, 0.1))) if is_noise else "plain"
        return cls(source, curve, math.exp(rng.normal(0, 0.5)), bool(rng.random() < 0.4))

    def draw(self, rng: np.random.Generator, side: int, turn: float, zoom: float, light: float) -> Field:
        """Brightness of mean 0."""
        values = CURVES[self.curve](self.source.draw(rng, side, turn, zoom))
        if self.is_relief:
            values = shade(values, light)
            values = values / (values.std() + np.float32(1e-6))
        return np.asarray(values * np.float32(self.strength))


@dataclass(frozen=True)
class Texture:
    """What a surface looks like without a defect."""

    layers: tuple[Layer, ...]
    contrast: float  # standard deviation of the brightness, of the full range
    level: float  # mean brightness
    colour: tuple[float, float, float]

    @classmethod
    def sample(cls, rng: np.random.Generator) -> "Texture":
        """One to three layers; half of them grey, contrast from hardly visible to strong."""
        layers = tuple(Layer.sample(rng) for _ in range(rng.choice((1, 2, 3), p=(0.4, 0.4, 0.2))))
        contrast = math.exp(rng.uniform(math.log(0.01), math.log(0.17)))
        tint = rng.normal(0, rng.choice((0.0, 0.03, 0.25), p=(0.5, 0.3, 0.2)), 3)
        red, green, blue = (1 + tint - tint.mean()).clip(0.3, 1.7)
        return cls(layers, contrast, rng.uniform(0.2, 0.8), (float(red), float(green), float(blue)))

    def draw(self, rng: np.random.Generator, side: int, turn: float, zoom: float, light: float) -> Field:
        """Brightness of mean 0 and standard deviation 1."""
        drawn = [layer.draw(rng, side, turn, zoom, light) for layer in self.layers]
        values = np.sum(drawn, axis=0)
        return np.asarray((values - values.mean()) / (values.std() + np.float32(1e-6)))


@dataclass
class Canvas:
    """A surface while a defect is drawn on it. Brightness is in multiples of the contrast that a defect has."""

    rng: np.random.Generator
    side: int
    light: float  # where it comes from, radians
    tone: Field = field(init=False)  # brightness that the defect adds
    relief: Field = field(init=False)  # height; lit from the side
    mask: NDArray[np.bool_] = field(init=False)  # where the defect is

    def __post_init__(self) -> None:
        shape = self.side, self.side
        self.tone, self.relief = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self.mask = np.zeros(shape, np.bool_)

    @functools.cached_property
    def ragged(self) -> Field:
        """Noise that makes borders irregular, of mean 0 and standard deviation 1."""
        return Noise(self.rng.uniform(3, 14), 0.8, 1.0, 0.0).draw(self.rng, self.side)

    def brightness(self) -> Field:
        """What all defects add to the surface."""
        return np.asarray(self.tone + shade(self.relief, self.light) * np.float32(0.02 * self.side))


def shade(height: Field, light: float) -> Field:
    """Bright where a relief faces the light, which comes from the angle `light` in radians; per pixel."""
    slope = np.zeros_like(height)
    slope[:, 1:-1] -= np.float32(math.cos(light)) * (height[:, 2:] - height[:, :-2])
    slope[1:-1, :] -= np.float32(math.sin(light)) * (height[2:, :] - height[:-2, :])
    return slope


@dataclass(frozen=True)
class Camera:
    """How one image is lit and taken."""

    gradient: Sequence[float]  # of the light along x and y
    vignette: float
    gamma: float
    blur: float  # standard deviation in pixels
    noise: float  # standard deviation, of the full range
    quality: int  # of the JPEG; 0: none

    @classmethod
    def sample(cls, rng: np.random.Generator) -> "Camera":
        """From the best to a phone in bad light."""
        return cls(
            gradient=rng.normal(0, rng.choice((0.03, 0.25)), 2).tolist(),
            vignette=_zero_or(rng, 0, 0.8),
            gamma=math.exp(rng.normal(0, 0.25)),
            blur=_zero_or(rng, 0.3, 1.6),
            noise=rng.uniform(0, 0.01) if rng.random() < 0.7 else rng.uniform(0.01, 0.06),
            quality=int(rng.integers(30, 96)) if rng.random() < 0.5 else 0,
        )

    def take(self, rng: np.random.Generator, surface: Field, colour: tuple[float, float, float]) -> NDArray[np.uint8]:
        """The image, (side, side, 3), of a surface with brightness from 0 to 1."""
        side = len(surface)
        g = grid(side)
        light = 1 + np.float32(self.gradient[0]) * g.x + np.float32(self.gradient[1]) * g.y
        if self.vignette:
            light = light - np.float32(self.vignette) * (g.x * g.x + g.y * g.y)
        value = surface * light
        if self.blur:
            value = gaussian_filter(value, self.blur, truncate=2.5)
        value = np.clip(value, 0, None) ** np.float32(self.gamma)
        value = value + np.float32(self.noise) * rng.standard_normal(value.shape, dtype=np.float32)
        pixels = (value[:, :, None] * (np.float32(255) * np.array(colour, np.float32))).clip(0, 255).astype(np.uint8)
        if not self.quality:
            return pixels
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=self.quality)
        return np.asarray(Image.open(buffer))
