"""The two towers: h_tau of touches, h_w of image regions, and the tokens for a policy."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tactile_align.config.features import FeatureConfig
from tactile_align.features.encoder import encoder_of
from tactile_align.features.pooling import TouchAttention, make_pooling, region_grid
from tactile_align.geometry import boxes

POLICY_GRID = 4


class Features(NamedTuple):
    """Features of B images: `vector` (B, dim) for the loss, `tokens` (B, K, D) for a policy."""

    vector: Tensor
    tokens: Tensor


class Towers(nn.Module):
    """A vision and a touch encoder, separate or shared, and the layers from their tokens to features.

    Args:
        config: Their config.
        fill: Whether to load pretrained weights, as for `encoder_of`.
    """

    def __init__(self, config: FeatureConfig, fill: bool = True) -> None:
        super().__init__()
        self.config = config
        self.vision = encoder_of(config.vision, fill)
        shared = config.touch is None
        self.touch = self.vision if shared or config.touch is None else encoder_of(config.touch, fill)
        self.region_pooling = make_pooling(
            config.pooling, self.vision.width, config.dim, config.grid, self._margin, config.sigma_px
        )
        attention = config.touch_pooling == "attention"
        self.touch_attention = TouchAttention(self.touch.width, config.dim) if attention else None
        self.touch_head = None if attention else nn.Linear(self.touch.width, config.dim)
        mlp = config.head == "mlp"
        self.region_mlp, self.touch_mlp = (_mlp(config.dim) if mlp else nn.Identity() for _ in range(2))

    @property
    def _margin(self) -> float:
        return 1.0 if self.config.place == "whole" else self.config.margin

    @property
    def scratch(self) -> bool:
        """Whether one of the two encoders started from random weights."""
        return self.vision.scratch or self.touch.scratch

    def of_touch(self, images: Tensor) -> Features:
        """Return h_tau, all tokens pooled and projected, of touches (B, H, W, 3) uint8.

        It is the only way a touch enters an encoder, in training and when acting.
        """
        tokens = self.touch.tokens(images)
        grid = F.adaptive_avg_pool2d(tokens.permute(0, 3, 1, 2), POLICY_GRID)
        if self.touch_attention is not None:
            vector = self.touch_attention(tokens)
        else:
            assert self.touch_head is not None
            vector = self.touch_head(tokens.mean(dim=(1, 2)))
        return Features(self.touch_mlp(vector), grid.flatten(2).transpose(1, 2))

    def of_region(self, images: Tensor, box: Tensor, sigma: Tensor | None = None) -> Features:
        """Return h_w of the boxes (B, 4), px, finite, in images (B, H, W, 3) uint8.

        `sigma` (B, 2), px, is the standard deviation of each box's place along u and v, for sigma_px = "rig".
        """
        tokens = self.vision.tokens(images)
        size = self.vision.input_size
        box = place_boxes(box, self.config.place, size)
        vector = self._pooled(tokens, box, sigma)
        around = region_grid(tokens, boxes.enlarge(box, self._margin), size, POLICY_GRID)
        return Features(vector, around.flatten(1, 2))

    def of_boxes(self, images: Tensor, places: Tensor, sigma: Tensor | None = None) -> Tensor:
        """Return (B, P, dim) region features of P boxes (B, P, 4), px, in each of B images; one pass of the encoder.

        `sigma` as in `of_region`; the boxes of one image share it.
        """
        tokens = self.vision.tokens(images)
        return torch.stack([self._pooled(tokens, box.to(tokens.dtype), sigma) for box in places.unbind(1)], dim=1)

    def _pooled(self, tokens: Tensor, box: Tensor, sigma: Tensor | None) -> Tensor:
        widths = () if sigma is None else (sigma,)
        vector: Tensor = self.region_mlp(self.region_pooling(tokens, box, self.vision.input_size, *widths))
        return vector


class OpeningRegion(nn.Module):
    """A replacement of h_w that is computed from the gripper's opening alone.

    A touch depends on the thickness of the object, and so does the opening: the retrieval of this baseline is no
    evidence that the image was used.
    """

    def __init__(self, dim: int, scale_m: float = 0.05) -> None:
        super().__init__()
        self.scale_m = scale_m
        self.net = nn.Sequential(nn.Linear(2, 128), nn.GELU(), nn.Linear(128, 128), nn.GELU(), nn.Linear(128, dim))

    def forward(self, opening: Tensor) -> Tensor:
        """Return (B, dim) of openings (B, 2), metres."""
        vector: Tensor = self.net(opening / self.scale_m)
        return vector


def _mlp(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.GELU(), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))


def place_boxes(box: Tensor, place: str, input_size: tuple[int, int]) -> Tensor:
    """Return the boxes (B, 4), px, in which features are taken: as given, the whole image, or the farthest corner."""
    if place == "box":
        return box
    border = box.new_tensor(input_size) - 0.5
    if place == "whole":
        return torch.cat([box.new_full((2,), -0.5), border]).expand_as(box)
    sides = torch.minimum(box[:, 2:] - box[:, :2], border + 0.5)
    low = (box[:, :2] + box[:, 2:]) / 2 < (border - 0.5) / 2
    start = torch.where(low, border - sides, box.new_full((2,), -0.5))
    return torch.cat([start, start + sides], dim=1)


DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (1, -1), (-1, 1))


def shifted_boxes(box: Tensor, count: int, input_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return boxes moved by their own size, in the first `count` of eight directions that stay in the image.

    Args:
        box: (B, 4), px.
        count: 1 to 8.
        input_size: (width, height) of the image, px; the centre of a moved box must lie in it.

    Returns:
        (B, count, 4) boxes, different within an image, and (B, count) bool, which of them exist: near a border there
        may be fewer than `count`. A missing one is the box itself.
    """
    step = (box[:, 2:] - box[:, :2])[:, None] * box.new_tensor(DIRECTIONS)
    centre = ((box[:, :2] + box[:, 2:]) / 2)[:, None] + step
    inside = ((centre >= -0.5) & (centre <= box.new_tensor(input_size) - 0.5)).all(dim=2)
    first = inside.logical_not().to(torch.uint8).argsort(dim=1, stable=True)[:, :count]
    exist = inside.gather(1, first)
    taken = step.gather(1, first[:, :, None].expand(-1, -1, 2)) * exist[:, :, None]
    return box[:, None] + torch.cat([taken, taken], dim=2), exist
