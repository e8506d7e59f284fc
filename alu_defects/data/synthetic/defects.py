"""One painter a defect class. Each draws its place, size, number and contrast from the scene's generator."""

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from alu_defects.data.synthetic.scene import Field, Scene, Window

Painter = Callable[[Scene], None]


def non_conductive(scene: Scene) -> None:
    """A band along the bar where the coating took badly: mottled, speckled, pale."""
    rng = scene.rng
    thickness = rng.uniform(0.07, 0.13)
    u, v = scene.somewhere(thickness)
    band = _plateau(scene, u, v, rng.uniform(0.4, 0.9), thickness)
    speckle = np.clip(scene.mottle(0.012) + 0.8 * scene.mottle(0.03), -0.6, 2)
    scene.tone += rng.uniform(0.22, 0.4) * band * (speckle + 0.4)


def scuffed(scene: Scene) -> None:
    """A bundle of fine bright scratches, nearly parallel, at a slant to the bar."""
    rng = scene.rng
    u, v = scene.somewhere(0.12)
    direction = rng.choice((-1, 1)) * rng.uniform(0.2, 1.1)
    spread = rng.uniform(0.06, 0.14)

    def scratches() -> Iterator[tuple[NDArray[np.float64], float, float]]:
        for _ in range(rng.integers(14, 36)):
            angle = direction + rng.normal(0, 0.06)
            along = np.array((np.cos(angle), np.sin(angle)))
            start = np.array((u, v)) + rng.normal(0, spread, 2)
            reach = rng.uniform(0.08, 0.3) * np.array((-0.5, 0.5))
            yield start + reach[:, None] * along, rng.uniform(0.003, 0.008), rng.uniform(0.4, 1)

    scene.tone += rng.uniform(0.6, 1) * scene.strokes(scratches())


def cross_strip_dent(scene: Scene) -> None:
    """Straight dents across the whole bar, dark on one flank and bright on the other."""
    rng = scene.rng
    places = scene.somewhere(0.15)[0] + np.cumsum(rng.uniform(0.07, 0.25, rng.integers(1, 5)))
    reach = scene.length / 2
    lean = rng.normal(0, 0.04)
    for place in (places + reach) % (2 * reach) - reach:  # a strip pushed out at one side comes back at the other
        width = rng.uniform(0.010, 0.020)
        offset = (scene.u - float(place) - lean * scene.v) / width
        dent = np.exp(-(offset**2))
        scene.tone += rng.uniform(0.35, 0.6) * (1.5 * offset * dent - 0.6 * dent)


def orange_peel(scene: Scene) -> None:
    """Coating that dried bumpy, like the skin of an orange, over a large area."""
    rng = scene.rng
    u, v = scene.somewhere(0.2)
    area = _plateau(scene, u, v, rng.uniform(0.35, 0.7), rng.uniform(0.2, 0.4))
    size = rng.uniform(0.026, 0.04)
    across, along = np.gradient(scene.mottle(size))
    lamp = rng.uniform(0.25, 0.75) * math.pi  # it hangs above the bench: light comes from the top of the frame
    slope = size * scene.shape[0] * (math.sin(lamp) * across + math.cos(lamp) * along)
    scene.tone += rng.uniform(0.08, 0.16) * area * slope


def bottom_leakage(scene: Scene) -> None:
    """A patch without coating, sharply bordered, often at an edge of the bar: the metal shines through."""
    rng = scene.rng
    u, v = scene.somewhere(0.1)
    if rng.random() < 0.6:
        v = float(rng.choice((-1, 1)) * (scene.half - 0.04))
    long, short = rng.uniform(0.14, 0.36), rng.uniform(0.07, 0.14)
    distance = np.hypot((scene.u - u) / long, (scene.v - v) / short)
    distance += 0.1 * scene.mottle(0.05) + 0.15 * scene.mottle(0.15)
    scene.bare += np.clip((1 - distance) * short * scene.shape[0], 0, 1)
    scene.tone -= rng.uniform(0.5, 0.8) * np.exp(-(((distance - 1.08) / 0.1) ** 2))  # the torn border lies in shade


def bruise(scene: Scene) -> None:
    """One to three short gouges from a knock, with a dark ground and a bright raised rim."""
    rng = scene.rng
    u, v = scene.somewhere(0.08)
    if rng.random() < 0.4:
        v = float(rng.choice((-1, 1)) * (scene.half - 0.03))
    angle = rng.uniform(0, np.pi)
    for _ in range(rng.integers(1, 4)):
        long, short = rng.uniform(0.07, 0.14), rng.uniform(0.018, 0.030)
        window, du, dv = _around(scene, u, v, 2 * long)
        along, across = du * np.cos(angle) + dv * np.sin(angle), dv * np.cos(angle) - du * np.sin(angle)
        distance = np.hypot(along / long, across / short)
        _dent(scene, window, distance, rng.uniform(0.55, 0.85), rng.uniform(0.5, 0.9))
        u, v = u + rng.normal(0, 0.09), v + rng.normal(0, 0.04)
        angle += rng.normal(0, 0.4)


