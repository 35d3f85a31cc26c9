"""Towers: the vision encoder and the touch encoder, with the layers that compute features and policy tokens.

h_tau is the feature of a touch image; h_w is the feature of an image region.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tactile_align.config.features import FeatureConfig
from tactile_align.features.encoder import encoder_of
from tactile_align.features.pooling import TimePooling, TouchAttention, make_pooling, region_grid
from tactile_align.geometry import boxes

POLICY_GRID = 4
FRAME_GRID = 7
"""Largest number of rows and of columns of tokens that a policy gets of a camera's whole frame.

7 x 7 tokens made a step of a small ACT 5 % longer (12 x 12 tokens: 28 %). The 14 x 14 tokens of a ViT-B-16 are averaged
in equal blocks of 2 x 2.
"""


class Features(NamedTuple):
    """Features of B images.

    Attributes:
        vector: (B, dim) feature of each image for the alignment loss.
        tokens: (B, K, D) K tokens of each image, of length D, for a policy.
    """

    vector: Tensor
    tokens: Tensor


class Towers(nn.Module):
    """Vision encoder and touch encoder, separate or shared, and the layers that compute features from their tokens.

    In the methods, B is the number of images, H and W are their height and width, and dim is the length of a feature.

    Args:
        config: Options of the encoders and of the pooling.
        fill: Whether to load pretrained weights, as in `encoder_of`.
    """

    def __init__(self, config: FeatureConfig, fill: bool = True) -> None:
        super().__init__()
        self.config = config
        self.vision = encoder_of(config.vision, fill)
        shared = config.touch is None
        frames = config.touch_frames
        stacked = frames if config.touch_time == "channels" else 1
        self.touch = self.vision if shared or config.touch is None else encoder_of(config.touch, fill, stacked)
        self.region_pooling = make_pooling(
            config.pooling, self.vision.width, config.dim, config.grid, self._margin, config.sigma_px
        )
        attention = config.touch_pooling == "attention"
        self.touch_attention = TouchAttention(self.touch.width, config.dim) if attention else None
        self.touch_head = None if attention else nn.Linear(self.touch.width, config.dim)
        hidden = config.head_width or 2 * config.dim
        self.region_mlp = nn.Identity() if config.head == "linear" else _mlp(config.dim, hidden)
        self.touch_mlp = _mlp(config.dim, hidden) if config.head == "mlp" else nn.Identity()
        self.touch_over_time: TimePooling | None = None
        if config.touch_time != "channels":
            self.touch_over_time = TimePooling(self.touch.width, frames, config.touch_time)

    @property
    def _margin(self) -> float:
        return 1.0 if self.config.place == "whole" else self.config.margin

    @property
    def scratch(self) -> bool:
        """Whether at least one of the two encoders has random initial weights."""
        return self.vision.scratch or self.touch.scratch

    def of_touch(self, images: Tensor) -> Features:
        """Return the features of B touches (B, H, W, 3 K) uint8. `vector` is h_tau, computed from all tokens.

        Each touch is the K images of `FeatureConfig.touch_frames`, the newest first. Their tokens are pooled over time
        first.

        Training and the acting policy both use this method, so they encode touch images in the same way. The caller
        must preprocess the images with `moments.inputs.input_image`.
        """
        tokens = self._touch_tokens(images)
        grid = F.adaptive_avg_pool2d(tokens.permute(0, 3, 1, 2), POLICY_GRID)
        if self.touch_attention is not None:
            vector = self.touch_attention(tokens)
        else:
            assert self.touch_head is not None
            vector = self.touch_head(tokens.mean(dim=(1, 2)))
        return Features(self.touch_mlp(vector), grid.flatten(2).transpose(1, 2))

    def _touch_tokens(self, images: Tensor) -> Tensor:
        if self.touch_over_time is None:
            return self.touch.tokens(images)
        frames, (width, height) = self.config.touch_frames, self.touch.input_size
        if tuple(images.shape[1:]) != (height, width, 3 * frames):
            raise ValueError(
                f"a window of {frames} touch images must have shape {(len(images), height, width, 3 * frames)}; got "
                f"{tuple(images.shape)}. Stack the images as channels with moments.inputs.window"
            )
        each = images.unflatten(3, (frames, 3)).permute(0, 3, 1, 2, 4).flatten(0, 1)
        tokens: Tensor = self.touch_over_time(self.touch.tokens(each).unflatten(0, (len(images), frames)))
        return tokens

    def of_region(self, images: Tensor, box: Tensor, sigma: Tensor | None = None) -> Features:
        """Return the features of one region in each of B images (B, H, W, 3) uint8. `vector` is h_w.

        The regions are the finite boxes `box` (B, 4), px, or the regions that `place_boxes` returns for them.

        `sigma` (B, 2) is the standard deviation of each box's position along u (right) and v (down), px, for sigma_px =
        "rig".
        """
        return self.at_box(self.vision.tokens(images), box, sigma)

    def at_box(self, tokens: Tensor, box: Tensor, sigma: Tensor | None = None) -> Features:
        """Return the features of `of_region` for boxes (B, 4), px, from the vision encoder's tokens of the B images."""
        size = self.vision.input_size
        box = place_boxes(box, self.config.place, size)
        vector = self._pooled(tokens, box, sigma)
        around = region_grid(tokens, boxes.enlarge(box, self._margin), size, POLICY_GRID)
        return Features(vector, around.flatten(1, 2))

    def of_boxes(self, images: Tensor, places: Tensor, sigma: Tensor | None = None) -> Tensor:
        """Return the region features (B, P, dim) of P boxes in each of B images (B, H, W, 3) uint8.

        `places` (B, P, 4), px, are the boxes. The encoder runs once. `sigma` is that of `of_region`, and applies to all
        boxes of an image.
        """
        return self.at_boxes(self.vision.tokens(images), places, sigma)

    def at_boxes(self, tokens: Tensor, places: Tensor, sigma: Tensor | None = None) -> Tensor:
        """Return the features of `of_boxes` for P boxes in each of B images, from the vision encoder's tokens."""
        return torch.stack([self._pooled(tokens, box.to(tokens.dtype), sigma) for box in places.unbind(1)], dim=1)

    @property
    def frame_grid(self) -> tuple[int, int]:
        """(rows, columns) of the tokens that a policy gets of a whole frame, each at most FRAME_GRID."""
        rows, columns = self.vision.grid
        return min(rows, FRAME_GRID), min(columns, FRAME_GRID)

    def of_frame(self, tokens: Tensor) -> Tensor:
        """Return the tokens (B, K, D) of whole frames for a policy, averaged to the K cells of `frame_grid`.

        `tokens` (B, rows, columns, D) are the vision tokens of the frames, each of length D.
        """
        return F.adaptive_avg_pool2d(tokens.permute(0, 3, 1, 2), self.frame_grid).flatten(2).transpose(1, 2)

    def _pooled(self, tokens: Tensor, box: Tensor, sigma: Tensor | None) -> Tensor:
        widths = () if sigma is None else (sigma,)
        vector: Tensor = self.region_mlp(self.region_pooling(tokens, box, self.vision.input_size, *widths))
        return vector


