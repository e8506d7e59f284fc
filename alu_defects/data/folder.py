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
# what a class may be called, too
AMBIGUOUS_NAMES = frozenset({"test", "valid", "val", "dev", "gt", "mask", "image", "img", "annotation"})
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
    named = [top for top in tops if _plain(top) in SPLIT_NAMES | CONTAINER_NAMES]
    # a class may have one such name, as in valid and invalid, or mask and no_mask
    if len(named) > 1 or any(_plain(top) not in AMBIGUOUS_NAMES for top in named):
        raise UserError(
            f"data.root={root}: {_listed(named)} named like splits, or like folders of images, masks or annotations, "
            "not like classes. Give a data.root with the class folders of all splits (split=session splits them) and "
            "no others, or rename the folder if it really is a class"
        )
    for (label, *inner), example in folders.items():
        if masks := [name for name in inner if _plain(name) in MASK_NAMES]:
            raise UserError(
                f"{root / example} would be an image of the class {label}, but lies in {masks[0]}, which is named like "
                "a folder of masks. Move such folders out of data.root, or rename them if they hold images"
            )
    stems = {picture.path.rpartition(".")[0]: picture.path for picture in pictures}
    for stem, path in stems.items():
        image, _, ending = stem.rpartition("_")
        if ending.casefold() in MASK_NAMES | {"label", "seg"} and image in stems:
            raise UserError(
                f"{root / path} would be an image of its class, but is named like the mask of {stems[image]}. Move "
                "masks out of data.root"
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
