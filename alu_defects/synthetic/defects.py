"""One function a defect class draws the defect as it physically is.

Place, size and number come from the scene's random generator. Relief is shaded by the scene's light.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from alu_defects.synthetic.scene import Field, Scene, Window

Line = tuple[NDArray[np.float64], float, float]

WHOLE_FRAME: Window = (slice(None), slice(None))


def draw_non_conductive(scene: Scene) -> None:
    """A band along the face where the powder did not take: rough, densely speckled, paler."""
    rng = scene.rng
    thick = rng.uniform(0.05, 0.11)
    u, v = scene.pick_on_face(thick)
    window, du, dv = scene.window_and_offsets(u, v, 3, 2.5 * thick)
    long = rng.uniform(0.35, 1.2)
    density = np.exp(-np.square(np.square(dv / thick)) - np.square(np.square(du / long)))
    density = density * (1 + 0.35 * scene.random_texture(0.05, 0.15, window))
    grains = scene.random_texture(0.0035, window=window) + 0.35 * scene.random_texture(0.012, window=window)
    speckle = np.clip(0.9 * (grains - 1.9 + 1.7 * density), 0, 1) * np.clip(3 * density, 0, 1)
    holes = np.clip(-grains - 0.9, 0, 1) * density
    strength = rng.uniform(0.35, 0.6)
    scene.shade(window, strength * (0.8 * speckle + 0.22 * density - 0.6 * holes))
    scene.remove_coat(window, 0.45 * speckle)
    scene.mark_defect(window, density > 0.3)


def draw_scuffed(scene: Scene) -> None:
    """Bundles of shallow, irregular rub marks, matt and pale, each bundle in one direction."""
    rng = scene.rng
    strength = rng.uniform(0.5, 0.9)
    for _ in range(rng.integers(1, 4)):
        long, thick = rng.uniform(0.12, 0.32), rng.uniform(0.02, 0.05)
        angle = rng.normal(0, 0.5)
        u, v = scene.pick_on_face(0.5 * long * abs(math.sin(angle)) + thick)
        window, du, dv = scene.window_and_offsets(u, v, 1.2 * long, 1.2 * long * abs(math.sin(angle)) + 2 * thick)
        along = du * math.cos(angle) + dv * math.sin(angle)
        across = dv * math.cos(angle) - du * math.sin(angle) + 0.02 * np.sin(along * rng.uniform(4, 14))
        where = np.exp(-np.square(np.square(along / long)) - np.square(across / thick))
        rubbed = np.clip(scene.random_texture(0.012, 0.03, window) + 0.3, 0, 2) * where
        scene.shade(window, 0.4 * strength * rubbed)
        scene.mark_defect(window, where > 0.3)
        scene.shade(WHOLE_FRAME, 0.75 * strength * scene.draw_lines(_scratch_lines(rng, (u, v), angle, long, thick)))


def draw_cross_strip_dent(scene: Scene) -> None:
    """Lines pressed across the bar, one flank in the dark and the other bright."""
    rng = scene.rng
    top, bottom = scene.bar.face
    strength, width, lean = rng.uniform(0.3, 0.55), rng.uniform(0.009, 0.018), rng.normal(0, 0.03)
    places = scene.pick_on_face(0.2)[0] + np.cumsum(rng.uniform(0.08, 0.3, rng.integers(1, 5))) - 0.1
    inside = np.clip((scene.v - top) / 0.02, 0, 1) * np.clip((bottom - scene.v) / 0.02, 0, 1)
    for place in places:
        offset = (scene.u - np.float32(place) - np.float32(lean) * scene.v) / np.float32(width)
        depth = np.float32(rng.uniform(0.6, 1)) * inside
        groove = np.exp(-np.square(offset))
        # the light comes along the bar only in part: the flanks are shaded by hand, so that none of them vanishes
        side = 1 if scene.setting.light.direction[0] >= 0 else -1
        scene.shade(WHOLE_FRAME, strength * depth * groove * (side * -1.6 * offset - 0.45))
        scene.mark_defect(WHOLE_FRAME, (np.abs(offset) < 2) & (inside > 0.5))


def draw_orange_peel(scene: Scene) -> None:
    """Bumps of one size over the whole face, as on the skin of an orange."""
    rng = scene.rng
    top, bottom = scene.bar.face
    size = rng.uniform(0.015, 0.026)
    bumps = scene.random_texture(size, 1.2 * size) - 0.6 * scene.random_texture(3 * size)
    u, _ = scene.pick_on_face(0.3)
    where = np.exp(-np.square(np.square((scene.u - u) / rng.uniform(0.6, 1.2))))
    where = where * np.clip((scene.v - top) / 0.02, 0, 1) * np.clip((bottom - scene.v) / 0.02, 0, 1)
    scene.emboss(WHOLE_FRAME, np.asarray(bumps * where), rng.uniform(0.45, 0.8))
    scene.mark_defect(WHOLE_FRAME, where > 0.3)


def draw_bottom_leakage(scene: Scene) -> None:
    """The base metal shows where the coat is too thin: along bends and edges, and in patches beside them."""
    rng = scene.rng
    u, v = scene.pick_on_bend() if rng.random() < 0.7 else scene.pick_on_edge()
    inward = -1.0 if v > 0 else 1.0
    long, thick = rng.uniform(0.2, 0.7), rng.uniform(0.018, 0.045)
    window, du, dv = scene.window_and_offsets(u, v, 1.3 * long, 3 * thick + 0.02)
    away = np.abs(dv - inward * 0.35 * thick) / thick
    ragged = 0.45 * scene.random_texture(0.02, 0.06, window) + 0.25 * scene.random_texture(0.008, window=window)
    where = np.exp(-np.square(np.square(du / long))) * np.exp(-np.square(away)) + 0.18 * ragged
    thin = np.clip(2.5 * (where - 0.3), 0, 1) * (where > 0.1)
    speckle = np.clip(0.9 + 0.25 * scene.random_texture(0.005, window=window), 0, 1)  # the coat holds on in grains
    scene.remove_coat(window, rng.uniform(0.75, 1) * thin * speckle)
    scene.shade(window, -0.15 * np.clip(1 - np.abs(where - 0.3) / 0.12, 0, 1))  # the rim of the coat
    scene.mark_defect(window, thin > 0.3)
    for _ in range(rng.integers(0, 4)):  # patches
        place = u + rng.uniform(-0.8, 0.8) * long
        radius = rng.uniform(0.012, 0.035)
        window, du, dv = scene.window_and_offsets(place, v + inward * rng.uniform(1, 2.5) * thick, 3 * radius)
        blot = 1.1 - np.hypot(0.7 * du, dv) / radius + 0.35 * scene.random_texture(0.012, window=window)
        scene.remove_coat(window, rng.uniform(0.6, 0.95) * np.clip(4 * blot, 0, 1))
        scene.mark_defect(window, blot > 0.1)


def draw_bruise(scene: Scene) -> None:
    """A knock: the edge is dented, metal lies bare, and the hollow casts a shadow."""
    rng = scene.rng
    for number in range(rng.integers(1, 4)):
        u, v = scene.pick_on_edge() if number == 0 or rng.random() < 0.6 else scene.pick_on_face(0.05)
        at_edge = abs(v) == scene.bar.half
        inward = -1.0 if v > 0 else 1.0
        long, deep = rng.uniform(0.04, 0.09), rng.uniform(0.025, 0.055)
        window, du, dv = scene.window_and_offsets(u, v + inward * 0.3 * deep, 3 * long, 4 * deep)
        ragged = 0.3 * scene.random_texture(0.015, 0.02, window)
        inside = 1.2 - np.hypot(du / long, dv / deep) + ragged
        knock = np.clip(inside, 0, 1)
        if at_edge:
            hollow = np.exp(-np.square(du / (0.5 * long))) * np.float32(0.3 * deep * rng.uniform(0.5, 1))
            scene.missing_edge[window] = np.maximum(scene.missing_edge[window], hollow * (scene.v[window] * v > 0))
        scene.emboss(window, -np.asarray(knock * knock * (1 + 0.8 * ragged)), rng.uniform(0.7, 1.0))
        scene.shade(window, -0.3 * np.clip(1 - np.abs(inside - 0.1) / 0.2, 0, 1))  # the wall of the hollow
        metal = np.clip(3 * (inside - 0.45) + scene.random_texture(0.006, 0.02, window), 0, 1) * (inside > 0.2)
        scene.remove_coat(window, 0.9 * metal)
        scene.mark_defect(window, inside > 0.1)


def draw_pit(scene: Scene) -> None:
    """A cluster of craters: dark hollows whose far wall and rim catch the light."""
    rng = scene.rng
    contrast = rng.uniform(0.5, 0.8)
    for u, v, radius in _cluster_marks(scene, 12, 45, (0.008, 0.017)):
        window, du, dv = scene.window_and_offsets(u, v, 3 * radius)
        distance = _oval_distance(rng, du, dv) / np.float32(radius)
        hollow = np.exp(-np.square(np.square(distance)))
        rim = np.exp(-np.square((distance - 1.35) / 0.35))
        scene.emboss(window, 0.35 * rim - hollow, contrast)
        scene.shade(window, -0.75 * contrast * hollow)  # little light falls into it
        scene.mark_defect(window, distance < 1.3)


def draw_convex_powder(scene: Scene) -> None:
    """Lumps of powder: bright towards the light, dark behind, with a shadow on the face."""
    rng = scene.rng
    contrast = rng.uniform(0.5, 0.8)
    x, y = scene.setting.light.direction
    for u, v, radius in _cluster_marks(scene, 8, 28, (0.010, 0.021)):
        window, du, dv = scene.window_and_offsets(u, v, 4 * radius)
        distance = _oval_distance(rng, du, dv) / np.float32(radius)
        shadow = np.exp(-np.square(np.hypot(du + 1.3 * radius * x, dv + 1.3 * radius * y) / (0.8 * radius)))
        lump = np.exp(-np.square(np.square(distance)))
        scene.emboss(window, lump, contrast)
        highlight = np.exp(-np.square(np.hypot(du - 0.4 * radius * x, dv - 0.4 * radius * y) / (0.45 * radius)))
        scene.shade(window, contrast * (0.5 * lump + 0.8 * highlight - 0.55 * shadow * (1 - lump)))
        scene.mark_defect(window, distance < 1.2)


def draw_cracked_coating(scene: Scene) -> None:
    """Thin cracks that branch, most of them across a bend, with lifted, pale rims."""
    rng = scene.rng
    u, v = scene.pick_on_bend() if rng.random() < 0.7 else scene.pick_on_face(0.08)
    spread = rng.uniform(0.12, 0.3)
    tips = [
        (np.array((rng.uniform(-spread, spread) + u, v + rng.normal(0, 0.012))), side * 1.57 + rng.normal(0, 0.5), 0)
        for side in (-1, 1)
        for _ in range(rng.integers(5, 11))
    ]
    drawn: list[Line] = []
    while tips:
        place, angle, depth = tips.pop()
        points = [place]
        for _ in range(max(int(rng.integers(3, 8)) - 2 * depth, 2)):
            angle += rng.normal(0, 0.45)
            points.append(points[-1] + rng.uniform(0.012, 0.024) * _unit_vector(angle))
            if depth < 2 and rng.random() < 0.35:
                tips.append((points[-1], angle + rng.choice((-1, 1)) * rng.uniform(0.6, 1.3), depth + 1))
        drawn.append((np.array(points), rng.uniform(0.0035, 0.006) * 0.75**depth, 1 - 0.15 * depth))
    window = scene.window(u, v, spread + 0.2, 0.25)
    cracks = scene.draw_lines(drawn)[window]
    rims = scene.draw_lines((line, 3 * width, 0.8) for line, width, _ in drawn)[window]
    contrast = rng.uniform(0.7, 0.95)
    scene.shade(window, 0.3 * contrast * rims * (1 - cracks) - contrast * cracks)
    scene.mark_defect(window, cracks > 0.2)


def draw_dirty_spot(scene: Scene) -> None:
    """Ragged specks of dirt, dark, some pale: two or three larger ones, the others a percent of the frame wide."""
    rng = scene.rng
    ragged = scene.random_texture(0.008)
    for number in range(rng.integers(2, 9)):
        u, v = scene.pick_on_face(0.03)
        radius = rng.uniform(0.016, 0.034) if number < 3 else rng.uniform(0.006, 0.014)
        window, du, dv = scene.window_and_offsets(u, v, 3 * radius)
        inside = 1.1 - np.hypot(du, dv * rng.uniform(0.7, 1.5)) / np.float32(radius) + 0.3 * ragged[window]
        blot = np.clip(3 * inside, 0, 1)
        pale = rng.random() < 0.15
        scene.shade(window, (0.5 if pale else -rng.uniform(0.7, 0.95)) * blot)
        scene.emboss(window, blot, 0.2)
        scene.mark_defect(window, blot > 0.2)


DRAW_FUNCTIONS: dict[str, Callable[[Scene], None]] = {
    name.removeprefix("draw_"): function for name, function in globals().items() if name.startswith("draw_")
}


def _unit_vector(angle: float) -> NDArray[np.float64]:
    return np.array((math.cos(angle), math.sin(angle)))


def _scratch_lines(
    rng: np.random.Generator, place: tuple[float, float], angle: float, long: float, thick: float
) -> Iterator[Line]:
    """Nearly parallel, slightly bent lines in a bundle of the given angle, length and thickness."""
    for _ in range(rng.integers(15, 45)):
        turn = angle + rng.normal(0, 0.08)
        along, offset = rng.uniform(-0.8, 0.8) * long, rng.normal(0, 0.9) * thick
        middle = np.array(place) + along * _unit_vector(angle) + offset * _unit_vector(angle + math.pi / 2)
        steps = np.linspace(-1, 1, 6)[:, None] * rng.uniform(0.1, 0.5) * long
        bend = np.square(steps) * rng.normal(0, 0.6) * _unit_vector(turn + math.pi / 2)
        line = middle + steps * _unit_vector(turn) + bend
        yield line, rng.uniform(0.0015, 0.005), rng.uniform(0.3, 1)


def _oval_distance(rng: np.random.Generator, du: Field, dv: Field) -> Field:
    """Distance from a place whose circles are a little flattened, each in a direction of its own."""
    angle, flat = rng.uniform(0, math.pi), rng.uniform(0.82, 1)
    cos, sin = math.cos(angle), math.sin(angle)
    return np.asarray(np.hypot(flat * (du * cos + dv * sin), (dv * cos - du * sin) / flat))


def _cluster_marks(
    scene: Scene, low: int, high: int, radii: tuple[float, float]
) -> Iterator[tuple[float, float, float]]:
    """Marks scattered round one place of the face, as (u, v, radius)."""
    rng = scene.rng
    top, bottom = scene.face
    centre, spread = scene.pick_on_face(0.06), rng.uniform((0.06, 0.03), (0.22, 0.09))
    for _ in range(rng.integers(low, high)):
        u, v = rng.normal(centre, spread)
        yield float(u), float(np.clip(v, top + 0.02, bottom - 0.02)), float(rng.uniform(*radii))