class OpeningRegion(nn.Module):
    """Baseline that computes the region feature h_w from the opening of the gripper alone, without an image.

    Both the touch and the opening depend on the thickness of the object. A retrieval score that this baseline reaches
    is therefore no evidence that the image was used.
    """

    def __init__(self, dim: int, scale_m: float = 0.05) -> None:
        super().__init__()
        self.scale_m = scale_m
        self.net = nn.Sequential(nn.Linear(2, 128), nn.GELU(), nn.Linear(128, 128), nn.GELU(), nn.Linear(128, dim))

    def forward(self, opening: Tensor) -> Tensor:
        """Return features (B, dim) of the openings (B, 2) of both fingers in B moments, m."""
        vector: Tensor = self.net(opening / self.scale_m)
        return vector


def _mlp(dim: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.GELU(), nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))


def place_boxes(box: Tensor, place: str, input_size: tuple[int, int]) -> Tensor:
    """Return the boxes (B, 4), px, in which the features of B images are computed.

    place = "box": the given boxes `box`. "whole": the whole image. "elsewhere": boxes of the same size as `box`, in the
    corner of the image that is farthest from `box`.
    """
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
    """Return boxes that are shifted by their own size, in the first `count` of eight directions that stay in the image.

    Args:
        box: (B, 4) box of each of B images, px.
        count: Number of shifted boxes, 1 to 8.
        input_size: (width, height) of the image, px. The centre of a shifted box must lie in the image.

    Returns:
        (B, count, 4) boxes, px, which differ from each other within an image, and (B, count) bool: whether each box
        exists. Near the image border fewer than `count` boxes may exist. A missing box equals the original box.
    """
    step = (box[:, 2:] - box[:, :2])[:, None] * box.new_tensor(DIRECTIONS)
    centre = ((box[:, :2] + box[:, 2:]) / 2)[:, None] + step
    inside = ((centre >= -0.5) & (centre <= box.new_tensor(input_size) - 0.5)).all(dim=2)
    first = inside.logical_not().to(torch.uint8).argsort(dim=1, stable=True)[:, :count]
    exist = inside.gather(1, first)
    taken = step.gather(1, first[:, :, None].expand(-1, -1, 2)) * exist[:, :, None]
    return box[:, None] + torch.cat([taken, taken], dim=2), exist
