"""Features of the Inception network, in which pictures are compared; not trained by us, and named by their number.

The network, its weights and how a picture is handed to it follow pytorch-fid, the one reference: another
library's way of resizing alone makes another number of the same pictures.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from unnoise.checkpoint import load_tensors
from unnoise.data.fetch import Remote, cache_folder, fetch
from unnoise.data.home import named_folder
from unnoise.errors import UserError
from unnoise.nets import inception

PART = "inception2015_to_mixed7a_fp16.safetensors"
"""Weights up to Mixed_7a."""

PART_DIMS = 1280
"""The features that `PART` suffices for."""

FULL = Remote(
    (
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    ),
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    size=95_628_359,
)
"""All weights, as pytorch-fid publishes them."""

ABOUT = "the Inception-v3 network of TensorFlow (2015-12-05), Szegedy et al. 2015, Apache-2.0"

PREPROCESSING = (
    f"uint8 / 255, a single channel three times, bilinear to {inception.SIDE}x{inception.SIDE} "
    "(align_corners=False, antialias=False), 2 x - 1"
)

NAMED_FROM = 768
"""Fewer features, of the first layers, tell textures only."""

BATCH = 64
"""Pictures at a time."""

RELEASE = {
    "Conv2d_1a_3x3": (0.405121, 0.790777),
    "Mixed_5d.branch5x5_2": (0.0183958, 0.262785),
    "Mixed_6e.branch7x7dbl_3": (0.0328741, 0.0973023),
    "Mixed_7a.branch3x3_2": (0.0445347, 0.0171424),
}
"""Mean size of a weight and mean bias of some layers of the 2015-12-05 release: torchvision's own file has others."""


