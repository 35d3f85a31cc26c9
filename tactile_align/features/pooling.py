"""How the tokens of a region become one vector."""

from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from tactile_align.geometry import boxes
from tactile_align.geometry.images import ImageMap
from tactile_align.projection.tokens import token_weights

Pooling = Literal["grid", "mean"]


def region_grid(tokens: Tensor, box: Tensor, input_size: tuple[int, int], size: int = 4) -> Tensor:
    """Sample a size x size grid of features inside each box (RoI-align), which keeps WHERE on the pad.

    Args:
        tokens: (B, rows, columns, D).
        box: (B, 4) in the encoder's input image, px.
        input_size: (width, height) of that image, px.
        size: Side of the grid.

    Returns:
        (B, size, size, D).
    """
    width, height = input_size
    rows, columns = tokens.shape[1:3]
    # House pixels have their centres at whole numbers, roi_align's at halves.
    in_tokens = (box + 0.5) * box.new_tensor([columns / width, rows / height] * 2)
    index = torch.arange(len(box), device=box.device, dtype=tokens.dtype)[:, None]
    boxes_of_batch = torch.cat([index, in_tokens.to(tokens.dtype)], dim=1)
    features = roi_align(tokens.permute(0, 3, 1, 2), boxes_of_batch, (size, size), aligned=True)
    return features.permute(0, 2, 3, 1)


class GridPooling(nn.Module):
    """RoI-align on the box, flatten, one linear layer.

    Args:
        width: D of the tokens.
        out: Length of the feature.
        size: Side of the sampling grid.
        margin: Factor on the box's sides before sampling; slack for calibration error.
    """

    def __init__(self, width: int, out: int, size: int = 4, margin: float = 1.5) -> None:
        super().__init__()
        self.size, self.margin = size, margin
        self.project = nn.Linear(size * size * width, out)

    def forward(self, tokens: Tensor, box: Tensor, input_size: tuple[int, int]) -> Tensor:
        """Return (B, out) of tokens (B, rows, columns, D) and boxes (B, 4), px of the encoder's input."""
        features = region_grid(tokens, boxes.enlarge(box, self.margin), input_size, self.size)
        projected: Tensor = self.project(features.flatten(1))
        return projected


class MeanPooling(nn.Module):
    """Mean of the tokens weighted by the area the box covers, one linear layer.

    The form of the original and of DreamTacVLA. It throws away where on the pad the contact is; from
    scratch it learns little beyond the gripper's opening.
    """

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, out)

    def forward(self, tokens: Tensor, box: Tensor, input_size: tuple[int, int]) -> Tensor:
        """Return (B, out) of tokens (B, rows, columns, D) and boxes (B, 4), px of the encoder's input."""
        weights = token_weights(box, ImageMap.identity(*input_size), (tokens.shape[1], tokens.shape[2]))
        weights = weights / weights.sum(dim=(1, 2), keepdim=True)
        pooled = torch.einsum("brc,brcd->bd", weights.to(tokens.dtype), tokens)
        projected: Tensor = self.project(pooled)
        return projected


def make_pooling(kind: Pooling, width: int, out: int, size: int = 4, margin: float = 1.5) -> nn.Module:
    """Build a pooling by name; "grid" is the default of the toolkit."""
    if kind == "grid":
        return GridPooling(width, out, size, margin)
    if kind == "mean":
        return MeanPooling(width, out)
    raise ValueError(f"pooling must be 'grid' or 'mean'; got '{kind}'")
