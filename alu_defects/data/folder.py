"""Any folder of class folders → catalog."""

import logging
import os
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path

from alu_defects.data import catalog, duplicates
from alu_defects.data.catalog import Excluded, FoundImages, ImageRecord, Reason
from alu_defects.errors import UserError

log = logging.getLogger(__name__)

# names of folders, as `_plain` writes them
SPLIT_NAMES = frozenset(
    {"train", "training", "trainval", "val", "valid", "validation", "dev", "eval", "evaluation", "test", "testing"}
)
MASK_NAMES = frozenset(
    {"mask", "masks", "ground_truth", "groundtruth", "gt", "segmentation", "segmentations", "labels", "annotations"}
)
# a class may have such a name, too
AMBIGUOUS_NAMES = frozenset({"test", "valid", "val", "dev", "gt", "mask", "image", "img", "annotation"})
CONTAINER_NAMES = MASK_NAMES | {"annotation", "image", "images", "img", "imgs", "jpegimages", "json", "xml"}


def find_images(root: Path) -> FoundImages:
    """Catalog `root/<class>/**/<image>`: the first folder is the class, folders in it only group images.

    A copy in the same class is excluded; of an image in two classes all copies are. Images in the root itself have no
    class: they can be predicted, and `sources.check_trainable` refuses them.

    Raises:
        UserError: no images, or folders that are named like splits, masks or containers.
    """
    found, excluded = list_files(root)
    excluded += [Excluded(path, Reason.NOT_AN_IMAGE) for path in found if not is_image(path)]
    images = [ImageRecord(path, tuple(path.split("/")[:-1][:1])) for path in found if is_image(path)]
    if not images:
        raise UserError(f"data.root={root} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    in_folders = [image for image in images if image.labels]
    _check_folders(root, in_folders)
    labels = {image.label for image in in_folders}
    if empty := sorted(p.name for p in root.iterdir() if p.is_dir() and p.name not in labels and p.name[0] != "."):
        log.warning("%s: no images in %s, so there is no such class", root, ", ".join(empty))
    images, copies = duplicates.exclude_same_content(catalog.with_hashes(root, images))
    return catalog.build_catalog(images, excluded + copies, sorted(labels))


def _check_folders(root: Path, images: Sequence[ImageRecord]) -> None:
    """Refuse folders whose names say that they are not classes, or that they do not hold images of their class."""
    above = {image.path.rpartition("/")[0]: image.path for image in images}  # few, however many images
    folders = {tuple(folder.split("/")): example for folder, example in above.items()}
    named = [top for top in sorted({top for top, *_ in folders}) if _plain(top) in SPLIT_NAMES | CONTAINER_NAMES]
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
    stems = {image.path.rpartition(".")[0]: image.path for image in images}
    for stem, path in stems.items():
        original, _, ending = stem.rpartition("_")
        if ending.casefold() in MASK_NAMES | {"label", "seg"} and original in stems:
            raise UserError(
                f"{root / path} would be an image of its class, but is named like the mask of {stems[original]}. Move "
                "masks out of data.root"
            )
    inside = sorted({name for _, *inner in folders for name in inner if _plain(name) in SPLIT_NAMES})
    if inside:
        message = "%s: %s named like splits, but folders inside a class do not split its images; split=session does"
        log.warning(message, root, _listed(inside))


def _plain(name: str) -> str:
    """The name of a folder in the spelling of `SPLIT_NAMES`."""
    return name.casefold().replace("-", "_").replace(" ", "_")


def _listed(folders: Sequence[str]) -> str:
    return f"{', '.join(folders)} {'is' if len(folders) == 1 else 'are'}"


IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})


def is_image(path: str) -> bool:
    """Whether a file name ends like that of an image."""
    stem, dot, ending = path.rpartition("/")[2].rpartition(".")
    return bool(stem) and (dot + ending).lower() in IMAGE_SUFFIXES


def list_files(root: Path) -> tuple[list[str], list[Excluded]]:
    """All files below a folder in sorted order, relative to it; links are followed, but no folder is entered twice.

    Excluded are hidden files and folders (without what they hold), folders that are linked a second time, and folders
    named like an image with all they hold. A `UserError` names a folder that cannot be read.
    """
    entered: dict[str, str] = {}
    found: list[str] = []
    excluded: list[Excluded] = []

    def walk(directory: str, here: str, image_folder: str) -> None:
        if (before := entered.setdefault(os.path.realpath(directory), here)) != here:
            excluded.append(Excluded(here, Reason.LINKED_AGAIN, before))
            return
        if image_folder:
            excluded.append(Excluded(here, Reason.FOLDER_FOR_FILE, "" if here == image_folder else image_folder))
        try:
            with os.scandir(directory) as entries:
                children = sorted(entries, key=attrgetter("name"))
        except OSError as error:
            raise UserError(f"{directory} cannot be read ({error.strerror}); fix its permissions") from error
        above = "" if here == "." else f"{here}/"
        for child in children:
            path = above + child.name
            if child.name.startswith("."):
                excluded.append(Excluded(path, Reason.HIDDEN))
            elif Path(child.path).is_dir() if child.is_symlink() else child.is_dir():  # a link may lead in a circle
                walk(child.path, path, image_folder or (path if is_image(path) else ""))
            elif image_folder:
                excluded.append(Excluded(path, Reason.FOLDER_FOR_FILE, image_folder))
            else:
                found.append(path)

    walk(str(root), ".", image_folder="")
    return found, excluded
