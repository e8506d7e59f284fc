"""Any folder of class folders, or of such folders for train, val and test → catalog."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from alu_defects.data import catalog, duplicates
from alu_defects.data.catalog import FoundImages, ImageRecord, Root
from alu_defects.data.files import IMAGE_SUFFIXES, Excluded, Reason, is_image, list_files
from alu_defects.errors import UserError

log = logging.getLogger(__name__)

# names of folders, as `plain_name` writes them
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("unlabelled", "unlabeled"), "unlabelled"),  # whatever folders are in it
}
MASK_NAMES = frozenset(
    {"mask", "masks", "ground_truth", "groundtruth", "gt", "segmentation", "segmentations", "labels", "annotations"}
)
# a class may have such a name, too
AMBIGUOUS_NAMES = frozenset({"test", "valid", "val", "dev", "gt", "mask", "image", "img", "annotation"})
CONTAINER_NAMES = MASK_NAMES | {"annotation", "image", "images", "img", "imgs", "jpegimages", "json", "xml"}


def find_images(root: Root) -> FoundImages:
    """Catalog `root/<class>/**/<image>`: the first folder is the class, folders in it only group images.

    A root whose folders are named like splits holds a given split, `root/<split>/<class>/**/<image>`, as torchvision's
    ImageFolder reads it and MVTec-AD has it; its masks (`ground_truth`) are excluded. Classes are those of all roots.

    A copy in the same class is excluded; of an image in two classes all copies are. Images that lie in no class folder
    have no class: they can be predicted, and `sources.check_trainable` refuses them in the root itself and in train.

    Raises:
        UserError: a root without images, or folders that are named like splits, masks or containers where classes are
            expected.
    """
    images, excluded = list[ImageRecord](), list[Excluded]()
    for prefix, folder in catalog.folders_of(root).items():
        own, others = _read_folder(folder)
        images += [replace(image, path=prefix + image.path) for image in own] if prefix else own
        excluded += _with_prefix(prefix, others)
    labels = sorted({image.label for image in images} - {""})
    images, dead = catalog.with_hashes(root, images)
    images, copies = duplicates.exclude_same_content(images)
    return catalog.build_catalog(images, excluded + dead + copies, labels)


def list_images(root: Root) -> list[str]:
    """The paths of all image files below a root, as in a catalog of it."""
    folders = catalog.folders_of(root).items()
    return [prefix + path for prefix, folder in folders for path in list_files(folder)[0] if is_image(path)]


def _with_prefix(prefix: str, excluded: Sequence[Excluded]) -> list[Excluded]:
    """What is excluded in one of several roots; the detail of a listed file is a path, too."""
    return [e._replace(path=prefix + e.path, detail=e.detail and prefix + e.detail) for e in excluded]


def _read_folder(root: Path) -> tuple[list[ImageRecord], list[Excluded]]:
    """The images of one root, without hashes, and what is excluded."""
    found, excluded = list_files(root)
    excluded += [Excluded(path, Reason.NOT_AN_IMAGE) for path in found if not is_image(path)]
    paths = [path for path in found if is_image(path)]
    if not paths:
        raise UserError(f"data.root={root} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    splits = _given_splits({path.partition("/")[0] for path in paths if "/" in path})
    images = []
    for path in paths:
        top, *inner = path.split("/")[:-1] or [""]
        if splits and plain_name(top) in MASK_NAMES:
            excluded.append(Excluded(path, Reason.MASK))
        elif top in splits:
            labels = () if splits[top] == "unlabelled" else tuple(inner[:1])
            images.append(ImageRecord(path, labels, given_split=splits[top]))
        else:
            images.append(ImageRecord(path, (top,) if top else ()))
    in_folders = [image for image in images if image.labels]
    _check_folders(root, in_folders, depth=1 if splits else 0)
    named = {image.label for image in in_folders}
    above = [root / top for top, split in splits.items() if split != "unlabelled"] or [root]
    folders = {p.name for one in above for p in one.iterdir() if p.is_dir() and not p.name.startswith(".")}
    if empty := sorted(folders - named):
        log.warning("%s: no images in %s, so there is no such class", root, ", ".join(empty))
    return images, excluded


def _given_splits(tops: set[str]) -> dict[str, str]:
    """The folders of a root that holds a split, and which split each is; empty if it holds classes.

    It does if one of its folders is named like train, and every other one like a split or like masks.
    """
    splits = {top: SPLIT_NAMES[plain_name(top)] for top in tops if plain_name(top) in SPLIT_NAMES}
    others = {plain_name(top) for top in tops.difference(splits)}
    return splits if "train" in splits.values() and others <= MASK_NAMES else {}


def _check_folders(root: Path, images: Sequence[ImageRecord], depth: int) -> None:
    """Refuse folders whose names say that they are not classes, or that they do not hold images of their class.

    `depth` is how many folders lie above those of the classes: the one of a given split.
    """
    above = {image.path.rpartition("/")[0]: image.path for image in images}  # few, however many images
    folders = {tuple(folder.split("/")[depth:]): example for folder, example in above.items()}
    _refuse_objects(root, folders)
    names = {*SPLIT_NAMES, *CONTAINER_NAMES}
    named = [top for top in sorted({top for top, *_ in folders}) if plain_name(top) in names]
    # a class may have one such name, as in valid and invalid, or mask and no_mask
    if len(named) > 1 or any(plain_name(top) not in AMBIGUOUS_NAMES for top in named):
        raise UserError(
            f"data.root={root}: {_listed(named)} named like splits, or like folders of images, masks or annotations, "
            "not like classes. Give a data.root with class folders and no others, or one with such folders in train, "
            "val and test and no others (train must be there), or rename the folder if it really is a class"
        )
    for (label, *inner), example in folders.items():
        if masks := [name for name in inner if plain_name(name) in MASK_NAMES]:
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
    inside = sorted({name for _, *inner in folders for name in inner if plain_name(name) in SPLIT_NAMES})
    if inside:
        message = "%s: %s named like splits, but folders inside a class do not split its images; those above classes do"
        log.warning(message, root, _listed(inside))


def _refuse_objects(root: Path, folders: Iterable[tuple[str, ...]]) -> None:
    """Refuse folders that hold a given split each, as the objects of MVTec-AD do: one class name lies in two splits."""
    splits = defaultdict[tuple[str, str], set[str]](set)
    for top, *inner in folders:
        if len(inner) > 1 and (split := SPLIT_NAMES.get(plain_name(inner[0]))):
            splits[top, inner[1]].add(split)
    if tops := sorted({top for (top, _), found in splits.items() if "train" in found and len(found) > 1}):
        several = f", or several, data.root=[{','.join(str(root / top) for top in tops)}]" if len(tops) > 1 else ""
        raise UserError(
            f"data.root={root}: {_listed(tops)} no class, but an object with train and test folders of its own. Take "
            f"one of them, data.root={root / tops[0]}{several}"
        )


def plain_name(name: str) -> str:
    """The name of a folder or split in the spelling of `SPLIT_NAMES`."""
    return name.casefold().replace("-", "_").replace(" ", "_")


def _listed(folders: Sequence[str]) -> str:
    return f"{', '.join(folders)} {'is' if len(folders) == 1 else 'are'}"
