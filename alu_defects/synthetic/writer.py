"""A generated set on the disk: written once, in parallel, where the catalog of the competition archives finds it."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

from alu_defects.errors import UserError
from alu_defects.io import exclusive_lock
from alu_defects.synthetic.defects import PAINTERS
from alu_defects.synthetic.plan import Shot, plan
from alu_defects.synthetic.scene import Scene
from alu_defects.synthetic.setting import Setting
from alu_defects.tianchi_classes import CLASSES, DEFECTS_FOLDER, NORMAL, NORMAL_FILE_PREFIX, DefectClass

_SET = re.compile(r"v[0-9]+_|\.")  # a generated set with what its writing leaves, and hidden files
GENERATOR_VERSION = 3  # of the generator: raise it when the images change, so that old ones are not taken for new
ARCHIVE = "guangdong_round1_train2_20180916"
MULTI_ARCHIVE = Path("guangdong_round2_train_20181011", "多瑕疵图片")
SHARED = ("non_conductive", "scuffed", "orange_peel", "bottom_leakage", "pit", "dirty_spot")  # classes of both rounds


@dataclass(frozen=True)
class SyntheticOptions:
    """What a generated set is made of; see conf/data/synthetic.yaml, and `config.ALLOWED` for the ranges."""

    images: int
    balance: str = "equal"
    severity: float = 1.0
    size: tuple[int, int] = (640, 480)
    seed: int = 0
    multi_defect: int = 0

    def folder(self) -> str:
        """A name that tells this set from every other."""
        width, height = self.size
        name = f"v{GENERATOR_VERSION}_{self.images}_{self.balance}_{width}x{height}_severity{self.severity:g}_seed{self.seed}"
        return name + (f"_multi{self.multi_defect}" if self.multi_defect else "")


def ensure_written(root: Path, options: SyntheticOptions, *, workers: int | None = None, progress: bool = True) -> Path:
    """Write the set unless it is there; one whose writing was interrupted is finished.

    Beside the images, `masks/` holds for every defect image a PNG of the same name that is white on the defect.

    Args:
        root: the folder of all generated sets.
        options: what it is made of.
        workers: processes; None: one a core. The images are the same with any number.
        progress: show a progress bar.

    Returns:
        The folder of the images, which `tianchi.scan_archives` reads.

    Raises:
        UserError: a root that holds something else, such as images of the user.
    """
    root = root.expanduser().absolute()
    others = sorted(p.name for p in root.iterdir() if not _SET.match(p.name)) if root.is_dir() else []
    if others:
        raise UserError(
            f"data.root={root} holds {others[0]}, which was not generated here. Add data=folder or data=tianchi to "
            "read it, or leave data.root out"
        )
    folder = root / options.folder()
    if not folder.is_dir():
        shots = plan(options.images, options.balance, options.seed)
        root.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(folder, f"generating {folder.name}"):
            if not folder.is_dir():
                unfinished = folder.with_name(folder.name + ".part")
                _write(unfinished, shots, options, workers, progress)
                unfinished.rename(folder)
    return folder / "images"


def _write(folder: Path, shots: Sequence[Shot], options: SyntheticOptions, workers: int | None, progress: bool) -> None:
    for path in list(folder.rglob(".*")):  # halves of files that a killed writing left
        path.unlink()
    jobs = [delayed(_write_single)(folder, shot, options) for shot in shots]
    jobs += [delayed(_write_multi)(folder, number, options) for number in range(options.multi_defect)]
    pool = Parallel(n_jobs=workers or -1, return_as="generator_unordered", batch_size=4)
    for _ in track(pool(jobs), f"generating {len(jobs)} images", total=len(jobs), disable=not progress):
        pass


def relative_path(shot: Shot) -> Path:
    """Where the archive keeps that image."""
    name = f"{shot.time:%Y%m%d%H%M%S}对照样本.jpg"
    if shot.kind == NORMAL:  # not `is`: worker processes have copies
        return Path(ARCHIVE, NORMAL.folder, NORMAL_FILE_PREFIX + name)
    return Path(ARCHIVE, DEFECTS_FOLDER, shot.kind.folder, shot.kind.folder + name)


def _write_single(folder: Path, shot: Shot, options: SyntheticOptions) -> None:
    path = folder / "images" / relative_path(shot)
    if path.exists():  # an earlier, interrupted writing got as far as this; the image comes last
        return
    image = draw_image(options.seed, shot.kind, shot.session, shot.number, size=options.size, severity=options.severity)
    for mask in image.masks:
        _save(Image.fromarray(mask), (folder / "masks" / relative_path(shot)).with_suffix(".png"))
    _save(Image.fromarray(image.pixels), path, quality=image.quality)


def _write_multi(folder: Path, number: int, options: SyntheticOptions) -> None:
    """An image with two or three defects and their boxes, as round 2 of the competition keeps them (labelme)."""
    path = folder / "images" / MULTI_ARCHIVE / f"{number}.jpg"
    if path.exists():
        return
    rng = np.random.default_rng([options.seed, 6, number])
    names = [str(name) for name in rng.choice(SHARED, rng.integers(2, 4), replace=False)]
    kinds = {kind.name: kind for kind in CLASSES}
    # no session of a single-defect class has such a number
    image = draw_image(
        options.seed, NORMAL, 10**6 + number, 0, size=options.size, severity=options.severity, defects=names
    )
    shapes = [
        {"label": kinds[name].folder, "points": corners}
        for name, mask in zip(names, image.masks, strict=True)
        for corners in _corners(mask)
    ]
    content = {"shapes": shapes, "imagePath": path.name, "imageData": None}
    for name, mask in zip(names, image.masks, strict=True):
        _save(Image.fromarray(mask), folder / "masks" / MULTI_ARCHIVE / f"{number}_{name}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    _save(Image.fromarray(image.pixels), path, quality=image.quality)


def _corners(mask: NDArray[np.bool_]) -> Iterator[list[list[int]]]:
    """The four corners of the box round a mask; none where the defect lies outside the frame."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if rows.size:
        left, top, right, bottom = (int(n) for n in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
        yield [[left, top], [right, top], [right, bottom], [left, bottom]]


def _save(image: Image.Image, path: Path, **options: Any) -> None:
    """Readers see the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{os.getpid()}_{path.name}")
    image.save(beside, **options)
    beside.replace(path)


SAME_PIECE = 0.6  # chance that a shot shows the piece of the shot before, moved a little, and not another of the lot


@dataclass(frozen=True)
class SyntheticImage:
    """A generated photograph."""

    pixels: NDArray[np.uint8]  # (H, W, 3)
    masks: tuple[NDArray[np.bool_], ...]  # (H, W) each: where the first defect is, the second ...
    quality: int  # of the JPEG that the phone would write


def draw_image(
    seed: int,
    kind: DefectClass,
    session: int,
    number: int,
    *,
    size: tuple[int, int],
    severity: float = 1.0,
    defects: Sequence[str] | None = None,
) -> SyntheticImage:
    """Draw an image; it depends on the arguments alone.

    Args:
        seed: of the generated set.
        kind: class of the session.
        session: counted within the class; all its images share bar, coat, bench, light and camera.
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
    return SyntheticImage(scene.photograph(), tuple(masks), setting.quality)
