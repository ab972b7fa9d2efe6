"""Numbers as they are."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from unnoise.core.rng import Rng
from unnoise.errors import UserError
from unnoise.modality import Plain

RAW = 5 + 3 * Rng.of(range(500)).normal(torch.zeros(500, 2, 3))


def test_encoding_standardises_and_decoding_undoes_it() -> None:
    codec = Plain((2, 3), mean=5.0, std=3.0)
    codec.check(RAW)
    x = codec.encode(RAW)
    assert abs(float(x.mean())) < 0.1 and abs(float(x.std()) - 1) < 0.1
    torch.testing.assert_close(codec.decode(x), RAW, rtol=1e-6, atol=1e-6)
    assert codec.log_det == pytest.approx(-6 * math.log(3)) and codec.bins is None


@pytest.mark.parametrize(
    ("codec", "raw", "message"),
    [
        (Plain((3, 2)), RAW, r"of shape \(2, 3\), the codec expects floats \(3, 2\)"),
        (Plain((2, 3)), RAW.long(), "data are torch.int64"),
        (Plain((2, 3), std=1e-3), RAW, "standard deviation of .* after the codec: set codec.mean and codec.std"),
        (Plain((2, 3), std=100.0), RAW, "set codec.mean and codec.std"),
        (Plain((2, 3)), RAW * torch.nan, "standard deviation of nan"),
    ],
    ids=["shape", "integers", "large", "small", "nan"],
)
def test_data_that_are_not_of_unit_size_are_refused(codec: Plain, raw: torch.Tensor, message: str) -> None:
    """Pitfall 30."""
    with pytest.raises(UserError, match=message):
        codec.check(raw)


def test_what_is_not_finite_is_not_decoded() -> None:
    """Pitfall 1."""
    with pytest.raises(FloatingPointError, match="not finite"):
        Plain((2,)).decode(torch.tensor([[0.0, math.inf]]))


def test_a_scale_is_positive() -> None:
    for std in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=f"std must be > 0, got {std}"):
            Plain((2,), std=std)


def test_a_row_is_written_whole(tmp_path: Path) -> None:
    Plain((2, 3)).write(RAW[0], tmp_path / "row.npy")
    assert np.array_equal(np.load(tmp_path / "row.npy"), RAW[0].numpy())
    assert [f.name for f in tmp_path.iterdir()] == ["row.npy"]