def pit(scene: Scene) -> None:
    """A cluster of small dark craters with bright rims."""
    contrast = scene.rng.uniform(0.65, 0.9)
    for u, v, radius in _cluster(scene, 18, 45, (0.011, 0.020)):
        window, du, dv = _around(scene, u, v, 3 * radius)
        _dent(scene, window, np.hypot(du, dv) / radius, contrast, 0.6 * contrast)


def convex_powder(scene: Scene) -> None:
    """A cluster of small bright bumps of powder that cast a shadow to one side."""
    contrast = scene.rng.uniform(0.6, 0.95)
    for u, v, radius in _cluster(scene, 14, 36, (0.012, 0.022)):
        window, du, dv = _around(scene, u, v, 4 * radius)
        shadow = np.exp(-((du - 0.6 * radius) ** 2 + (dv - 1.2 * radius) ** 2) / radius**2)
        bump = np.exp(-(((du**2 + dv**2) / radius**2) ** 2))
        scene.tone[window] += contrast * (1.1 * bump - 0.6 * shadow * (1 - bump))


def cracked_coating(scene: Scene) -> None:
    """A thin dark network of cracks that branches out from one place."""
    rng = scene.rng
    centre = np.array(scene.somewhere(0.15))
    step = rng.uniform(0.03, 0.045)
    tips = [(centre, angle, 0) for angle in rng.uniform(0, 2 * np.pi) + np.arange(5) * 0.4 * np.pi]

    def cracks() -> Iterator[tuple[NDArray[np.float64], float, float]]:
        while tips:
            place, angle, depth = tips.pop()
            points = [place]
            for _ in range(rng.integers(4, 9) - depth):
                angle += rng.normal(0, 0.5)
                points.append(points[-1] + step * np.array((np.cos(angle), np.sin(angle))))
                if depth < 2 and rng.random() < 0.4:
                    tips.append((points[-1], angle + rng.choice((-1, 1)) * rng.uniform(0.7, 1.3), depth + 1))
            yield np.array(points), 0.011 - 0.002 * depth, 1 - 0.15 * depth

    scene.tone -= rng.uniform(0.65, 0.9) * scene.strokes(cracks())


def dirty_spot(scene: Scene) -> None:
    """A few dark blots without form."""
    rng = scene.rng
    contrast = rng.uniform(0.6, 0.9)
    ragged = scene.mottle(0.02)
    for _ in range(rng.integers(3, 7)):
        u, v = scene.somewhere(0.05)
        radius = rng.uniform(0.028, 0.055)
        window, du, dv = _around(scene, u, v, 2.5 * radius)
        distance = np.hypot(du, dv * rng.uniform(0.8, 1.6)) / radius + 0.25 * ragged[window]
        blot = np.clip(3 * (1.1 - distance), 0, 1)
        scene.tone[window] = np.minimum(scene.tone[window], -contrast * blot)


PAINTERS: dict[str, Painter] = {
    painter.__name__: painter
    for painter in (
        non_conductive,
        scuffed,
        cross_strip_dent,
        orange_peel,
        bottom_leakage,
        bruise,
        pit,
        convex_powder,
        cracked_coating,
        dirty_spot,
    )
}


def _around(scene: Scene, u: float, v: float, reach: float) -> tuple[Window, Field, Field]:
    """A window round a place and the offsets from it: a small mark need not touch the whole frame."""
    window = scene.window(u, v, reach)
    return window, scene.u[window] - np.float32(u), scene.v[window] - np.float32(v)


def _plateau(scene: Scene, u: float, v: float, long: float, short: float) -> Field:
    """Nearly 1 round a place, falling to 0 beyond `long` along the bar and `short` across it."""
    # squared twice: numpy has a fast path for ** 2 and none for ** 4
    along, across = np.square((scene.u - u) / long), np.square((scene.v - v) / short)
    return np.asarray(np.exp(-(along**2) - across**2))


def _cluster(scene: Scene, low: int, high: int, radii: tuple[float, float]) -> Iterator[tuple[float, float, float]]:
    """Marks scattered round one place, as (u, v, radius)."""
    rng = scene.rng
    centre = scene.somewhere(0.1)
    spread = rng.uniform((0.09, 0.05), (0.22, 0.1))
    for _ in range(rng.integers(low, high)):
        u, v = rng.normal(centre, spread)
        yield float(u), float(np.clip(v, 0.02 - scene.half, scene.half - 0.02)), float(rng.uniform(*radii))


def _dent(scene: Scene, window: Window, distance: Field, depth: float, rim: float) -> None:
    """Dark inside distance 1, a bright rim round it."""
    ground = np.exp(-(distance**4))
    ring = np.exp(-(((distance - 1.45) / 0.35) ** 2))
    scene.tone[window] = np.clip(scene.tone[window] + rim * ring - depth * ground, -depth, rim)
