"""A convolutional stem for transformers trained from scratch."""

import math

from torch import Tensor, nn

from tactile_align.errors import InputError


class ConvStem(nn.Sequential):
    """Stride-2 convolutions in place of the single patch projection, ending on the same token grid.

    Small transformers trained from scratch leave chance much sooner with it ("Early Convolutions Help
    Transformers See Better", arXiv 2106.14881). Group normalisation keeps a row independent of its batch.

    Args:
        width: Channels of a token.
        patch: Patch side, px; a power of two.

    Raises:
        ValueError: `patch` is not a power of two.
    """

    def __init__(self, width: int, patch: int) -> None:
        steps = round(math.log2(patch))
        if patch < 2 or 2**steps != patch:
            raise InputError(f"a conv stem halves the image step by step, so the patch must be 2, 4, 8...; got {patch}")
        layers: list[nn.Module] = []
        channels = 3
        for step in range(steps):
            out = max(width >> (steps - 1 - step), 8)
            layers += [
                nn.Conv2d(channels, out, 3, stride=2, padding=1, bias=False),
                nn.GroupNorm(_groups(out), out),
                nn.GELU(),
            ]
            channels = out
        super().__init__(*layers, nn.Conv2d(channels, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, width, H / patch, W / patch) of images (B, 3, H, W)."""
        return super().forward(x)


def _groups(channels: int) -> int:
    return next(g for g in (8, 4, 2, 1) if channels % g == 0)
