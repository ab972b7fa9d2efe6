"""Fidelity, drift of channels and code lengths by closed forms."""

import math

import pytest
import torch

from unnoise.metrics.signal import bits_per_dimension, channel_drift, psnr


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_psnr_by_hand_and_row_by_row() -> None:
    a = torch.zeros(3, 2, 4, dtype=torch.uint8)
    b = a.clone()
    b[1] = 255  # the largest error there is: 0 dB
    b[2, 0, 0] = 16  # mean square 256 / 8 = 32
    assert psnr(a, b, 255).tolist() == pytest.approx([math.inf, 0, 10 * math.log10(255**2 / 32)])
    assert psnr(b, a, 255).tolist() == psnr(a, b, 255).tolist()  # bytes do not wrap around


def test_psnr_of_noise_and_of_other_units() -> None:
    x, e = noise(4, 100_000, seed=1), noise(4, 100_000, seed=2)
    assert psnr(x, x + 0.1 * e, 2).tolist() == pytest.approx([10 * math.log10(4 / 0.01)] * 4, abs=0.05)
    torch.testing.assert_close(psnr(x, x + e, 2), psnr(127.5 * x, 127.5 * (x + e), 255), rtol=0, atol=1e-5)


def test_drift_is_seen_where_psnr_sees_nothing() -> None:
    """Pitfall 32: colour drift. Two errors of the same PSNR, one with a mean."""
    x = noise(8, 3, 32, 32)
    tint = torch.tensor([0.05, 0.0, -0.02])
    moved = x + tint[:, None, None]
    signs = torch.tensor([1.0, -1.0]).repeat(16)
    grained = x + tint[:, None, None] * signs
    torch.testing.assert_close(psnr(x, moved, 2), psnr(x, grained, 2), rtol=0, atol=1e-3)
    assert channel_drift(moved, x).tolist() == pytest.approx(tint.tolist(), abs=1e-6)
    assert channel_drift(x, moved).tolist() == pytest.approx((-tint).tolist(), abs=1e-6)
    assert channel_drift(grained, x).tolist() == pytest.approx([0, 0, 0], abs=1e-6)


def test_drift_of_waves_and_vectors() -> None:
    a = torch.tensor([[[1, 2], [3, 4]], [[5, 6], [7, 9]]])
    assert channel_drift(a, torch.zeros_like(a)).tolist() == [3.5, 5.75]
    assert channel_drift(a[..., 0], a[..., 1]).tolist() == [-1, -1.5]


def test_uniform_bytes_cost_eight_bits() -> None:
    """z = (x + u) / 127.5 - 1 is uniform on [-1, 1.008), of density 127.5 / 256 a dimension."""
    dims = 12
    nats = torch.full((3,), dims * math.log(256 / 127.5), dtype=torch.float64)
    assert bits_per_dimension(nats, dims, -dims * math.log(127.5)).tolist() == pytest.approx([8] * 3)


def test_scaling_the_data_does_not_change_its_code_length() -> None:
    """x standard normal, z = s x: the code of x has the entropy log2(2 pi e) / 2, however z is scaled."""
    x = noise(50_000, 3).double()
    scale = 0.5 + noise(50_000, seed=3).abs().double()
    z = x * scale[:, None]
    nats = (z.square() / scale[:, None] ** 2 / 2 + (2 * math.pi * scale[:, None] ** 2).log() / 2).sum(1)
    bits = bits_per_dimension(nats, 3, 3 * scale.log())
    assert bits.mean().item() == pytest.approx(math.log2(2 * math.pi * math.e) / 2, abs=0.01)
    torch.testing.assert_close(bits[:1], bits_per_dimension(nats[:1], 3, 3 * math.log(scale[0].item())))


def test_mistakes_are_named(unchecked: None) -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="peak must be above 0"):
        psnr(x, x, 0)
    with pytest.raises(ValueError, match="dims must be at least 1"):
        bits_per_dimension(x[0], 0)
    with pytest.raises(ValueError, match="cannot be compared"):
        psnr(x, x[:, 1:], 1)
    with pytest.raises(ValueError, match="cannot be compared"):
        channel_drift(x[:1], x)
