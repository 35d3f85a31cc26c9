"""Poolings: layers that turn the tokens of an image region into one vector.

| name | method | keeps the position of the contact on the pad |
|---|---|---|
| grid | the default: RoI-align on the box, flatten, one linear layer | yes |
| attention | learnt queries attend to the tokens in the box, with positions relative to the box | yes, after training |
| mean_block | one transformer block over all tokens, then the mean over the box | only if the block encodes it |
| mean | mean of the tokens, weighted by the area that the box covers, as in the original implementation | no |
| gaussian | as mean, with the box blurred according to the uncertainty of its position | no |

Every pooling first enlarges the sides of the box by the factor `margin`, so that poolings with equal margins read equal
areas. The original implementation is mean with margin = 1.
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from tactile_align.config.features import Pooling
from tactile_align.errors import InputError
from tactile_align.geometry import boxes
from tactile_align.geometry.images import ImageMap
from tactile_align.projection.tokens import token_weights

SHARPEST_PX = 0.01
"""Smallest standard deviation of the blur of a box, px. A smaller value would only reduce numerical accuracy."""
POOLINGS = get_args(Pooling)


def region_grid(tokens: Tensor, box: Tensor, input_size: tuple[int, int], size: int = 4) -> Tensor:
    """Return a size x size grid of features sampled inside each box by RoI-align.

    Args:
        tokens: (B, rows, columns, D) tokens of B images, each of length D.
        box: (B, 4) box of each image, in the encoder's input image, px.
        input_size: (width, height) of the input image, px.
        size: Number of samples along each side of the grid.

    Returns:
        (B, size, size, D) features.
    """
    width, height = input_size
    rows, columns = tokens.shape[1:3]
    # In our convention pixel centres have integer coordinates; for roi_align they end in .5.
    in_tokens = (box + 0.5) * box.new_tensor([columns / width, rows / height] * 2)
    index = torch.arange(len(box), device=box.device, dtype=tokens.dtype)[:, None]
    boxes_of_batch = torch.cat([index, in_tokens.to(tokens.dtype)], dim=1)
    features = roi_align(tokens.permute(0, 3, 1, 2), boxes_of_batch, (size, size), aligned=True)
    return features.permute(0, 2, 3, 1)


def blurred_weights(box: Tensor, input_size: tuple[int, int], grid: tuple[int, int], sigma: float | Tensor) -> Tensor:
    """Return the expected fraction of each token's area that a box covers, if the position of the box is uncertain.

    The box is convolved with a Gaussian and averaged over each token. Both are computed in closed form. For sigma -> 0
    the result equals that of `token_weights`.

    Args:
        box: (B, 4) B boxes in the encoder's input image, px.
        input_size: (width, height) of the input image, px.
        grid: (rows, columns) of the token grid.
        sigma: Standard deviation of the box's position along u (right) and v (down), px. Either one number, or (B, 2)
            values that are computed from the covariance of the calibration by `projection.sensor_box.pixel_sigma`.
            Values below SHARPEST_PX are raised to SHARPEST_PX.

    Returns:
        (B, rows, columns) fractions from 0 to 1.
    """
    spread = torch.as_tensor(sigma, dtype=box.dtype, device=box.device).expand(*box.shape[:-1], 2)
    spread = spread.clamp(min=SHARPEST_PX)
    along = []
    for axis, (length, count) in enumerate(zip(input_size, (grid[1], grid[0]), strict=True)):
        side = length / count
        edge = torch.arange(count + 1, dtype=box.dtype, device=box.device) * side - 0.5
        low, high, s = box[..., axis, None], box[..., axis + 2, None], spread[..., axis, None]
        primitive = s * (_primitive_of_cdf((edge - low) / s) - _primitive_of_cdf((edge - high) / s))
        along.append(primitive.diff(dim=-1) / side)
    return along[1][..., :, None] * along[0][..., None, :]


def _primitive_of_cdf(x: Tensor) -> Tensor:
    """Return the integral of the cumulative normal distribution from -infinity to x, which is x Phi(x) + phi(x)."""
    return x * torch.special.ndtr(x) + torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)


class GridPooling(nn.Module):
    """Pooling by RoI-align on the box, flattening and one linear layer.

    Args:
        width: D, the length of a token.
        out: Length of the feature.
        size: Number of samples along each side of the sampling grid.
        margin: Factor that enlarges the sides of the box before sampling, to tolerate calibration error.
    """

    def __init__(self, width: int, out: int, size: int = 4, margin: float = 1.5) -> None:
        super().__init__()
        self.size, self.margin = size, margin
        self.project = nn.Linear(size * size * width, out)

    def forward(self, tokens: Tensor, box: Tensor, input_size: tuple[int, int]) -> Tensor:
        """Return features (B, out) of tokens (B, rows, columns, D) and boxes (B, 4) in the input image, px."""
        features = region_grid(tokens, boxes.enlarge(box, self.margin), input_size, self.size)
        projected: Tensor = self.project(features.flatten(1))
        return projected


class MeanPooling(nn.Module):
    """Pooling by the mean of the tokens, weighted by the area that the box covers, and one linear layer.

    The original implementation and DreamTacVLA use this pooling. The mean does not keep the position of the contact on
    the pad. Trained from scratch, it learns little more than the opening of the gripper.

    Args:
        width: D, the length of a token.
        out: Length of the feature.
        block: Whether all tokens first pass through a trainable transformer block.
        margin: Factor that enlarges the sides of the box.
        sigma_px: Standard deviation of the box's position, px. 0: the box is exact. "rig": `forward` needs a value for
            each box.
    """

    def __init__(
        self, width: int, out: int, block: bool = False, margin: float = 1.5, sigma_px: float | Literal["rig"] = 0.0
    ) -> None:
        super().__init__()
        self.margin = margin
        self.sigma_px, self.fixed_px = sigma_px, 0.0 if sigma_px == "rig" else sigma_px
        self.block = _transformer_block(width) if block else None
        self.project = nn.Linear(width, out)

    def forward(self, tokens: Tensor, box: Tensor, input_size: tuple[int, int], sigma: Tensor | None = None) -> Tensor:
        """Return features (B, out) of tokens (B, rows, columns, D) and boxes (B, 4) in the input image, px.

        `sigma` (B, 2) is the standard deviation of each box's position along u (right) and v (down), px; required if
        sigma_px = "rig".

        Raises:
            ValueError: `sigma` is given without sigma_px = "rig", or is missing with sigma_px = "rig".
        """
        grid = (tokens.shape[1], tokens.shape[2])
        if (self.sigma_px == "rig") != (sigma is not None):
            if sigma is None:
                raise ValueError(
                    "sigma is missing; sigma_px = 'rig' needs a sigma for each box. Pass the view's `sigma`"
                )
            raise ValueError(
                f"sigma was given, but sigma_px = {self.sigma_px} already applies to all boxes. Omit sigma"
            )
        width = self.fixed_px if sigma is None else sigma
        box = boxes.enlarge(box, self.margin)
        if isinstance(width, Tensor) or width > 0:
            weights = blurred_weights(box, input_size, grid, width)
        else:
            weights = token_weights(box, ImageMap.identity(*input_size), grid)
        weights = weights / weights.sum(dim=(1, 2), keepdim=True)
        if self.block is not None:
            tokens = self.block(tokens.flatten(1, 2)).unflatten(1, grid)
        pooled = torch.einsum("brc,brcd->bd", weights.to(tokens.dtype), tokens)
        projected: Tensor = self.project(pooled)
        return projected


class AttentionPooling(nn.Module):
    """Pooling by learnt queries that attend to the tokens in the box and to their positions relative to the box.

    Args:
        width: D, the length of a token.
        out: Length of the feature.
        margin: Factor that enlarges the sides of the box. The queries attend to the tokens that the enlarged box
            covers.
        queries: Number of queries. The results of the queries are concatenated.
        heads: Number of attention heads. D must be divisible by this number.
    """

    def __init__(self, width: int, out: int, margin: float = 1.5, queries: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.margin = margin
        self.query = nn.Parameter(torch.randn(queries, width) * width**-0.5)
        self.norm = nn.LayerNorm(width)
        self.position = nn.Sequential(nn.Linear(10, width), nn.GELU(), nn.Linear(width, width))
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.project = nn.Linear(queries * width, out)

    def forward(self, tokens: Tensor, box: Tensor, input_size: tuple[int, int]) -> Tensor:
        """Return features (B, out) of tokens (B, rows, columns, D) and boxes (B, 4) in the input image, px."""
        grid = (tokens.shape[1], tokens.shape[2])
        wide = boxes.enlarge(box, self.margin)
        covered = token_weights(wide, ImageMap.identity(*input_size), grid).flatten(1)
        # Partly covered tokens are weighted by the covered fraction. If a box covers no token, all tokens are used.
        bias = torch.where(covered > 0, covered.clamp(min=1e-6).log(), -torch.inf)
        bias = torch.where((covered > 0).any(dim=1, keepdim=True), bias, torch.zeros_like(bias))
        place = self.position(_relative_places(box, input_size, grid).to(tokens.dtype))
        keys = self.norm(tokens.flatten(1, 2)) + place
        heads, queries = self.attention.num_heads, self.query.expand(len(tokens), -1, -1)
        mask = bias.to(tokens.dtype)[:, None].expand(-1, queries.shape[1], -1).repeat_interleave(heads, dim=0)
        attended, _ = self.attention(queries, keys, keys, attn_mask=mask, need_weights=False)
        projected: Tensor = self.project(attended.flatten(1))
        return projected


def _relative_places(box: Tensor, input_size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Return (B, rows * columns, 10): positions of token centres relative to each of B boxes, with sines and cosines.

    A position inside the box is from -1 to 1 along each axis. The 10 numbers of a token are its position along u and v,
    and sine and cosine of pi / 2 and of pi times that position.
    """
    rows, columns = grid
    u = (torch.arange(columns, device=box.device, dtype=box.dtype) + 0.5) * input_size[0] / columns - 0.5
    v = (torch.arange(rows, device=box.device, dtype=box.dtype) + 0.5) * input_size[1] / rows - 0.5
    centre, half = (box[:, :2] + box[:, 2:]) / 2, (box[:, 2:] - box[:, :2]) / 2
    x = ((u - centre[:, :1]) / half[:, :1])[:, None, :].expand(-1, rows, -1)
    y = ((v - centre[:, 1:]) / half[:, 1:])[:, :, None].expand(-1, -1, columns)
    place = torch.stack([x, y], dim=-1).flatten(1, 2)
    angle = torch.cat([place * math.pi / 2, place * math.pi], dim=-1)
    return torch.cat([place, angle.sin(), angle.cos()], dim=-1)