@dataclass(frozen=True)
class Inception:
    """Where the network's weights are, and which of its features are wanted.

    The weights are a file with torchvision's names, batch norm folded in or not. Without `path` they are looked for in
    the folder inception of what UNNOISE_DATA names: inception2015_to_mixed7a_fp16.safetensors for up to 1280 features,
    pt_inception-2015-12-05-6726825d.pth for all; else that file is downloaded into the cache, once, 96 MB.

    Args:
        dims: 64, 192, 768, 1280 or 2048: after the first and the second max pooling, Mixed_6e, Mixed_7a and Mixed_7c.
        path: of the weights: a safetensors file, or a .pth, which is read as tensors only.

    Raises:
        ValueError: for other dims.
    """

    dims: int = 1280
    path: str | None = None

    def __post_init__(self) -> None:
        if self.dims not in inception.DIMS:
            raise ValueError(f"dims must be one of {', '.join(map(str, inception.DIMS))}, got {self.dims}")

    def load(self, device: torch.device | str = "cpu") -> Extractor:
        """The network on a device.

        Raises:
            UserError: where there is no such file, or it is damaged, or does not hold all that `dims` needs.
        """
        path = self._weights()
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        try:
            state = inception.folded(_tensors(path))
        except KeyError as e:
            raise UserError(f"{path} has no {e.args[0]!r}, though its convolution is there: convert it again") from None
        net = inception.Inception(self.dims)
        for name, wanted in net.state_dict().items():
            if name not in state:
                less = f"dims={PART_DIMS} needs less, and " if self.dims > PART_DIMS else ""
                raise UserError(
                    f"{path} has no {name!r}, which {self.dims} features need: "
                    f"{less}without path the whole network is downloaded"
                )
            if state[name].shape != wanted.shape:
                raise UserError(
                    f"{path} is of another network: {name!r} is {list(state[name].shape)}, not {list(wanted.shape)}"
                )
        net.load_state_dict({k: state[k] for k in net.state_dict()})
        key = json.dumps({"dims": self.dims, "preprocessing": PREPROCESSING, "weights": content}, sort_keys=True)
        digest = hashlib.sha256(key.encode()).hexdigest()
        return Extractor(net.eval().requires_grad_(False).to(device), torch.device(device), digest)

    def _weights(self) -> Path:
        """The file of weights; Raises UserError where there is none to be had, or UNNOISE_DATA names no folder."""
        if self.path is not None:
            path = Path(self.path).expanduser()
            if not path.is_file():
                raise UserError(
                    f"{path} is a folder, not a file of weights" if path.is_dir() else f"no such file: {path}"
                )
            return path
        if root := named_folder():
            for name in (PART,) * (self.dims <= PART_DIMS) + (FULL.name,):
                if (path := root / "inception" / name).is_file():
                    return path
        try:
            return fetch(FULL, cache_folder() / "inception", ABOUT)
        except UserError as e:
            raise UserError(f"{e}; or compare without it: -s 'judge.features=Means()'") from None


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file; nothing else is ever built of a .pth."""
    if path.suffix != ".pth":
        return load_tensors(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # whatever a damaged file makes of the reader
        raise UserError(f"{path} is no readable file of weights: {' '.join(str(e).split())[:200]}") from e
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise UserError(f"{path} holds no table of tensors: the state_dict of a network is wanted")
    return found


@dataclass(frozen=True, eq=False)
class Extractor:
    """Pictures to features, on one device.

    Args:
        net: its network.
        device: where it runs.
        digest: sha256 of the weights' file, the number of features, and how pictures are handed to the network.
    """

    net: inception.Inception
    device: torch.device
    digest: str

    @property
    def dims(self) -> int:
        """How many features."""
        return self.net.dims

    @cached_property
    def name(self) -> str:
        """The number of features; that of other weights than the 2015-12-05 release's is marked by the digest."""
        return str(self.dims) if self.published else f"{self.dims}@{self.digest[:8]}"

    @property
    def published(self) -> bool:
        """Whether some layers are those of the release. Of Mixed_7b and Mixed_7c nothing is known but the names."""
        state = self.net.state_dict()
        return all(
            abs(float(state[f"{name}.weight"].double().abs().mean()) / weight - 1) < 1e-3
            and abs(float(state[f"{name}.bias"].double().mean()) / bias - 1) < 1e-3
            for name, (weight, bias) in RELEASE.items()
            if f"{name}.weight" in state
        )

    @property
    def key(self) -> dict[str, str]:
        """What its features depend on."""
        return {"inception": self.digest}

    def named(self, raw: Tensor) -> dict[str, Tensor]:
        """The features after the pooled blocks, 768 and more, by the name of their number; as a call."""
        mark = self.name.removeprefix(str(self.dims))
        return {f"{k}{mark}": v for k, v in self.features(raw).items() if k >= min(NAMED_FROM, self.dims)}

    def __call__(self, raw: Tensor) -> Tensor:
        """float32 [N, dims] on the CPU.

        Args:
            raw: uint8 [N, C, H, W], C = 1 or 3, in [0, 255] on any device.

        Raises:
            UserError: for other pictures.
        """
        return torch.cat([part[self.dims].cpu() for part in self._parts(raw)])

    def features(self, raw: Tensor) -> dict[int, Tensor]:
        """All features by their number, up to `dims`: of one pass, float32 [N, number] on the CPU; else as a call."""
        parts = [{k: v.cpu() for k, v in part.items()} for part in self._parts(raw)]
        return {k: torch.cat([part[k] for part in parts]) for k in parts[0]}

    @torch.no_grad()
    def _parts(self, raw: Tensor) -> Iterator[dict[int, Tensor]]:
        if raw.dtype != torch.uint8 or raw.ndim != 4 or not raw.numel():
            raise UserError(
                f"the Inception network reads pictures as uint8 [N, C, H, W], got {raw.dtype} {list(raw.shape)}: "
                "-s 'judge.features=Means()' compares without it"
            )
        if raw.shape[1] not in (1, 3):
            raise UserError(
                f"the Inception network reads pictures of 1 or 3 channels, got {raw.shape[1]}: convert them (an alpha "
                "channel has to be laid on a background), or compare without it: -s 'judge.features=Means()'"
            )
        for part in torch.split(raw, BATCH):
            x = part.to(self.device).float().div(255).expand(-1, 3, -1, -1)
            x = F.interpolate(x, size=(inception.SIDE, inception.SIDE), mode="bilinear", align_corners=False)
            x = (2 * x - 1).contiguous(memory_format=torch.channels_last)
            # Without TF32, which a GPU would use unasked: ten bits would make its features others than the CPU's.
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                yield self.net.features(x)
