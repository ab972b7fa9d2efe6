"""Pitfall 27: no graph breaks. Every network compiles as one graph and keeps its values and gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from unnoise.nets import MLP, ConvClassifier, UNet


@pytest.mark.parametrize("name", ["unet", "mlp", "classifier"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:torch.*")
def test_pitfall_27_no_graph_breaks(name: str, perturb: Callable[[nn.Module], nn.Module]) -> None:
    label, c = torch.tensor([0, 3]), torch.rand(2)
    if name == "unet":
        net = UNet(channels=1, width=8, multipliers=(1, 1), blocks=1, attention=(), head_width=4, labels={"label": 3})
        arguments, cond = (torch.randn(2, 1, 5, 4), c), {"label": label}
    elif name == "mlp":
        net, arguments, cond = MLP(channels=3, width=8, labels={"label": 3}), (torch.randn(2, 3), c), {"label": label}
    else:
        net, arguments, cond = ConvClassifier(channels=1, classes=3, width=4), (torch.randn(2, 1, 8, 8),), {}
    perturb(net)
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager", dynamic=False)

    def values_and_gradients(call: Callable) -> list[torch.Tensor]:
        out = call(*arguments, **cond)
        return [out, *torch.autograd.grad(out.square().sum(), list(net.parameters()))]

    expected = values_and_gradients(net)
    for a, b in zip(values_and_gradients(compiled), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
