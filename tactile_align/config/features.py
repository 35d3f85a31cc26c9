"""Config of the encoders and of the pooling."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tactile_align.errors import InputError
from tactile_align.facts import Strict

Pooling = Literal["grid", "mean", "mean_block", "attention", "gaussian"]
Tune = Literal["full", "last", "adapters", "frozen"]


class AdapterConfig(Strict):
    """Residual adapters behind a frozen tower; the defaults are those of the original."""

    hidden: Annotated[int, Field(ge=1)] = 512
    """Width of each adapter's hidden layer."""
    depth: Annotated[int, Field(ge=1)] = 3
    """Number of adapters in a row."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout rate within an adapter."""
    scale: Annotated[float, Field(gt=0)] = 0.1
    """Factor on the output of an adapter before it is added to the adapter's input."""


class EncoderConfig(Strict):
    """An image encoder: an open_clip tower and its training."""

    model: str = "ViT-B-16"
    """Name of the open_clip model."""
    pretrained: str = "laion2b_s34b_b88k"
    """Weights: an open_clip tag, a checkpoint file, or "scratch" for random weights."""
    image_size: tuple[int, int] | None = None
    """(width, height) of the input, px; None: that of the model."""
    fit: Literal["stretch", "letterbox"] = "stretch"
    """Resizing of frames to the input; letterbox keeps their aspect ratio and spends some tokens on empty bars."""
    stem: Literal["patch", "conv"] = "patch"
    """First layers: one patch projection, or convolutions, which learn faster from scratch."""
    layers: Annotated[tuple[int, ...], Field(min_length=1)] = (-1,)
    """Blocks whose output tokens are used, -1 the last one; tokens of several blocks are concatenated (multi-scale)."""
    tune: Tune = "full"
    """Weights that learn. full: all; last: the last `last_blocks` blocks; adapters: small networks behind the frozen
    tower; frozen: none."""
    last_blocks: Annotated[int, Field(ge=1)] = 2
    """Number of blocks that learn with tune = "last"."""
    adapters: AdapterConfig = AdapterConfig()
    """Sizes of the adapters for tune = "adapters"."""
    checkpointing: bool = False
    """Recompute blocks in the backward pass instead of storing them: less memory, about a third more time."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the tower; bfloat16 runs it under autocast. Its tokens and the loss are float32 either way."""


class FeatureConfig(Strict):
    """The two features that the alignment loss compares: h_tau of a touch, h_w of an image region."""

    vision: EncoderConfig = EncoderConfig()
    """Encoder of camera images."""
    touch: EncoderConfig | None = None
    """Encoder of touches; None: the vision encoder, with the same input size."""
    place: Literal["box", "whole", "elsewhere"] = "box"
    """Region of the image for h_w. Baselines that should do worse: whole image; elsewhere, a region of the box's size
    in the farthest corner."""
    pooling: Pooling = "grid"
    """Pooling of the region's tokens to one vector; grid keeps the place of the contact on the pad, mean is the
    original's. `features.pooling` describes all."""
    touch_pooling: Literal["mean", "attention"] = "mean"
    """Pooling of a touch's tokens to one vector."""
    touch_input: Literal["image", "difference"] = "image"
    """Input of the touch encoder: the image, or half its difference from the sensor's no-contact reference of the same
    episode, around grey 128, which removes the differences between gels and lamps of single units."""
    grid: Annotated[int, Field(ge=1)] = 4
    """Side of the sampling grid in the box, for pooling = "grid"."""
    margin: Annotated[float, Field(ge=1.0)] = 1.5
    """Factor on the sides of the box before pooling, for calibration error; mean and gaussian ignore it."""
    sigma_px: Annotated[float, Field(ge=0)] | Literal["rig"] = 4.0
    """Standard deviation of the box's position in the encoder's input, px, for pooling = "gaussian". rig: a value along
    u and v for each moment, from the covariance that `calibrate hand-eye` wrote for the camera."""
    head: Literal["linear", "mlp"] = "linear"
    """Layers after pooling, for both features; mlp adds one hidden layer."""
    dim: Annotated[int, Field(ge=2)] = 128
    """Length of h_tau and h_w."""

    @model_validator(mode="after")
    def _widths_are_used(self) -> "FeatureConfig":
        if self.sigma_px == "rig" and self.pooling != "gaussian":
            raise InputError(
                f"sigma_px = 'rig' needs pooling = 'gaussian'; got '{self.pooling}'. Set it, or leave sigma_px out"
            )
        return self
