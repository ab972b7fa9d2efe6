"""How well an autoencoder gives held-out data back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from unnoise.core.rng import Rng
from unnoise.data.dataset import Dataset
from unnoise.errors import UserError
from unnoise.metrics.figure import Figure, figure
from unnoise.metrics.signal import channel_drift, psnr
from unnoise.model import Model
from unnoise.trial import Trial

CHUNK = 128


@dataclass(frozen=True)
class Reconstruction:
    """Fidelity of reconstructions of held-out pictures, beside that of block means of as many numbers.

    Args:
        image: the codec of the pictures.
        through: what makes latents: "model", an autoencoder between states of `image`; or "codec", that of the model.
        block: side of the blocks whose means are the baseline; block^2 should be the compression.
        count: of pictures, unless told otherwise.

    Raises:
        ValueError: for a block < 1.
    """

    image: Any
    through: Literal["model", "codec"] = "model"
    block: int = 2
    count: int = 2000

    def __post_init__(self) -> None:
        if self.block < 1:
            raise ValueError(f"block must be at least 1, got {self.block}")

    @property
    def protocol(self) -> dict[str, Any]:
        """What the figures depend on besides the judge's own fields."""
        return {"peak": self.image.high - self.image.low}

    def __call__(self, model: Model, data: Dataset, trial: Trial) -> list[Figure]:
        """PSNR in dB (mean and standard error over pictures) and mean drift of each channel in units of the data.

        Raises:
            UserError: without held-out data.
        """
        x = data.held_out["x"]
        if not len(x):
            raise UserError("reconstructions are measured on held-out data, and there are none: set data.held_out")
        x = x[torch.arange(min(trial.n, len(x))) * len(x) // min(trial.n, len(x))]
        trial.say(f"reconstructing {len(x)} held-out items")
        out = torch.cat([self.reconstruct(model, part) for part in torch.split(x, CHUNK)])
        peak = self.image.high - self.image.low
        # A picture of one colour may come back exactly, with infinitely many dB; 100 of them say as much.
        found, block = (psnr(a, x, peak).clamp(max=100).tolist() for a in (out, self.means(x)))
        return [
            figure("PSNR of reconstructions, dB", found, None),
            figure(f"PSNR of means of {self.block}x{self.block} pixels, dB", block, None),
            *(figure(f"drift of channel {k}", [d], None) for k, d in enumerate(channel_drift(out, x).tolist())),
        ]

    @torch.no_grad()
    def reconstruct(self, model: Model, raw: Tensor) -> Tensor:
        """Raw data [B, ...] to latents and back, on the CPU."""
        raw = raw.to(model.device)
        if self.through == "codec":
            out = model.codec.decode(model.codec.encode(raw, Rng.of(range(len(raw)), model.device)))
        else:
            out = self.image.decode(model.denoiser(self.image.encode(raw)))
        result: Tensor = out.cpu()
        return result

    def means(self, raw: Tensor) -> Tensor:
        """Each block of pixels by its mean, to the nearest value that the data can have."""
        small = F.avg_pool2d(self.image.encode(raw), self.block, ceil_mode=True)
        large = small.repeat_interleave(self.block, 2).repeat_interleave(self.block, 3)
        result: Tensor = self.image.decode(large[..., : raw.shape[2], : raw.shape[3]])
        return result
