"""Any folder of class folders → catalogue."""

import logging
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from alu_defects.data import catalog, duplicates, files
from alu_defects.data.catalog import Picture, Scan
from alu_defects.data.left_out import LeftOut, Reason
from alu_defects.errors import UserError

log = logging.getLogger(__name__)

# names of folders, as `_plain` writes them
SPLIT_NAMES = frozenset(
    {"train", "training", "trainval", "val", "valid", "validation", "dev", "eval", "evaluation", "test", "testing"}
)
MASK_NAMES = frozenset(
    {"mask", "masks", "ground_truth", "groundtruth", "gt", "segmentation", "segmentations", "labels", "annotations"}
)
CONTAINER_NAMES = MASK_NAMES | {"annotation", "image", "images", "img", "imgs", "jpegimages", "json", "xml"}


def scan(root: Path) -> Scan:
    """Catalogue `root/<class>/**/<picture>`: the first folder is the class, folders in it only group pictures.

    A copy in the same class is left out, of a picture in two classes all copies are.

    Raises:
        UserError: no pictures, one class only, or folders that are named like splits, masks or containers.
    """
    found, left_out = files.below(root)
    left_out += [LeftOut(path, Reason.NOT_A_PICTURE) for path in found if not files.is_picture(path)]
    pictures = [Picture(path, (PurePosixPath(path).parts[0],)) for path in found if files.is_picture(path)]
    if not pictures:
        raise UserError(
            f"data.root={root} holds no pictures ({', '.join(sorted(files.PICTURE_SUFFIXES))}) in class folders"
        )
    loose = [picture.path for picture in pictures if "/" not in picture.path]
    if loose:
        raise UserError(
            f"{root / loose[0]} and {len(loose) - 1} other pictures lie in the root itself; "
            "move each into a folder named after its class"
        )
    _check_folders(root, pictures)
    labels = {picture.label for picture in pictures}
    empty = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name not in labels and p.name[0] != ".")
    if empty:
        log.warning("%s: no pictures in %s, so there is no such class", root, ", ".join(empty))
    pictures, copies = duplicates.by_content(catalog.hashed(root, pictures))
    return catalog.build(root, pictures, left_out + copies, sorted(labels))


def _check_folders(root: Path, pictures: Sequence[Picture]) -> None:
    """Refuse folders whose names say that they are no classes, or that they hold no images of their class."""
    above = {picture.path.rpartition("/")[0]: picture.path for picture in pictures}  # few, however many images
    folders = {tuple(folder.split("/")): example for folder, example in above.items()}
    tops = sorted({parts[0] for parts in folders})
    if splits := [top for top in tops if _plain(top) in SPLIT_NAMES]:
        raise UserError(
            f"data.root={root}: {_listed(splits)} named like splits, not classes. Put the class folders of all splits "
            "into one folder (split=session splits them), or rename the folder if it really is a class"
        )
    if containers := [top for top in tops if _plain(top) in CONTAINER_NAMES]:
        raise UserError(
            f"data.root={root}: {_listed(containers)} named like folders of images, masks or annotations, not classes. "
            "Give a data.root that holds the class folders and no others, or rename the folder if it really is a class"
        )
    for (label, *inner), example in folders.items():
        if masks := [name for name in inner if _plain(name) in MASK_NAMES]:
            raise UserError(
                f"{root / example} would be an image of the class {label}, but lies in {masks[0]}, which is named like "
                "a folder of masks. Move such folders out of data.root, or rename them if they hold images"
            )
    inside = sorted({name for _, *inner in folders for name in inner if _plain(name) in SPLIT_NAMES})
    if inside:
        log.warning(
            "%s: %s named like splits, but folders inside a class do not split its images; split=session does",
            root,
            _listed(inside),
        )


def _plain(name: str) -> str:
    """The name of a folder in the spelling of `SPLIT_NAMES`."""
    return name.casefold().replace("-", "_").replace(" ", "_")


def _listed(folders: Sequence[str]) -> str:
    return f"{', '.join(folders)} {'is' if len(folders) == 1 else 'are'}"
