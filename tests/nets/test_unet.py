"""The U-Net: initialisation, invariances, sizes, derivatives, serialisation."""

import inspect
import json
import math
from collections.abc import Callable

import pytest
import torch

from unnoise.nets import UNet
from unnoise.nets.attention import CrossAttention, SelfAttention
from unnoise.nets.embedding import fourier_features
from unnoise.nets.layers import crop, grow, join, pad

Make = Callable[..., UNet]


@pytest.mark.parametrize("arguments", [{}, {"norm": "additive", "resample": "strided"}, {"skip_rescale": True}])
def test_output_is_exactly_zero_at_initialisation(arguments: dict) -> None:
    net = UNet(channels=3, width=8, multipliers=(1, 2), blocks=1, head_width=4, **arguments)
    assert (net(torch.randn(2, 3, 8, 8), torch.rand(2)) == 0).all()


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("style", ["block", "strided"])
def test_rows_do_not_influence_each_other(unet: Make, dims: int, style: str) -> None:
    net = unet(dims=dims, resample=style, norm="adaptive" if style == "block" else "additive")
    x, c = torch.randn(3, 2, *(5, 7, 6)[:dims]), torch.rand(3)
    together = net(x, c)
    alone = torch.cat([net(x[i : i + 1], c[i : i + 1]) for i in range(3)])
    assert together.shape == x.shape
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-2


def test_odd_sizes_are_those_of_the_padded_input(unet: Make) -> None:
    net = unet(multipliers=(1, 1, 2))
    x, c = torch.randn(2, 2, 7, 9), torch.rand(2)
    padded = torch.cat([x, x[:, :, -1:]], dim=2)
    padded = torch.cat([padded, padded[..., -1:].expand(-1, -1, -1, 3)], dim=3)
    torch.testing.assert_close(pad(x, (4, 4)), padded)
    torch.testing.assert_close(net(x, c), crop(net(padded, c), (7, 9)))


def test_blocks_of_each_level(unet: Make) -> None:
    def at(net: UNet) -> dict[int, int]:
        sizes: dict[int, int] = {}
        for m in net.modules():
            if hasattr(m, "conv_out"):
                m.register_forward_hook(lambda _, __, h: sizes.update({h.shape[-1]: sizes.get(h.shape[-1], 0) + 1}))
        net(torch.randn(1, 2, 8, 8), torch.rand(1))
        return sizes

    # One way, one more back, and two in the middle.
    assert at(unet(blocks=(1, 3), resample="strided")) == {8: 1 + 2, 4: 3 + 4 + 2}
    assert at(unet(blocks=2, resample="strided")) == at(unet(blocks=(2, 2), resample="strided")) == {8: 5, 4: 7}


@pytest.mark.parametrize("strides", [(2, 2), (1, 3)])
def test_repetition_is_torchs_with_channels_innermost(strides: tuple[int, int]) -> None:
    h = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    sizes = [n * s for n, s in zip(h.shape[2:], strides, strict=True)]
    expected, found = torch.nn.functional.interpolate(h, size=sizes, mode="nearest"), grow(h, strides)
    assert torch.equal(found, expected) and found.is_contiguous(memory_format=torch.channels_last)
    towards = torch.randn_like(expected)
    (a,), (b,) = (torch.autograd.grad(y, h, towards) for y in (found, expected))
    torch.testing.assert_close(a, b)


def test_what_is_joined_has_a_dense_gradient() -> None:
    h, skip = (torch.randn(2, c, 4, 4).to(memory_format=torch.channels_last).requires_grad_() for c in (3, 5))
    towards = torch.randn(2, 8, 4, 4).to(memory_format=torch.channels_last)
    a, b = torch.autograd.grad(join(h, skip), [h, skip], towards)
    assert torch.equal(a, towards[:, :3]) and torch.equal(b, towards[:, 3:])
    assert a.is_contiguous(memory_format=torch.channels_last)
    _, tangent = torch.func.jvp(lambda z: join(z, skip), (h,), (torch.ones_like(h),))
    assert torch.equal(tangent, torch.cat([torch.ones_like(h), torch.zeros_like(skip)], dim=1))
    assert torch.autograd.gradgradcheck(lambda z: join(z, skip.double()).square(), h.double())


def test_gradient_reaches_every_parameter(unet: Make, everything: tuple) -> None:
    arguments, cond = everything
    for norm, resample in (("adaptive", "block"), ("additive", "strided")):
        net = unet(norm=norm, resample=resample, skip_rescale=True, **arguments)
        net(torch.randn(3, 2, 8, 8), torch.rand(3), **cond).square().sum().backward()
        untouched = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
        assert untouched == []


