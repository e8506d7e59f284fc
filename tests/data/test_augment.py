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
