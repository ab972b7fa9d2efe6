"""U-Nets as published, each with its number of parameters."""

from unnoise.nets.unet import UNet


def ddpm_cifar10(channels: int = 3) -> UNet:
    """The CIFAR-10 network of DDPM: 35,746,307 parameters, as in the original.

    Told index / 1000. Differences that hold no parameters: halvings are padded alike on both sides (there: at the far
    end), group norms have eps 1e-5 (there: 1e-6), sines come after cosines.

    Source: Ho et al. 2020, arXiv 2006.11239, appendix B.

    Args:
        channels: of the images; the number of parameters is that of 3.
    """
    return UNet(
        channels=channels,
        width=128,
        multipliers=(1, 2, 2, 2),
        blocks=2,
        attention=(2,),
        head_width=None,
        norm="additive",
        resample="strided",
        dropout=0.1,
    )


def adm(size: int, *, classes: int | None = 1000, learned_variance: bool = True, channels: int = 3) -> UNet:
    """The ImageNet network of ADM for images of size x size pixels.

        size    parameters     multipliers             attends at
        64      295,905,222    1, 2, 3, 4              factor 2, 4, 8: 32, 16, 8 pixels
        128     421,530,630    1, 1, 2, 3, 4           factor 4, 8, 16
        256     553,839,110    1, 1, 2, 2, 4, 4        factor 8, 16, 32
        512     558,998,662    1/2, 1, 1, 2, 2, 4, 4   factor 16, 32, 64

    These are the original's numbers and one row of the label embedding (4 width = 768 or 1024) for the null label,
    which the original lacks. Told index / 1000. The released weights for 128 pixels have 4 heads everywhere in place of
    64 channels a head, with as many parameters.

    Source: Dhariwal & Nichol 2021, arXiv 2105.05233, tables 1 and 11.

    Args:
        size: pixels a side: 64, 128, 256 or 512.
        classes: number of classes of the condition `label`; None: unconditional.
        learned_variance: twice as many output channels.
        channels: of the images.

    Raises:
        ValueError: for other sizes.
    """
    multipliers: dict[int, tuple[float, ...]] = {
        64: (1, 2, 3, 4),
        128: (1, 1, 2, 3, 4),
        256: (1, 1, 2, 2, 4, 4),
        512: (0.5, 1, 1, 2, 2, 4, 4),
    }
    if size not in multipliers:
        raise ValueError(f"ADM was published for {', '.join(map(str, multipliers))} pixels, not for {size}")
    return UNet(
        channels=channels,
        out_channels=2 * channels if learned_variance else None,
        width=192 if size == 64 else 256,
        multipliers=multipliers[size],
        blocks=3 if size == 64 else 2,
        attention=(size // 32, size // 16, size // 8),
        head_width=64,
        norm="adaptive",
        resample="block",
        dropout=0.1 if size == 64 else 0.0,
        labels=None if classes is None else {"label": classes},
    )
