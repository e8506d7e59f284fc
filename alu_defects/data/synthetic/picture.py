"""The photograph of one shot of the plan, with the mask of its defect."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alu_defects.data.synthetic.defects import PAINTERS
from alu_defects.data.synthetic.scene import Scene
from alu_defects.data.synthetic.setting import Setting
from alu_defects.taxonomy import DefectClass

SAME_PIECE = 0.6  # chance that a shot shows the piece of the shot before, moved a little, and not another of the lot


@dataclass(frozen=True)
class Picture:
    """A generated photograph."""

    pixels: NDArray[np.uint8]  # (H, W, 3)
    masks: tuple[NDArray[np.bool_], ...]  # (H, W) each: where the first defect is, the second ...
    quality: int  # of the JPEG that the phone would write


def draw(
    seed: int,
    kind: DefectClass,
    session: int,
    number: int,
    *,
    size: tuple[int, int],
    severity: float = 1.0,
    defects: Sequence[str] | None = None,
) -> Picture:
    """Draw a picture; it depends on the arguments alone.

    Args:
        seed: of the generated set.
        kind: class of the session.
        session: counted within the class; all its pictures share bar, coat, bench, light and camera.
        number: of the shot within the session.
        size: (width, height) in pixels.
        severity: multiplies the strength of the defects; 0.3 makes them hardly visible.
        defects: classes to paint, if other than `kind` alone.
    """
    setting = Setting.draw(np.random.default_rng([seed, 2, kind.id, session]))
    changes = np.random.default_rng([seed, 3, kind.id, session]).random(number + 1) > SAME_PIECE
    piece = np.random.default_rng([seed, 4, kind.id, session, int(changes[1:].sum())])
    shot = np.random.default_rng([seed, 5, kind.id, session, number])
    scene = Scene(setting, piece, shot, (size[1], size[0]), severity)
    masks = []
    for name in [kind.name] if defects is None else defects:
        if name in PAINTERS:
            scene.mask = np.zeros(scene.shape, np.bool_)
            PAINTERS[name](scene)
            masks.append(scene.mask)
    return Picture(scene.photograph(), tuple(masks), setting.quality)
