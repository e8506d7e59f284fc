"""Augmentation: which numbers are drawn, what each switch does, and that off is off."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from alu_defects.data.augment import Augment, augmentation_numbers

OFF = Augment(
    horizontal_flip=False, vertical_flip=False, degrees=0, translate=0, scale=0, brightness=0, contrast=0, saturation=0
)


def drawn(index: Tensor, *, seed: int, epoch: int) -> Tensor:
    return augmentation_numbers(seed, epoch, index, Augment.COUNT)


def make_images(count: int, size: int = 24) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_augmentation_of_an_image_does_not_depend_on_its_batch() -> None:
    images, index = make_images(12), torch.arange(100, 112)
    whole = Augment()(images, drawn(index, seed=1, epoch=2))
    order = torch.tensor([7, 3, 11, 0])
    part = Augment()(images[order], drawn(index[order], seed=1, epoch=2))
    torch.testing.assert_close(part, whole[order], rtol=0, atol=1e-6)
    alone = Augment()(images[5:6], drawn(index[5:6], seed=1, epoch=2))
    torch.testing.assert_close(alone, whole[5:6], rtol=0, atol=1e-6)


def test_seeds_epochs_and_images_are_changed_differently() -> None:
    one = make_images(1).expand(4, -1, -1, -1)
    index = torch.arange(4)
    results = [Augment()(one, drawn(index, seed=seed, epoch=epoch)) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    samples = torch.cat(results)
    distances = torch.cdist(samples.flatten(1), samples.flatten(1))
    assert (distances + torch.eye(12) * 100).min() > 0.1


@pytest.mark.parametrize(
    "draw",
    [
        lambda: augmentation_numbers(0, 0, torch.arange(4000), 8),
        lambda: torch.cat([augmentation_numbers(3, epoch, torch.tensor([17]), 8) for epoch in range(2000)]),
        lambda: torch.cat([augmentation_numbers(seed, 5, torch.tensor([17]), 8) for seed in range(2000)]),
    ],
    ids=["over images", "over epochs", "over seeds"],
)
def test_numbers_are_uniform_and_independent(draw) -> None:
    values = draw().numpy()
    assert values.dtype == np.float32
    assert (values >= 0).all()
    assert (values < 1).all()
    for column in values.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    correlation = np.corrcoef(np.hstack([values[:-1], values[1:]]).T) - np.eye(16)  # between columns and neighbours
    assert np.abs(correlation).max() < 5 / np.sqrt(len(values))


def test_all_off_changes_nothing() -> None:
    images = make_images(8)
    assert torch.equal(OFF(images, drawn(torch.arange(8), seed=0, epoch=0)), images)


def test_flips_alone_are_exact_and_all_four_occur() -> None:
    images = make_images(200, 5)
    result = replace(OFF, horizontal_flip=True, vertical_flip=True)(images, drawn(torch.arange(200), seed=0, epoch=0))
    ways = [(), (3,), (2,), (2, 3)]
    same = torch.stack([(result == images.flip(axes)).all(dim=(1, 2, 3)) for axes in ways])
    assert (same.sum(dim=0) == 1).all()
    assert same.sum(dim=1).min() > 30  # of 50 expected
    only = replace(OFF, vertical_flip=True)(images, drawn(torch.arange(200), seed=0, epoch=0))
    assert ((only == images) | (only == images.flip(2))).all(dim=(1, 2, 3)).all()


def test_resampling_without_change_keeps_the_image_and_flips_exactly() -> None:
    images, index = make_images(32), torch.arange(32)
    barely = replace(OFF, degrees=1e-9, translate=1e-9, scale=1e-9)
    torch.testing.assert_close(barely(images, drawn(index, seed=0, epoch=0)), images, rtol=0, atol=1e-5)
    flips = {"horizontal_flip": True, "vertical_flip": True}
    with_affine = replace(barely, **flips)(images, drawn(index, seed=0, epoch=0))
    torch.testing.assert_close(
        with_affine, replace(OFF, **flips)(images, drawn(index, seed=0, epoch=0)), rtol=0, atol=1e-5
    )


def blob(size: int, x: float, y: float) -> Tensor:
    """A soft dot at (x, y) from the centre, in pixels, seen by 64 indices."""
    axis = torch.arange(size) - (size - 1) / 2
    dot = torch.exp(-((axis[None, :] - x) ** 2 + (axis[:, None] - y) ** 2) / 8)
    return dot.expand(64, 1, -1, -1)


def centres(images: Tensor) -> tuple[Tensor, Tensor]:
    axis = torch.arange(images.shape[-1]) - (images.shape[-1] - 1) / 2
    mass = images.sum(dim=(1, 2, 3))
    return (images.sum(dim=(1, 2)) * axis).sum(dim=1) / mass, (images.sum(dim=(1, 3)) * axis).sum(dim=1) / mass


@pytest.mark.parametrize("sides", [(65, 65), (65, 131), (131, 65)])
def test_rotation_keeps_shapes_in_every_frame(sides: tuple[int, int]) -> None:
    down, across = (torch.arange(side) - (side - 1) / 2 for side in sides)
    dots = [torch.exp(-((across[None, :] - x) ** 2 + (down[:, None] - y) ** 2) / 8) for x, y in ((20, 0), (0, 20))]
    images = torch.stack([dot.expand(64, -1, -1) for dot in dots], dim=1)
    turned = replace(OFF, degrees=30)(images, drawn(torch.arange(64), seed=0, epoch=0))
    mass = turned.sum(dim=(2, 3))
    x, y = (turned.sum(dim=2) * across).sum(dim=2) / mass, (turned.sum(dim=3) * down).sum(dim=2) / mass
    torch.testing.assert_close(torch.hypot(x, y), torch.full((64, 2), 20.0), rtol=0, atol=0.1)
    assert (x * y).abs().max() > 100  # it does rotate
    torch.testing.assert_close(x[:, 0] * x[:, 1] + y[:, 0] * y[:, 1], torch.zeros(64), rtol=0, atol=4)  # by one angle


def test_each_affine_change_moves_a_dot_up_to_its_limit() -> None:
    index = torch.arange(64)
    x, y = centres(replace(OFF, degrees=30)(blob(65, 20, 0), drawn(index, seed=0, epoch=0)))
    angles = torch.rad2deg(torch.atan2(y, x))
    torch.testing.assert_close(torch.hypot(x, y), torch.full((64,), 20.0), rtol=0, atol=0.2)
    assert -30.5 < angles.min() < -25
    assert 25 < angles.max() < 30.5

    x, y = centres(replace(OFF, translate=0.2)(blob(65, 0, 0), drawn(index, seed=0, epoch=0)))
    for shift in (x, y):
        assert -13.1 < shift.min() < -11  # 0.2 of 65 pixels
        assert 11 < shift.max() < 13.1

    x, y = centres(replace(OFF, scale=0.25)(blob(65, 16, 0), drawn(index, seed=0, epoch=0)))
    assert 16 / 1.25 - 0.2 < x.min() < 14
    assert 19 < x.max() < 16 / 0.75 + 0.2
    assert y.abs().max() < 0.01


def test_results_stay_between_zero_and_one_and_no_corner_turns_black() -> None:
    strong = Augment(degrees=45, translate=0.3, scale=0.5, brightness=0.9, contrast=0.9)
    result = strong(make_images(64), drawn(torch.arange(64), seed=0, epoch=0))
    assert result.min() >= 0
    assert result.max() <= 1
    for level in (0.7, 1.0):
        even = torch.full((64, 3, 24, 24), level)
        moved = replace(strong, brightness=0, contrast=0, saturation=0)(even, drawn(torch.arange(64), seed=0, epoch=0))
        torch.testing.assert_close(moved, even)
        assert moved.max() <= 1


def test_contrast_stretches_about_the_mean_and_brightness_shifts() -> None:
    images = torch.full((2000, 3, 2, 2), 0.4)
    images[:, :, 0] = 0.6  # mean 0.5, difference 0.2
    result = replace(OFF, contrast=0.5, brightness=0.2)(images, drawn(torch.arange(2000), seed=0, epoch=0))
    gain = (result[:, 0, 0, 0] - result[:, 0, 1, 0]) / 0.2
    offset = result.mean(dim=(1, 2, 3)) - 0.5
    assert stats.kstest(gain.numpy(), stats.uniform(0.5, 1.0).cdf).pvalue > 1e-3
    assert stats.kstest(offset.numpy(), stats.uniform(-0.2, 0.4).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(gain, offset)[0, 1]) < 0.1


def test_input_is_left_as_it_was() -> None:
    images = make_images(4)
    before = images.clone()
    Augment()(images, drawn(torch.arange(4), seed=0, epoch=0))
    assert torch.equal(images, before)


def test_saturation_runs_from_grey_to_twice_the_colour_and_keeps_the_mean() -> None:
    images = torch.tensor([0.4, 0.5, 0.6])[None, :, None, None].expand(2000, 3, 4, 4)
    result = replace(OFF, saturation=1.0)(images, drawn(torch.arange(2000), seed=0, epoch=0))
    spread = (result[:, 2] - result[:, 0]).amax((1, 2))
    assert spread.min() < 0.01
    assert spread.max() > 0.39
    assert spread.mean() == pytest.approx(0.2, abs=0.01)
    assert torch.allclose(result.mean(1), torch.tensor(0.5), atol=1e-6)


def test_more_columns_and_unused_images_change_no_number() -> None:
    index = torch.arange(100)
    numbers = augmentation_numbers(3, 5, index, 19)
    assert torch.equal(numbers[:, :9], augmentation_numbers(3, 5, index, 9))
    repeat = torch.tensor([0, 1, 2, 3]).repeat(25)
    again = augmentation_numbers(3, 5, index, 19, repeat)
    assert torch.equal(again[::4], numbers[::4])
    assert (again[repeat > 0] != numbers[repeat > 0]).float().mean() > 0.99


def test_rotation_does_not_shear_images_that_are_not_square() -> None:
    images = torch.zeros(64, 1, 65, 129)
    images[:, :, 24:41, 56:73] = torch.exp(-((torch.arange(17) - 8) ** 2) / 8)[:, None]  # a bar along x
    rotated = replace(OFF, degrees=45)(images, drawn(torch.arange(64), seed=0, epoch=0))
    y, x = torch.meshgrid(torch.arange(65) - 32.0, torch.arange(129) - 64.0, indexing="ij")
    mass = rotated.sum((1, 2, 3))
    spread = [(rotated[:, 0] * product).sum((1, 2)) / mass for product in (x * x, x * y, y * y)]
    eigenvalues = torch.linalg.eigvalsh(torch.stack([spread[0], spread[1], spread[1], spread[2]], 1).view(-1, 2, 2))
    torch.testing.assert_close(eigenvalues, eigenvalues[:1].expand(64, 2), rtol=0.05, atol=0)
    assert eigenvalues[0, 1] > 4 * eigenvalues[0, 0]


@pytest.mark.parametrize("size", [(48, 48), (32, 80)])
def test_crop_shows_windows_of_the_image_with_its_aspect_ratio(size: tuple[int, int]) -> None:
    height, width = size
    ramp_x = torch.linspace(0, 1, width).expand(500, 1, height, width)
    ramp_y = torch.linspace(0, 1, height)[:, None].expand(500, 1, height, width)
    result = replace(OFF, crop=0.25)(torch.cat([ramp_x, ramp_y], 1), drawn(torch.arange(500), seed=0, epoch=0))
    side_x = (result[:, 0, 5, -3] - result[:, 0, 5, 2]) * (width - 1) / (width - 5)
    side_y = (result[:, 1, -3, 5] - result[:, 1, 2, 5]) * (height - 1) / (height - 5)
    torch.testing.assert_close(side_x, side_y, rtol=0.02, atol=0)
    assert stats.kstest((side_x**2).numpy(), stats.uniform(0.25, 0.75).cdf).pvalue > 1e-3
    assert result[:, 0].mean() == pytest.approx(0.5, abs=0.04)  # anywhere
    assert torch.equal(replace(OFF, crop=1)(ramp_x, drawn(torch.arange(500), seed=0, epoch=0)), ramp_x)


def test_blur_is_a_gaussian_of_each_images_own_width() -> None:
    images = torch.zeros(400, 3, 41, 45)
    images[:, :, 20, 22] = 1.0
    numbers = drawn(torch.arange(400), seed=0, epoch=0)
    result = replace(OFF, blur=3.0)(images, numbers)
    torch.testing.assert_close(result.sum((2, 3)), torch.ones(400, 3))
    sigma, distance = 3 * numbers[:, 12], torch.arange(45) - 22.0
    measured = ((result[:, 0].sum(1) * distance**2).sum(1)).sqrt()
    wide = sigma > 1  # a narrower one is no Gaussian on a grid of pixels
    torch.testing.assert_close(measured[wide], sigma[wide], rtol=0.03, atol=0)
    torch.testing.assert_close(result, result.flip(2, 3))
    even = torch.full((8, 3, 6, 5), 0.3)
    torch.testing.assert_close(replace(OFF, blur=10.0)(even, numbers[:8]), even)


def test_noise_has_each_images_own_strength_and_follows_the_seed() -> None:
    images, numbers = torch.full((50, 3, 40, 40), 0.5), drawn(torch.arange(50), seed=0, epoch=0)
    torch.manual_seed(0)
    result = replace(OFF, noise=0.1)(images, numbers)
    torch.testing.assert_close(result.std((1, 2, 3)), 0.1 * numbers[:, 13], rtol=0.1, atol=0)
    torch.manual_seed(0)
    assert torch.equal(replace(OFF, noise=0.1)(images, numbers), result)


@pytest.mark.parametrize("size", [(60, 60), (40, 100)])
def test_erased_rectangles_have_the_mean_colour_and_the_announced_area(size: tuple[int, int]) -> None:
    images, numbers = torch.rand(1000, 3, *size), drawn(torch.arange(1000), seed=0, epoch=0)
    result = replace(OFF, erase=0.4)(images, numbers)
    erased = (result != images).all(1)
    area = erased.float().mean((1, 2))
    assert (area > 0).float().mean() == pytest.approx(0.4, abs=0.05)
    assert area.max() < 0.36
    assert area[area > 0].mean() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.02)
    row = int(area.argmax())
    filled = result[row].permute(1, 2, 0)[erased[row]]
    torch.testing.assert_close(filled, images[row].mean((1, 2)).expand_as(filled))
    box = erased[row].any(1).sum() * erased[row].any(0).sum()
    assert box == erased[row].sum()  # a rectangle
    assert torch.equal(replace(OFF, erase=1e-9)(images, numbers), images)


@pytest.mark.parametrize("options", [{"mixup": 0.4}, {"cutmix": 1}, {"mixup": 0.4, "cutmix": 1.0}])
def test_mixed_images_have_the_share_of_each_class(options: dict[str, float]) -> None:
    """Each image is even and as bright as its class is high, so that its mean tells what it was made of."""
    labels = torch.arange(6) % 3
    images = (labels / 10).view(-1, 1, 1, 1).expand(6, 3, 20, 30).contiguous()
    mixtures, kinds = replace(OFF, **options), set()
    for seed in range(20):
        torch.manual_seed(seed)
        mixed, shares = mixtures.mix(images, labels, 4)
        assert shares.shape == (6, 4)
        torch.testing.assert_close(shares.sum(1), torch.ones(6))
        torch.testing.assert_close(mixed.mean((1, 2, 3)), shares @ torch.arange(4.0) / 10)
        kinds.add(bool((mixed.amin((1, 2, 3)) == mixed.amax((1, 2, 3))).all()))
        torch.manual_seed(seed)
        assert torch.equal(mixtures.mix(images, labels, 4)[0], mixed)
    assert len(kinds) >= len(options) or kinds == {"mixup" in options}
    assert OFF.mix(images, labels, 4) == (images, labels)
