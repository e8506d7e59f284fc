import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from alu_defects.errors import UserError
from alu_defects.models.attention import SCSE, ChannelSE, SpatialSE, attach, build, insert_attention


def randomise(module):
    """Gates start at zero; a test of what they compute needs others."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module


def sigma(value):
    return 1 / (1 + math.exp(-value))


def equations(block, u):
    """Eqs. 1-6 element by element; returns U_cSE and U_sSE."""
    cse, sse = block.cse, block.sse
    w2, b2, w1, b1, w_sq, b_sq = (
        parameter.detach().numpy()
        for layer in (cse.reduce, cse.expand, sse.squeeze)
        for parameter in (layer.weight, layer.bias)
    )
    batch, channels, height, width = u.shape
    by_channel, by_place = np.zeros_like(u), np.zeros_like(u)
    for n in range(batch):
        z = [
            sum(u[n, k, i, j] for i in range(height) for j in range(width)) / (height * width) for k in range(channels)
        ]
        hidden = [max(0.0, sum(w2[h, k] * z[k] for k in range(channels)) + b2[h]) for h in range(len(b2))]
        for k in range(channels):
            gate = sigma(sum(w1[k, h] * hidden[h] for h in range(len(hidden))) + b1[k])
            for i in range(height):
                for j in range(width):
                    q = sum(w_sq[0, m, 0, 0] * u[n, m, i, j] for m in range(channels)) + b_sq[0]
                    by_channel[n, k, i, j] = gate * u[n, k, i, j]
                    by_place[n, k, i, j] = sigma(q) * u[n, k, i, j]
    return by_channel, by_place


@pytest.mark.parametrize("reduction", [1, 2, 3])
def test_gates_equal_the_equations(reduction):
    x = torch.randn(2, 6, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    block = randomise(SCSE(6, reduction).double())
    by_channel, by_place = equations(block, x.numpy())
    for module, expected in (
        (block.cse, by_channel),
        (block.sse, by_place),
        (block, by_channel + by_place),
    ):
        np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-12, atol=1e-12)
    block.fusion = "max"
    np.testing.assert_allclose(block(x).detach().numpy(), np.maximum(by_channel, by_place), rtol=1e-12, atol=1e-12)


def by_hand(fusion):
    """z = (2, 0), hidden = 2, z-hat = (0, ln 3): channel gates 1/2 and 3/4; q = (ln 3, ln 27): places 3/4 and 27/28."""
    block = SCSE(2, 2, fusion)
    with torch.no_grad():
        block.cse.reduce.weight.copy_(torch.tensor([[1.0, 5.0]]))
        block.cse.reduce.bias.zero_()
        block.cse.expand.weight.copy_(torch.tensor([[0.0], [math.log(3) / 2]]))
        block.sse.squeeze.weight.copy_(torch.tensor([math.log(3), 0.0]).reshape(1, 2, 1, 1))
    return block(torch.tensor([[1.0, 3.0], [2.0, -2.0]]).reshape(1, 2, 1, 2)).detach().reshape(2, 2)


def test_sum_fusion_by_hand():
    expected = torch.tensor(
        [[1 * (1 / 2 + 3 / 4), 3 * (1 / 2 + 27 / 28)], [2 * (3 / 4 + 3 / 4), -2 * (3 / 4 + 27 / 28)]]
    )
    torch.testing.assert_close(by_hand("sum"), expected)


def test_max_fusion_by_hand():
    # the larger product, not the product with the larger gate: they differ where the feature map is negative
    torch.testing.assert_close(by_hand("max"), torch.tensor([[3 / 4, 3 * 27 / 28], [3 / 2, -2 * 3 / 4]]))


def test_scse_starts_as_identity_and_single_gates_at_one_half():
    x = torch.randn(2, 32, 5, 5)
    assert torch.equal(SCSE(32)(x), x)
    for halving in (ChannelSE(32), SpatialSE(32), SCSE(32, fusion="max")):
        assert torch.equal(halving(x), x / 2)


@pytest.mark.parametrize("kind", ["cse", "sse", "scse"])
def test_memory_format_and_bf16_are_kept(kind):
    block = randomise(build(kind, 8, reduction=2))
    x = torch.randn(2, 8, 5, 5).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        y = block(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y.float(), block(x), rtol=0.05, atol=0.05)


def test_reduction_above_the_channels_leaves_one_hidden_unit():
    assert build("cse", 8, reduction=16).reduce.out_features == 1


def test_attach_keeps_other_keys_and_works_after_copying():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    keys, x = set(net.state_dict()), torch.randn(1, 3, 4, 4)
    plain = net[0](x)
    attach(net[0], randomise(SCSE(4, 2)))
    assert {key for key in net.state_dict() if not key.startswith("0.attention.")} == keys
    torch.testing.assert_close(net[0](x), net[0].attention(plain))
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        torch.testing.assert_close(twin(x), net(x))
        nn.init.constant_(twin[0].attention.sse.squeeze.bias, 9.0)  # the twin's own gate, not the original's
        assert not torch.allclose(twin(x), net(x))


def test_every_attention_parameter_gets_a_gradient():
    block = randomise(SCSE(8, 2))
    nn.init.constant_(block.cse.reduce.bias, 5.0)  # all hidden units alive
    block(torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_compiles_in_one_graph():
    block = randomise(SCSE(8, 2))
    x = torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(torch.compile(block, backend="eager", fullgraph=True)(x), block(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "scsee"}, "did you mean scse"),
        ({"kind": "scse", "fusion": "mx"}, "did you mean max"),
        ({"kind": "cse", "reduction": 0}, "attention_reduction=0"),
    ],
)
def test_invalid_settings_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        build(channels=8, **arguments)


def test_stages_are_chosen_by_name():
    net = nn.Sequential(nn.Identity(), nn.Identity())
    points = {"1": {"0": 4}, "2": {"1": 4}}
    insert_attention(net, points, "sse", stages=[2])  # as a config file would give it
    assert [hasattr(block, "attention") for block in net] == [False, True]
    with pytest.raises(UserError, match="'3' in attention_stages; this backbone has 1, 2"):
        insert_attention(net, points, "sse", stages="3")
