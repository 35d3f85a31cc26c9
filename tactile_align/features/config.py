"""What the encoders and the pooling are made from."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EncoderConfig(_Config):
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
    frozen: bool = False
    """Keep the tower's weights; only the layers after it learn."""


class FeatureConfig(_Config):
    """How images become the two features the loss compares."""

    vision: EncoderConfig = EncoderConfig()
    touch: EncoderConfig | None = None
    """The touch tower; None shares the vision tower (then both see the same image size)."""
    pooling: Literal["grid", "mean"] = "grid"
    """grid keeps where on the pad the contact is; mean is the original's."""
    grid: Annotated[int, Field(ge=1)] = 4
    """Side of the sampling grid on the box."""
    margin: Annotated[float, Field(ge=1.0)] = 1.5
    """Factor on the box before grid pooling: slack for calibration error."""
    dim: Annotated[int, Field(ge=2)] = 128
    """Length of h_tau and h_w."""