class TouchAttention(nn.Module):
    """Pooling by learnt queries that attend to all tokens of a touch image.

    Args:
        width: D, the length of a token.
        out: Length of the feature.
        queries: Number of queries. The results of the queries are concatenated.
    """

    def __init__(self, width: int, out: int, queries: int = 4) -> None:
        super().__init__()
        self.pool = AttentionPooling(width, out, margin=1.0, queries=queries)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return features (B, out) of the tokens (B, rows, columns, D) of B images."""
        size = (tokens.shape[2], tokens.shape[1])
        whole = tokens.new_tensor([-0.5, -0.5, size[0] - 0.5, size[1] - 0.5]).expand(len(tokens), 4)
        pooled: Tensor = self.pool(tokens, whole, size)
        return pooled


class TimePooling(nn.Module):
    """Pooling of the tokens of K images over time, separately at each place of the image.

    A learnt vector states the age of an image; one transformer block lets the K tokens at a place attend to each other.
    Nothing is averaged with equal weights, so the order of the images is kept.

    Args:
        width: D, the length of a token.
        frames: K, the number of images.
        kind: last: the token of the newest image after the block. attention: the mean of the K tokens, whose weights
            are a softmax over time of a score that one linear layer computes from each token.
    """

    def __init__(self, width: int, frames: int, kind: Literal["last", "attention"]) -> None:
        super().__init__()
        self.age = nn.Parameter(torch.randn(frames, width) * 0.02)
        self.block = _transformer_block(width)
        self.score = nn.Linear(width, 1) if kind == "attention" else None

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens (B, rows, columns, D) of tokens (B, K, rows, columns, D), the newest image first."""
        places = tokens.permute(0, 2, 3, 1, 4)
        steps = self.block(places.flatten(0, 2) + self.age)
        pooled = steps[:, 0] if self.score is None else (self.score(steps).softmax(dim=1) * steps).sum(dim=1)
        return pooled.unflatten(0, places.shape[:3])


def _transformer_block(width: int) -> nn.TransformerEncoderLayer:
    heads = next(h for h in (8, 6, 4, 3, 2, 1) if width % h == 0)
    return nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)


def make_pooling(
    kind: Pooling, width: int, out: int, size: int = 4, margin: float = 1.5, sigma_px: float | Literal["rig"] = 4.0
) -> nn.Module:
    """Return the pooling with the given name. The other arguments are those of the pooling classes.

    Raises:
        InputError: The name is unknown.
    """
    if kind == "grid":
        return GridPooling(width, out, size, margin)
    if kind in ("mean", "mean_block"):
        return MeanPooling(width, out, kind == "mean_block", margin)
    if kind == "gaussian":
        return MeanPooling(width, out, margin=margin, sigma_px=sigma_px)
    if kind == "attention":
        return AttentionPooling(width, out, margin)
    raise InputError(f"unknown pooling '{kind}'; known: {', '.join(POOLINGS)}. Choose one of these poolings")
