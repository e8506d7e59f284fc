"""The order of training images."""

import numpy as np
import pytest

from alu_defects.data.loading import BalancedSampler

LABELS = np.repeat([0, 1, 2], [50, 8, 3])


def drawn(epoch: int, labels: np.ndarray = LABELS, seed: int = 0) -> np.ndarray:
    sampler = BalancedSampler(labels, seed, epoch)
    order = np.array(list(sampler))
    assert len(order) == len(sampler) == len(labels)
    return order


def test_every_class_is_drawn_equally_often() -> None:
    counts = [np.bincount(LABELS[drawn(epoch) % len(LABELS)]) for epoch in range(9)]
    assert all(np.ptp(count) <= 1 for count in counts)
    assert np.ptp(np.sum(counts, axis=0)) <= 1


def test_all_images_of_a_class_are_used_before_one_repeats() -> None:
    """Within an epoch and from one to the next."""
    images = np.concatenate([drawn(epoch) % len(LABELS) for epoch in range(10)])
    for label in range(3):
        uses = np.bincount(images, minlength=len(LABELS))[label == LABELS]
        assert np.ptp(uses) <= 1
        assert uses.min() > 0


def test_repeats_within_an_epoch_have_numbers_of_their_own() -> None:
    for epoch in range(5):
        order = drawn(epoch)
        assert len(np.unique(order)) == len(order)
        assert order.min() >= 0


def test_order_depends_on_seed_and_epoch_alone() -> None:
    assert (drawn(7) == drawn(7)).all()
    assert (drawn(7) != drawn(8)).any()
    assert (drawn(7) != drawn(7, seed=1)).any()


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_an_epoch(processes: int) -> None:
    parts = [list(BalancedSampler(LABELS, 0, 4, rank, processes)) for rank in range(processes)]
    assert {len(part) for part in parts} == {len(LABELS) // processes}
    assert not set(parts[0]) & set(parts[1])
    assert set().union(*parts) <= set(drawn(4).tolist())
