"""Pitfall 27: a sampling loop branches on the host's facts alone, so that all of it is one graph.

Recorded operation by operation (which fails at any look at a number of the device), and replayed for other noise, other
seeds and other labels, it has to give what the loop itself gives. That CUDA graphs do is tested in tests/gpu.
"""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

import unnoise.sample
from unnoise.core import philox, rng
from unnoise.core.denoiser import Preconditioned
from unnoise.core.parameterization import V
from unnoise.core.process import Gaussian
from unnoise.core.rng import Rng
from unnoise.core.schedule import Cosine
from unnoise.errors import UserError
from unnoise.guide import Cfg, Interval
from unnoise.modality import Labels, Plain
from unnoise.model import Model
from unnoise.nets import MLP
from unnoise.sample import Ancestral
from unnoise.sample.driver import plan_for, walk

SAMPLERS: list[Any] = [getattr(unnoise.sample, name)() for name in unnoise.sample.__all__] + [Ancestral(eta=0.0)]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_pitfall_27_a_whole_sampling_loop_is_one_graph(sampler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # In torch's words, as on any device but a CPU, where NumPy runs the generator.
    monkeypatch.setattr(rng, "philox", lambda counter, key: list(philox._rounds([*counter, *key])))
    torch.manual_seed(0)
    told = Labels({"label": 3})
    net = Preconditioned(MLP(channels=2, width=16, labels={"label": 3}), V(), interval=(-14, 14)).eval()
    with torch.no_grad():
        for parameter in net.parameters():  # zero layers would hide the others
            parameter.add_(0.1 * torch.randn(parameter.shape))
    process = Gaussian()
    denoise = Interval(Cfg(net, process, told.null, 2.0), net, -2.0, 2.0)
    noise = torch.randn(5, 2)
    rows = plan_for(sampler, Cosine(0.001)(torch.linspace(0.98, 0, 5, dtype=torch.float64)), noise)

    def loop(x: Tensor, key: Tensor, label: Tensor) -> Tensor:
        for step in walk(sampler, process, denoise, x, rows, Rng(key), {"label": label}):
            x = step.x
        return x

    graph = make_fx(loop)(noise, Rng.of(range(5)).key, torch.tensor([0, 1, 2, 0, 1]))
    for given in range(2):
        arguments = torch.randn(5, 2), Rng.of(range(7 * given, 7 * given + 5)).key, torch.tensor([2, 2, given, 0, 1])
        torch.testing.assert_close(graph(*arguments), loop(*arguments))


def test_recording_on_a_cpu_is_refused() -> None:
    model = Model(Preconditioned(MLP(channels=2, width=8), V(), interval=(-10, 10)), Plain(shape=(2,)))
    with pytest.raises(UserError, match="records CUDA graphs, and the device is cpu"):
        model.sample(4, captured=True)
