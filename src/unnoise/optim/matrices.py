"""Which parameters of a network are matrices between features: what a matrix optimiser is for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)


def hidden_matrices(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    """Weights of the linear layers and convolutions that lead from features to features.

    These are the weights of nn.Linear and of nn.Conv1d, 2d and 3d without groups, as matrices [out, in * kernel] with
    at least two rows and two columns, but for the ends of the network: the layers that read its input (x, the noise
    level, a condition) or write its output. Biases, norms, tables of embeddings, learned vectors, transposed and
    grouped convolutions, and weights that are computed from others are none of them.

    A module may state its ends as an attribute `ends`, a sequence of submodules; our networks do. Of the layers that
    no statement covers, the first and the last are taken for the ends, in the order in which they were registered.

    Args:
        modules: networks, each with ends of its own.

    Returns:
        Each parameter once, in the order of registration.
    """
    found = {p: None for module in modules for p in _hidden(module)}
    return list(found)


def _hidden(root: nn.Module) -> list[nn.Parameter]:
    stated = {m: own for m in root.modules() if (own := _stated(m)) is not None}
    covered = {p for m in stated for p in m.parameters()}
    ends = {p for own in stated.values() for m in own for p in m.parameters()}
    layers = [(m, m.weight) for m in root.modules() if isinstance(m, LAYERS) and isinstance(m.weight, nn.Parameter)]
    others = [w for _, w in layers if w not in covered]
    # A last layer may share its weight with a table.
    tables = {p for m in root.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    ends |= {*others[:1], *others[-1:], *tables}
    return [w for m, w in layers if w not in ends and _is_matrix(m, w)]


def _is_matrix(layer: nn.Module, weight: nn.Parameter) -> bool:
    turned = isinstance(layer, TRANSPOSED)  # [in, out, *kernel]
    return min(weight.shape[0], weight[0].numel()) > 1 and getattr(layer, "groups", 1) == 1 and not turned


def _stated(module: nn.Module) -> list[nn.Module] | None:
    """The ends that a module states; None where it states nothing."""
    ends = getattr(module, "ends", None)
    listed = list(ends) if isinstance(ends, Sequence) else None
    return None if listed is None or not all(isinstance(m, nn.Module) for m in listed) else listed
