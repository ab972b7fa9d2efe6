"""Which parameters are matrices of hidden layers: in each of our networks, and in one that states nothing."""

import pytest
import torch
from torch import nn

from unnoise.core.denoiser import Preconditioned
from unnoise.core.parameterization import Edm
from unnoise.nets import EGNN, MLP, ConvClassifier, ResidualClassifier, Transformer, UNet
from unnoise.nets.autoencoder import Autoencoder, PatchDiscriminator
from unnoise.nets.published import ddpm_cifar10
from unnoise.optim import hidden_matrices

UNET = {"channels": 3, "width": 16, "multipliers": (1, 2), "blocks": 1, "head_width": 8}


def others(*modules: nn.Module) -> set[str]:
    """Names of the weights with two or more axes that are not hidden matrices."""
    hidden = set(hidden_matrices(modules))
    return {k for m in modules for k, p in m.named_parameters() if p.ndim > 1 and p not in hidden}


@pytest.mark.parametrize(
    "net, ends",
    [
        (UNet(**UNET), {"stem.weight", "head.weight", "embed.inner.weight"}),
        (
            UNet(**UNET, labels={"label": 10}, vector=5, vectors={"augment": 9}),
            {"stem.weight", "head.weight", "embed.inner.weight"}
            | {"embed.labels.label.weight", "embed.vector.weight", "embed.vectors.augment.weight"},
        ),
        (MLP(channels=20, width=16), {"stem.weight", "head.weight", "embed.inner.weight"}),
        (Transformer(vocabulary=30, width=32), {"stem.weight", "head.weight", "embed.inner.weight"}),
        (
            Transformer(channels=40, width=32, positions=False, inducing=4, depth=1),
            {"stem.weight", "head.weight", "embed.inner.weight", "blocks.0.attention.inducing"},
        ),
        (
            EGNN(outputs=5, vocabulary=5, width=8, depth=1),
            {"stem.weight", "head.weight", "embed.inner.weight", "embed_types.inner.weight"}
            | {"layers.0.distances.weight", "layers.0.weight.weight", "layers.0.move.2.weight"},
        ),
        (ConvClassifier(channels=3, classes=10, width=8), {"body.0.0.weight", "outer.weight"}),
        (ResidualClassifier(channels=3, classes=10, width=8), {"stem.weight", "outer.weight"}),
        (
            Autoencoder(channels=3, width=8, multipliers=(1, 2)),
            {"encoder.0.weight", "encoder.6.weight", "decoder.0.weight", "head.weight"},
        ),
        (PatchDiscriminator(channels=3, width=8), {"body.0.weight", "body.8.weight"}),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, nn.Module) else "",
)
def test_the_ends_of_our_networks_are_left_out_and_nothing_else(net: nn.Module, ends: set[str]) -> None:
    assert others(net) == ends
    hidden = hidden_matrices([net])
    assert len(hidden) == len(set(hidden)) > 0
    order = {p: i for i, p in enumerate(net.parameters())}
    assert [order[p] for p in hidden] == sorted(order[p] for p in hidden)
    wrapped = hidden_matrices([Preconditioned(net=net, parameterization=Edm())])
    assert len(wrapped) == len(hidden) and set(wrapped) == set(hidden)


def test_nearly_all_of_a_published_network_are_hidden_matrices() -> None:
    with torch.device("meta"):
        net = ddpm_cifar10()
    hidden = hidden_matrices([net])
    assert len(hidden) == 98 and sum(p.numel() for p in hidden) == 35_618_816


class Own(nn.Module):
    """A user's: states nothing, and has a part of everything that is no matrix between features."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 8)
        self.place = nn.Parameter(torch.zeros(5, 8))
        self.inner = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.depthwise = nn.Conv1d(8, 8, 3, groups=8)
        self.up = nn.ConvTranspose1d(8, 8, 2)
        self.plain = nn.Conv1d(8, 6, 3)
        self.gate = nn.Linear(6, 1)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))
        self.outer = nn.Linear(6, 8)
        self.head = nn.Linear(8, 11)


def test_without_a_statement_the_first_and_the_last_are_the_ends() -> None:
    net = Own()
    assert {*hidden_matrices([net])} == {net.plain.weight, net.outer.weight}
    net.head.weight = net.table.weight  # tied: the last layer all the same
    assert {*hidden_matrices([net])} == {net.plain.weight, net.outer.weight}


def test_each_network_has_ends_of_its_own_and_a_statement_covers_its_module_alone() -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.net, self.after = nn.Linear(4, 4), MLP(channels=4, width=8), nn.Linear(4, 4)
            self.ends = 3  # some other thing of the same name

    one = Around()
    assert set(hidden_matrices([one])) == set(hidden_matrices([one.net]))
    three = [nn.Linear(4, 4) for _ in range(3)]
    assert {*hidden_matrices([nn.Sequential(*three)])} == {three[1].weight}
    assert hidden_matrices(three) == []