def test_level_of_each_frame(unet: Make) -> None:
    net = unet(dims=3, strides=(1, 2, 2))
    x, c = torch.randn(2, 2, 3, 4, 4), torch.tensor([0.2, 1.1])
    torch.testing.assert_close(net(x, c.view(2, 1, 1, 1, 1).expand(2, 1, 3, 1, 1)), net(x, c))
    levels = torch.tensor([[0.2, 0.2, 0.2], [1.1, 1.1, 0.3]]).view(2, 1, 3, 1, 1)
    difference = (net(x, levels) - net(x, c)).abs().amax(dim=(1, 2, 3, 4))
    assert difference[0] < 1e-5
    assert difference[1] > 1e-2
    with pytest.raises(ValueError, match="c_noise must be"):
        unet(dims=3)(x, levels)  # the frames are halved, their levels cannot be
    with pytest.raises(ValueError, match="dims=3"):
        net(x[:, :, 0], c)


@pytest.mark.parametrize("octaves", [(), (1, 2)])
def test_forward_mode_derivative_agrees_with_finite_difference(unet: Make, everything: tuple, octaves: tuple) -> None:
    arguments, cond = everything
    net = unet(noise_scale=10.0, octaves=octaves, **arguments).double()
    cond = {name: c.double() if c.is_floating_point() else c for name, c in cond.items()}
    point = torch.randn(3, 2, 8, 8, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    way = torch.randn_like(point[0]), torch.ones_like(point[1])

    def at(h: float) -> torch.Tensor:
        with torch.no_grad():
            return net(point[0] + h * way[0], point[1] + h * way[1], **cond)

    value, derivative = torch.func.jvp(lambda x, c: net(x, c, **cond), point, way)
    torch.testing.assert_close(value, at(0.0))  # explicit attention of the forward mode, and the fused one
    torch.testing.assert_close(derivative, (at(1e-5) - at(-1e-5)) / 2e-5, rtol=1e-5, atol=1e-6)


def test_fourier_features_are_the_closed_form() -> None:
    """VDM, appendix C: neighbouring values of 8 bits, almost equal as numbers, are far apart as features."""
    x = torch.tensor([-1.0, 0.0, 0.25, 2 / 255], dtype=torch.float64).view(1, 2, 2)
    features = fourier_features(x, (0, 7))
    assert features.shape == (1, 8, 2)
    for k, (n, f) in enumerate([(0, math.sin), (0, math.cos), (7, math.sin), (7, math.cos)]):
        want = torch.tensor([f(2**n * math.pi * v) for v in x.flatten()], dtype=torch.float64).view(1, 2, 2)
        torch.testing.assert_close(features[:, 2 * k : 2 * k + 2], want, rtol=0, atol=1e-12)
    pixels = torch.linspace(-1, 1, 256, dtype=torch.float64).view(1, 1, -1)
    table = fourier_features(pixels, (7, 8))
    assert float((table[..., 1:] - table[..., :-1]).norm(dim=1).min()) > 1.9


def test_octaves_are_further_channels_of_the_input(unet: Make) -> None:
    """The network with octaves is the one without whose stem was given the features."""
    net, plain = (
        unet(octaves=(0, 1)),
        UNet(channels=10, out_channels=2, width=8, multipliers=(1, 2), blocks=1, attention=(2,), head_width=4),
    )
    plain.load_state_dict(net.state_dict())
    x, c = torch.randn(2, 2, 7, 9), torch.rand(2)
    features = torch.cat([x, *(f(2**n * math.pi * x) for n in (0, 1) for f in (torch.sin, torch.cos))], 1)
    torch.testing.assert_close(net(x, c), plain(features, c))
    assert net(x, c).shape == x.shape
    with_image = unet(octaves=(3,), image=1)
    assert with_image.stem.in_channels == 2 * 3 + 1
    assert with_image(x, c, image=torch.randn(2, 1, 7, 9)).shape == x.shape


@pytest.mark.parametrize(
    ("attention", "middle", "expected"),
    [((), False, 0), ((), True, 1), ((1,), True, 1 + 5), ((2, 4), True, 1 + 10), ((1, 2, 4), False, 15)],
)
def test_attention_at_the_chosen_factors_only(attention: tuple, middle: bool, expected: int) -> None:
    with torch.device("meta"):  # a level with 2 blocks attends twice on the way down and three times on the way up
        net = UNet(
            channels=1, width=32, multipliers=(1, 2, 3), attention=attention, middle_attention=middle, head_width=8
        )
    assert sum(isinstance(m, SelfAttention) for m in net.modules()) == expected
    assert {m.qkv.in_features for m in net.modules() if isinstance(m, SelfAttention)} == {
        *(32 * (1 + (1, 2, 4).index(a)) for a in attention),
        *([96] if middle else []),
    }
    assert not any(isinstance(m, CrossAttention) for m in net.modules())


def test_dropout_acts_on_its_level_and_in_training_only(unet: Make) -> None:
    x, c = torch.randn(2, 2, 8, 8), torch.rand(2)
    net = unet(dropout=(0.0, 0.5))
    assert not torch.equal(net(x, c), net(x, c))
    net.eval()
    assert torch.equal(net(x, c), net(x, c))
    net.train()
    seen: dict[int, set[bool]] = {8: set(), 4: set()}
    for module in net.modules():
        if hasattr(module, "conv_out"):
            module.conv_out.register_forward_pre_hook(
                lambda _, h: seen[h[0].shape[-1]].add(bool((h[0] == 0).float().mean() > 0.3))
            )
    net(x, c)
    assert seen == {8: {False}, 4: {True}}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtype_and_memory_format_are_kept(unet: Make, dtype: torch.dtype) -> None:
    net = unet().to(dtype=dtype, memory_format=torch.channels_last)
    x, c = torch.randn(2, 2, 8, 8), torch.rand(2)
    out = net(x.to(dtype=dtype, memory_format=torch.channels_last), c)
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=torch.channels_last)
    exact = net.double()(x.to(dtype).double(), c)
    torch.testing.assert_close(out.double(), exact, rtol=0, atol=0.05 * exact.abs().max().item())


