"""Sets of generated surfaces: what image i shows, and the folder that holds them all."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alu_defects.synthetic.files import save_image, write_once
from alu_defects.synthetic.surface_defects import KINDS, Defect
from alu_defects.synthetic.surfaces import Camera, Canvas, Texture

GOOD = "good"
GENERATOR_VERSION = 1  # raise it when the images change


@dataclass(frozen=True)
class SurfaceOptions:
    """What a set of surfaces is made of. A class is one texture with one defect, or without any."""

    images: int
    textures: int
    defects: int  # of each texture, besides the good surface
    side: int = 128  # pixels
    seed: int = 0

    def folder_name(self) -> str:
        """A name that no other set has."""
        numbers = f"{self.images}_{self.textures}textures_{self.defects}defects_{self.side}px_seed{self.seed}"
        return f"v{GENERATOR_VERSION}_{numbers}"

    def label(self, index: int) -> int:
        """The class of image `index`: classes take turns."""
        return index % (self.textures * (self.defects + 1))

    def class_name(self, label: int) -> str:
        """Such as 0042_scratch or, without a defect, 0042_good."""
        defect = recipe(self, label).defect
        number = label % (self.defects + 1)
        return f"{label // (self.defects + 1):04d}_" + (f"{number:02d}_{defect.kind}" if defect else GOOD)


class Recipe(NamedTuple):
    """What the images of a class have in common."""

    texture: Texture
    defect: Defect | None


class Surface(NamedTuple):
    """One image."""

    pixels: NDArray[np.uint8]  # (side, side, 3)
    mask: NDArray[np.bool_]  # (side, side): where the defect is
    recipe: Recipe


def write_surfaces(root: Path, options: SurfaceOptions, *, workers: int | None = None, progress: bool = True) -> Path:
    """Write a set unless it is there, one folder a class; see `write_once`. Returns its folder."""
    return write_once(root, options.folder_name(), _jobs(options), workers=workers, progress=progress)


def _jobs(options: SurfaceOptions) -> Iterator[Callable[[Path], None]]:
    for index in range(options.images):
        yield functools.partial(_write, options, index)


def _write(options: SurfaceOptions, index: int, folder: Path) -> None:
    path = folder / options.class_name(options.label(index)) / f"{index:07d}.jpg"
    if not path.exists():
        save_image(Image.fromarray(draw_surface(options, index).pixels), path, quality=95)


@functools.lru_cache(maxsize=100_000)
def recipe(options: SurfaceOptions, label: int) -> Recipe:
    """The recipe of a class, which depends on the seed and its number alone."""
    texture, number = divmod(label, options.defects + 1)
    made = Texture.sample(np.random.default_rng([options.seed, 1, texture]))
    if number == 0:
        return Recipe(made, None)
    rng = np.random.default_rng([options.seed, 2, texture])
    kind = str(rng.choice(list(KINDS), options.defects, replace=options.defects > len(KINDS))[number - 1])
    return Recipe(made, Defect.sample(np.random.default_rng([options.seed, 3, label]), kind))


def draw_surface(options: SurfaceOptions, index: int) -> Surface:
    """Image `index` of a set. It depends on the seed and its number alone."""
    made = recipe(options, options.label(index))
    return draw(made, np.random.default_rng([options.seed, 4, index]), options.side)


def draw(made: Recipe, rng: np.random.Generator, side: int) -> Surface:
    """An image of a class: another place, turn, size, light and camera."""
    light = rng.uniform(0, 2 * np.pi)
    turn, zoom = rng.normal(0, 0.15), float(np.exp(rng.normal(0, 0.12)))
    texture, camera = made.texture, Camera.sample(rng)
    contrast = texture.contrast * float(np.exp(rng.normal(0, 0.15)))
    values = texture.draw(rng, side, turn, zoom, light) * np.float32(contrast)
    canvas = Canvas(rng, side, light)
    if made.defect:
        defect = made.defect.vary(rng)
        defect.draw(canvas)
        # a defect is seen if it differs more than the surface itself and the noise of the camera
        values = values + canvas.brightness() * np.float32(defect.strength * (0.05 + 1.2 * contrast + camera.noise))
    level = float(np.clip(texture.level * np.exp(rng.normal(0, 0.2)), 0.12, 0.85))
    return Surface(camera.take(rng, values + np.float32(level), texture.colour), canvas.mask, made)
