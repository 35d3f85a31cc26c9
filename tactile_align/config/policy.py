"""Config of the policy."""

from typing import Annotated, Literal

from pydantic import Field

from tactile_align.facts import Strict


class PolicyConfig(Strict):
    """The ACT policy; the names are those of the paper."""

    chunk_size: Annotated[int, Field(ge=1)] = 45
    """Number of actions predicted at once; 45 are about one second of motion."""
    cameras: tuple[str, ...] = ()
    """Cameras whose whole frames ACT sees through a ResNet; none: ACT sees only region and touch tokens."""
    image_size: tuple[int, int] = (320, 240)
    """(width, height) to which the frames of `cameras` are resized, px."""
    vision_weights: str | None = None
    """Initial weights of the ResNet: a torchvision tag, a file, or "scratch"."""
    per_camera_backbones: bool = False
    """Use one ResNet for each camera, as the original; such a policy cannot be exported to LeRobot's ACT."""
    region_tokens: bool = True
    """Give ACT the tokens of each view's box, from the encoder that the alignment loss trains."""
    touch_tokens: bool = True
    """Give ACT the tokens of each touch, from the encoder that the alignment loss trains."""
    d_model: Annotated[int, Field(ge=8)] = 512
    """Width of the transformer."""
    heads: Annotated[int, Field(ge=1)] = 8
    """Number of attention heads; must divide d_model."""
    ffn_dim: Annotated[int, Field(ge=8)] = 3200
    """Width of the feed-forward layers."""
    encoder_layers: Annotated[int, Field(ge=1)] = 4
    """Number of transformer encoder layers."""
    decoder_layers: Annotated[int, Field(ge=1)] = 1
    """Number of transformer decoder layers."""
    vae_layers: Annotated[int, Field(ge=1)] = 4
    """Number of layers of the encoder of the latent."""
    latent_dim: Annotated[int, Field(ge=1)] = 32
    """Length of the latent."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout rate of the transformer."""
    use_vae: bool = True
    """Train with a latent that represents the style of a demonstration (CVAE); False is the original's no_encoder."""
    kl_weight: Annotated[float, Field(ge=0)] = 10.0
    """Weight of the KL term of the CVAE."""
    loss_reduction: Literal["valid", "all"] = "valid"
    """Steps over which the L1 loss is averaged: the recorded ones, or all including padding, as the original ACT, which
    weakens the end of episodes."""
    init_gain: Annotated[float, Field(gt=0)] = 1.0
    """Factor on the initial weight matrices of ACT without its ResNet; 0.5 reduces too large initial outputs."""