def test_bfloat16_autocast_is_close_to_float32(unet: Make, everything: tuple) -> None:
    arguments, cond = everything
    net, x, c = unet(**arguments), torch.randn(3, 2, 8, 8), torch.rand(3)
    with torch.autocast("cpu", torch.bfloat16):
        low = net(x, c, **cond)
    exact = net(x, c, **cond)
    torch.testing.assert_close(low.float(), exact, rtol=0, atol=0.05 * exact.abs().max().item())


def test_rebuilt_from_its_attributes_through_json(everything: tuple) -> None:
    arguments, _ = everything
    given = {
        "channels": 3,
        "out_channels": 6,
        "width": 8,
        "multipliers": (1, 0.5),
        "dropout": (0.0, 0.1),
        "head_width": 2,
        "octaves": (7, 8),
        "blocks": (1, 3),
    }
    net = UNet(**given, **arguments)
    names = list(inspect.signature(UNet).parameters)
    again = UNet(**json.loads(json.dumps({name: getattr(net, name) for name in names})))
    shapes = {key: value.shape for key, value in net.state_dict().items()}
    assert shapes == {key: value.shape for key, value in again.state_dict().items()}
    assert {name: getattr(net, name) for name in names} == {name: getattr(again, name) for name in names}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attention": (3,)}, "downsampling factors"),
        ({"channels": -1}, "channels must be at least 1, got -1"),
        ({"multipliers": ()}, "multipliers needs one number for each level"),
        ({"dropout": (0.1,)}, "one probability a level"),
        ({"dropout": (0.1, -0.1)}, r"dropout is a probability in \[0, 1\), got -0.1"),
        ({"dropout": 2}, r"dropout is a probability in \[0, 1\), got 2"),
        ({"blocks": (1,)}, "blocks needs a number >= 1, or one for each of 2 levels, got \\(1,\\)"),
        ({"blocks": 0}, "blocks needs a number >= 1"),
        ({"head_width": 3}, "heads of 3"),
        ({"strides": (2,)}, "one factor for each of 2 axes"),
        ({"norm": "layer"}, "norm must be"),
        ({"resample": "pool"}, "resample must be"),
        ({"context": 4, "attention": (), "middle_attention": False}, "a context is attended to"),
        ({"labels": {"image": 3}}, "cannot be names of labels"),
        ({"dims": 4}, "dims must be 1, 2 or 3"),
        ({"octaves": (-1,)}, "octaves must be different whole numbers >= 0"),
        ({"octaves": (7, 7)}, "octaves must be"),
        ({"width": 7}, "even"),
    ],
)
def test_impossible_arguments_are_refused(unet: Make, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unet(**arguments)


def test_an_input_of_other_channels_is_refused(unet: Make) -> None:
    with pytest.raises(ValueError, match=r"channels=2, x has 3: \(1, 3, 8, 8\)"):
        unet()(torch.zeros(1, 3, 8, 8), torch.zeros(1))
