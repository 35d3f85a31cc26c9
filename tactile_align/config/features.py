"""What the encoders and the pooling are made from."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tactile_align.errors import InputError
from tactile_align.facts import Strict

Pooling = Literal["grid", "mean", "mean_block", "attention", "gaussian"]
Tune = Literal["full", "last", "adapters", "frozen"]


class AdapterConfig(Strict):
    """Residual adapters behind a frozen tower; the sizes are the original's."""

    hidden: Annotated[int, Field(ge=1)] = 512
    """Width of each adapter's hidden layer."""
    depth: Annotated[int, Field(ge=1)] = 3
    """Adapters one after the other."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    scale: Annotated[float, Field(gt=0)] = 0.1
    """How much of an adapter's output is added to its input."""


class EncoderConfig(Strict):
    """An open_clip image tower."""

    model: str = "ViT-B-16"
    """open_clip model name."""
    pretrained: str = "laion2b_s34b_b88k"
    """open_clip tag, checkpoint file, or "scratch" for random weights."""
    image_size: tuple[int, int] | None = None
    """(width, height), px; None keeps the model's."""
    fit: Literal["stretch", "letterbox"] = "stretch"
    """How frames are brought to that size; letterbox keeps the aspect and spends tokens on bars."""
    stem: Literal["patch", "conv"] = "patch"
    """conv: convolutions before the transformer; learns sooner from scratch."""
    layers: Annotated[tuple[int, ...], Field(min_length=1)] = (-1,)
    """Blocks whose tokens are taken, counted as Python does; several are laid side by side (multi-scale)."""
    tune: Tune = "full"
    """full: all weights learn; last: the last `last_blocks` used; adapters: small nets behind a fixed tower; frozen."""
    last_blocks: Annotated[int, Field(ge=1)] = 2
    """Blocks that learn with tune = "last"."""
    adapters: AdapterConfig = AdapterConfig()
    checkpointing: bool = False
    """Compute blocks again in the backward pass instead of keeping them: less memory, a third more time."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs the tower under autocast; tokens leave it as float32 and the loss stays float32."""


class FeatureConfig(Strict):
    """How images become the two features the loss compares."""

    vision: EncoderConfig = EncoderConfig()
    touch: EncoderConfig | None = None
    """The touch tower; None shares the vision tower (then both see the same image size)."""
    place: Literal["box", "whole", "elsewhere"] = "box"
    """whole and elsewhere (as large as the box, in the image's farthest corner) are baselines: they should lose."""
    pooling: Pooling = "grid"
    """grid keeps where on the pad the contact is; mean is the original's; see `features.pooling` for all."""
    touch_pooling: Literal["mean", "attention"] = "mean"
    """How the tokens of a touch become one vector."""
    touch_input: Literal["image", "difference"] = "image"
    """difference: the touch encoder sees the touch less its sensor's touch of nothing in the same episode, halved,
    around grey 128, so that gels and lamps that differ from unit to unit look alike."""
    grid: Annotated[int, Field(ge=1)] = 4
    """Side of the sampling grid on the box."""
    margin: Annotated[float, Field(ge=1.0)] = 1.5
    """Factor on the box before pooling: slack for calibration error. mean and gaussian take the box as it is."""
    sigma_px: Annotated[float, Field(ge=0)] | Literal["rig"] = 4.0
    """Standard deviation of the box's place in the encoder's input, px; gaussian only. rig: along u and v for each
    moment, from the covariance that `calibrate hand-eye` wrote for the camera."""
    head: Literal["linear", "mlp"] = "linear"
    """What comes after pooling, on both sides; mlp adds one hidden layer."""
    dim: Annotated[int, Field(ge=2)] = 128
    """Length of h_tau and h_w."""

    @model_validator(mode="after")
    def _widths_are_used(self) -> "FeatureConfig":
        if self.sigma_px == "rig" and self.pooling != "gaussian":
            raise InputError(
                f"sigma_px = 'rig' is the width of pooling = 'gaussian'; got pooling = '{self.pooling}'. Choose that "
                f"pooling or leave sigma_px out"
            )
        return self
