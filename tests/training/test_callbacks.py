"""The moving average of the weights, and what the progress bar says."""

from typing import Any
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from alu_defects.training.callbacks import EMA, ProgressBar


def test_ema_equals_pytorch() -> None:
    torch.manual_seed(0)
    network = LightningModule()
    network.layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    expected = AveragedModel(network, avg_fn=get_ema_avg_fn(0.9), use_buffers=True)
    trainer = Mock()
    trainer.strategy.root_device = torch.device("cpu")
    callback = EMA(decay=0.9, use_buffers=True)
    callback.setup(trainer, network, "fit")
    average: Any = callback._average_model
    assert average.multi_avg_fn is not None  # all tensors at once
    for step in range(1, 5):
        network.layers(torch.randn(5, 3))
        for parameter in network.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        trainer.global_step = step
        callback.on_train_batch_end(trainer, network, None, None, 0)
        expected.update_parameters(network)
    assert average.n_averaged == 4
    for value, wanted in zip(average.module.state_dict().values(), expected.module.state_dict().values(), strict=True):
        torch.testing.assert_close(value, wanted)


@pytest.mark.parametrize(("epoch", "text"), [(0, "epoch 1/20"), (19, "epoch 20/20")])
def test_progress_bar_counts_epochs_from_1(epoch: int, text: str) -> None:
    bar = ProgressBar()
    bar._trainer = Mock(max_epochs=20)
    assert bar._get_train_description(epoch).rstrip() == text
