"""The Inception network of FID: its architecture against pytorch-fid's, batch norm folded in, and what is refused."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unnoise.core.rng import Rng
from unnoise.nets.inception import DIMS, Inception, folded

HERE = Path(__file__).parents[1] / "golden"
GOLDEN = np.load(HERE / "inception.npz")
RULES = runpy.run_path(str(HERE / "make_inception.py"))


def shapes(net: Inception) -> dict[str, tuple[int, ...]]:
    return {k.removesuffix(".weight"): tuple(v.shape) for k, v in net.state_dict().items() if k.endswith(".weight")}


@pytest.fixture(scope="module")
def drawn() -> Inception:
    """With drawn weights, whose batch norms are not trivial."""
    net = Inception()
    net.load_state_dict(folded({k: torch.from_numpy(v) for k, v in RULES["drawn"](shapes(net), 1).items()}))
    return net.eval().requires_grad_(False)


def handed(picture: Any) -> Tensor:
    x = torch.from_numpy(np.array(picture))[None].float() / 255
    return 2 * F.interpolate(x.expand(1, 3, -1, -1), size=(299, 299), mode="bilinear") - 1


def test_pitfall_33_the_network_is_pytorch_fids(drawn: Inception) -> None:
    """Pitfall 33: a FID differs by library. Here are pytorch-fid's own features, of weights that touch every layer."""
    found = [drawn.features(handed(p)) for p in RULES["pictures"]()]
    for d in DIMS:
        ours = RULES["kept"](torch.cat([f[d] for f in found]).numpy())
        theirs = GOLDEN[f"drawn_{d}"]
        assert np.abs(ours - theirs)[:, :-1].max() < 1e-4 * np.abs(theirs[:, :-1]).max()
        np.testing.assert_allclose(ours[:, -1], theirs[:, -1], rtol=1e-4)


def test_all_of_the_release_is_there() -> None:
    """torchvision counts 23,834,568 parameters for 1,000 classes without the auxiliary head."""
    net = Inception()
    assert len(shapes(net)) == 94
    # Less the classes' layer, and with one number for each channel instead of the two of batch norm.
    channels = sum(s[0] for s in shapes(net).values())
    assert sum(p.numel() for p in net.parameters()) == 23_834_568 - 2_049_000 - channels


def test_it_is_built_as_far_as_is_asked(drawn: Inception) -> None:
    x = handed(RULES["pictures"]()[0])
    whole = drawn.features(x)
    assert {k: v.shape for k, v in whole.items()} == {d: (1, d) for d in DIMS}
    for d in (64, 768, 1280):
        net = Inception(d)
        net.load_state_dict({k: v for k, v in drawn.state_dict().items() if k in net.state_dict()})
        found = net.features(x)
        assert max(found) == d and torch.equal(net(x), found[d]) and torch.equal(found[d], whole[d])
    assert torch.equal(drawn(x), whole[2048])


def test_what_is_beyond_the_edge_counts_for_nothing(drawn: Inception) -> None:
    """A constant stays one under the mean of each pooling; the maximum of Mixed_7c is no mean."""
    x = torch.full((1, 8, 5, 6), 0.7)
    for name in ("Mixed_5b", "Mixed_6e", "Mixed_7b"):
        torch.testing.assert_close(drawn.get_submodule(name)._pooled(x), x)
    row = torch.tensor([0.0, 3.0, 0.0, 0.0]).expand(1, 1, 3, 4)
    assert drawn.get_submodule("Mixed_7b")._pooled(row)[0, 0, 1].tolist() == [1.5, 1.0, 1.0, 0.0]
    assert drawn.get_submodule("Mixed_7c")._pooled(row)[0, 0, 1].tolist() == [3.0, 3.0, 3.0, 0.0]


def test_folding_is_batch_norm() -> None:
    state = {k: torch.from_numpy(v) for k, v in RULES["drawn"]({"a": (5, 3, 3, 1)}, 7).items()}
    x = Rng.of(torch.arange(2)).normal(torch.zeros(2, 3, 8, 8))
    h = F.conv2d(x.double(), state["a.conv.weight"].double())
    mean, variance, gamma, beta = (
        state[f"a.bn.{k}"].double() for k in ("running_mean", "running_var", "weight", "bias")
    )
    want = F.batch_norm(h, mean, variance, gamma, beta, eps=1e-3)
    got = folded({**state, "fc.bias": torch.ones(3, dtype=torch.float16), "a.bn.num_batches_tracked": torch.tensor(1)})
    assert set(got) == {"a.weight", "a.bias", "fc.bias"}
    assert {v.dtype for v in got.values()} == {torch.float32}
    torch.testing.assert_close(F.conv2d(x, got["a.weight"], got["a.bias"]).double(), want, rtol=1e-5, atol=1e-5)
    del state["a.bn.running_var"]
    with pytest.raises(KeyError, match=r"a\.bn\.running_var"):
        folded(state)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="dims must be one of 64, 192, 768, 1280, 2048, got 1000"):
        Inception(1000)
    for shape in ((1, 1, 299, 299), (1, 3, 74, 299), (3, 299, 299)):
        with pytest.raises(ValueError, match=r"x must be \[B, 3, H, W\], H and W at least 75"):
            Inception(64)(torch.zeros(shape))
