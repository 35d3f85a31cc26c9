"""What the policy is made from."""

from typing import Annotated, Literal

from pydantic import Field

from tactile_align.facts import Strict


class PolicyConfig(Strict):
    """The ACT policy; the names are the paper's."""

    chunk_size: Annotated[int, Field(ge=1)] = 45
    """Actions predicted at once; about one second of motion."""
    cameras: tuple[str, ...] = ()
    """Cameras ACT's own ResNet sees; none: it sees region and touch tokens only."""
    image_size: tuple[int, int] = (320, 240)
    """(width, height) of those cameras' frames, px."""
    vision_weights: str | None = None
    """Weights of that ResNet: a torchvision tag, a file, or "scratch"."""
    per_camera_backbones: bool = False
    """One ResNet for each camera, as the original; LeRobot's ACT cannot hold that."""
    region_tokens: bool = True
    """Give ACT the tokens of each view's box, from the encoder the alignment loss trains."""
    touch_tokens: bool = True
    """Give ACT the tokens of each touch, from the encoder the alignment loss trains."""
    d_model: Annotated[int, Field(ge=8)] = 512
    heads: Annotated[int, Field(ge=1)] = 8
    ffn_dim: Annotated[int, Field(ge=8)] = 3200
    encoder_layers: Annotated[int, Field(ge=1)] = 4
    decoder_layers: Annotated[int, Field(ge=1)] = 1
    vae_layers: Annotated[int, Field(ge=1)] = 4
    latent_dim: Annotated[int, Field(ge=1)] = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    use_vae: bool = True
    """Train with a latent that tells styles of demonstration apart; False is the original's no_encoder."""
    kl_weight: Annotated[float, Field(ge=0)] = 10.0
    """Weight of the KL term of the CVAE."""
    loss_reduction: Literal["valid", "all"] = "valid"
    """Mean L1 over real steps, or over padded ones too, as the original ACT; that weakens the end of episodes."""
    init_gain: Annotated[float, Field(gt=0)] = 1.0
    """Factor on the initial weight matrices of ACT, its ResNet left out; 0.5 tames outputs that start too large."""
