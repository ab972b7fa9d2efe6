"""What a network is told reaches its output, null labels and masks do what they say, errors name the key."""

import math
from collections.abc import Callable

import pytest
import torch

from unnoise.nets import MLP, UNet
from unnoise.nets.embedding import noise_features

Make = Callable[..., UNet]


def test_noise_features_are_the_closed_form_in_any_dtype() -> None:
    c = torch.tensor([0.0, 0.001, 0.5])  # as index / 1000: indices 0, 1, 500 of Ho et al.
    features = noise_features(c, 4, 1000.0)
    expected = [[f(i * w) for f in (math.cos, math.sin) for w in (1.0, 0.01)] for i in (0, 1, 500)]
    torch.testing.assert_close(features, torch.tensor(expected), rtol=0, atol=1e-4)
    assert noise_features(c.bfloat16(), 4, 1000.0).dtype == torch.float32
    angles = torch.linspace(0, math.pi / 2, 2000, dtype=torch.float64)
    table = noise_features(angles, 64, 1000.0)
    assert (table[1:] - table[:-1]).norm(dim=1).min() > 0.5  # neighbours 0.0008 apart are well apart as features


@pytest.mark.parametrize("key", ["digit", "style", "vector", "context", "context_mask", "image"])
def test_every_condition_changes_its_row_only(unet: Make, everything: tuple, key: str) -> None:
    arguments, cond = everything
    net, x, c = unet(**arguments), torch.randn(3, 2, 8, 8), torch.rand(3)
    other = cond[key].clone()
    other[0] = {"digit": 2, "style": 1, "context_mask": torch.arange(6) < 2}.get(key, other[0] + 1)
    change = (net(x, c, **cond) - net(x, c, **(cond | {key: other}))).abs().amax(dim=(1, 2, 3))
    assert change[0] > 1e-4
    assert change[1:].max() < 1e-5


def test_null_label_is_a_class_of_its_own(unet: Make) -> None:
    net, x = unet(labels={"digit": 3}), torch.randn(1, 2, 8, 8).expand(4, -1, -1, -1)
    out = net(x, torch.full((4,), 0.7), digit=torch.tensor([0, 1, 2, 3]))
    assert min((out[i] - out[3]).abs().max() for i in range(3)) > 1e-3


def test_masked_tokens_leak_nothing(unet: Make) -> None:
    net, x, c = unet(context=5), torch.randn(3, 2, 8, 8), torch.rand(3)
    context, mask = torch.randn(3, 6, 5), torch.arange(6) < torch.tensor([[6], [3], [0]])
    masked = net(x, c, context=context, context_mask=mask)
    junk = torch.where(mask[..., None], context, 100 * torch.randn(3, 6, 5))
    torch.testing.assert_close(net(x, c, context=junk, context_mask=mask), masked)
    torch.testing.assert_close(net(x[1:2], c[1:2], context=context[1:2, :3]), masked[1:2], rtol=0, atol=1e-5)
    assert masked[2].isfinite().all()  # a row without any token
    order = torch.randperm(6)  # attention to tokens knows no order
    torch.testing.assert_close(net(x, c, context=context[:, order], context_mask=mask[:, order]), masked)


def test_errors_name_the_key_and_what_the_net_was_built_with(unet: Make) -> None:
    net, x, c = unet(labels={"digit": 10}, context=5), torch.randn(1, 2, 8, 8), torch.rand(1)
    digit, context = torch.tensor([1]), torch.randn(1, 2, 5)
    with pytest.raises(ValueError, match=r"does not know the condition 'lable'.*digit \(10 classes\), context \(5"):
        net(x, c, digit=digit, context=context, lable=digit)
    with pytest.raises(ValueError, match="misses the condition 'digit'"):
        net(x, c, context=context)
    with pytest.raises(ValueError, match="'digit_mask'"):
        net(x, c, digit=digit, context=context, digit_mask=digit)
    with pytest.raises(ValueError, match="built with no condition"):
        MLP(channels=2)(x[:, :, 0, 0], c, image=x)
