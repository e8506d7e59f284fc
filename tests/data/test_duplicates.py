"""Near-duplicates: the same shot saved again is found, other images are not."""

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageEnhance

from alu_defects.data import duplicates
from alu_defects.data.duplicates import (
    HASH_BITS,
    MAX_HASH_DISTANCE,
    across_splits,
    find_pairs,
    hash_images,
    near_duplicates,
    perceptual_hash,
)
from alu_defects.data.leakage import NearDuplicates


def shot(bar: int, moved: int = 0) -> Image.Image:
    """A bar of 320×240 with a grain of its own; `moved` by pixels."""
    rng = np.random.default_rng(bar)
    grain = Image.fromarray(rng.normal(0, 12, (60, 80)).astype(np.float32)).resize((336, 256), Image.Resampling.BICUBIC)
    pixels = np.asarray(grain) + rng.normal(0, 3, (256, 336)) + 60
    pixels[80:180] += 90
    return Image.fromarray(pixels[8 - moved : 248 - moved, 8:328, None].repeat(3, axis=2).clip(0, 255).astype(np.uint8))


def saved(image: Image.Image, quality: int) -> Image.Image:
    file = BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


def distance(one: Image.Image, other: Image.Image) -> int:
    return int(np.bitwise_count(perceptual_hash(one) ^ perceptual_hash(other)).sum())


AGAIN: dict[str, Callable[[Image.Image], Image.Image]] = {
    "re-encoded": lambda image: saved(image, 60),
    "halved": lambda image: saved(image.resize((160, 120)), 85),
    "squashed": lambda image: image.resize((112, 112)),
    "brighter": lambda image: saved(ImageEnhance.Brightness(image).enhance(1.05), 90),
    "darker": lambda image: saved(ImageEnhance.Brightness(image).enhance(0.95), 90),
    "grey": lambda image: image.convert("L"),
}


@pytest.mark.parametrize("change", AGAIN.values(), ids=AGAIN)
def test_the_same_image_saved_again_is_a_near_duplicate(change: Callable[[Image.Image], Image.Image]) -> None:
    assert max(distance(change(shot(bar)), shot(bar)) for bar in range(20)) <= MAX_HASH_DISTANCE


def test_a_shot_moved_by_a_pixel_is_near_and_one_moved_by_much_is_not() -> None:
    assert max(distance(shot(bar, moved=1), shot(bar)) for bar in range(20)) <= MAX_HASH_DISTANCE
    assert min(distance(shot(bar, moved=8), shot(bar)) for bar in range(20)) > MAX_HASH_DISTANCE


def test_other_bars_in_the_same_place_are_far() -> None:
    found = np.stack([perceptual_hash(shot(bar)) for bar in range(60)])
    assert near_duplicates(found, max_distance=MAX_HASH_DISTANCE + 100).tolist() == []


def test_decoded_images_are_hashed_like_files() -> None:
    images = np.stack([np.asarray(shot(bar)) for bar in range(3)])
    assert np.array_equal(hash_images(images), np.stack([perceptual_hash(shot(bar)) for bar in range(3)]))
    assert hash_images(images[:0]).shape == (0, HASH_BITS // 8)


@pytest.mark.parametrize("size", [(1, 1), (5, 300), (64, 64)])
def test_an_image_without_structure_in_both_directions_has_no_hash_and_no_double(size: tuple[int, int]) -> None:
    plain = [Image.new("RGB", size, colour) for colour in ("black", "white", (13, 77, 201))]
    stripes = Image.fromarray((np.arange(200, dtype=np.uint8) // 20 * 20)[:, None].repeat(150, axis=1))
    found = np.stack([perceptual_hash(image) for image in (*plain, stripes, stripes.rotate(90, expand=True))])
    assert not found.any()
    assert len(near_duplicates(found)) == 0


@pytest.mark.parametrize("block", [1, 50, 1 << 17])
@pytest.mark.parametrize("max_distance", [0, 60, 480, 512])
def test_pairs_are_those_of_comparing_everything(
    block: int, max_distance: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "PAIRS_PER_BLOCK", block)
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (40, HASH_BITS), dtype=np.uint8)
    bits[7], bits[30] = bits[3], bits[3]
    bits[30, :50] ^= 1
    bits[11], bits[12] = 0, 0
    found = near_duplicates(np.packbits(bits, axis=1), max_distance)
    expected = [
        (i, j)
        for i in range(40)
        for j in range(i + 1, 40)
        if (bits[i] != bits[j]).sum() <= max_distance and not {i, j} & {11, 12}
    ]
    assert sorted(map(tuple, found.tolist())) == expected
    assert found.dtype == np.int64


def test_no_images_no_pairs() -> None:
    assert near_duplicates(np.empty((0, HASH_BITS // 8), np.uint8)).shape == (0, 2)


def test_pairs_across_splits_have_one_image_in_train() -> None:
    table = pd.DataFrame({"split": ["train", "train", "val", "test", "val+test"]})
    pairs = np.array([(0, 1), (0, 2), (1, 4), (2, 3), (3, 4)])
    assert across_splits(pairs, table).tolist() == [[0, 2], [1, 4]]
    assert across_splits(pairs[:0], table).shape == (0, 2)


def test_pairs_across_the_split_are_counted_where_all_images_are_alike() -> None:
    hashed = np.repeat(perceptual_hash(shot(0))[None], 500, axis=0)
    table = pd.DataFrame({"split": ["train"] * 300 + ["val"] * 150 + ["test"] * 50})
    found = NearDuplicates.count(find_pairs(hashed, MAX_HASH_DISTANCE), table)
    assert found == NearDuplicates(pairs=300 * 200, images=200, held_out=200)
    assert found.are_many
    assert found.sentence().startswith("200 of 200 val and test images (100.0 %) have a near-duplicate in train")
