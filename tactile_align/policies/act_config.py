"""What an ACT is built from."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tactile_align.errors import InputError


class ACTConfig(BaseModel):
    """The shape of one ACT; the defaults are the paper's and LeRobot's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state_dim: int = Field(ge=1, description="columns of the robot state")
    action_dim: int = Field(ge=1, description="columns of an action")
    chunk_size: int = Field(default=100, ge=1, description="actions predicted at once; about one second of motion")
    cameras: tuple[str, ...] = Field(default=(), description="camera names, in the order the images come in")

    d_model: int = Field(
        default=512, ge=4, description="token width; a multiple of `heads` and of 4 (2-D sine positions)"
    )
    heads: int = Field(default=8, ge=1, description="attention heads")
    ffn_dim: int = Field(default=3200, ge=1, description="hidden width of the feed-forward blocks")
    encoder_layers: int = Field(default=4, ge=1, description="transformer encoder layers")
    decoder_layers: int = Field(default=1, ge=1, description="1: the original builds 7 and reads only the first")
    vae_layers: int = Field(default=4, ge=1, description="layers of the CVAE encoder")
    latent_dim: int = Field(default=32, ge=1, description="width of the CVAE latent")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="share of activations dropped in training")
    pre_norm: bool = Field(default=False, description="normalise before each block instead of after it")

    use_vae: bool = Field(default=True, description="train with a latent that tells styles of demonstration apart")
    kl_weight: float = Field(
        default=10.0, ge=0, description="weight of the KL term; higher pushes information out of z"
    )
    loss_reduction: Literal["valid", "all"] = Field(
        default="valid",
        description="mean L1 over real steps, or over padded ones too (original ACT, LeRobot up to 0.5)",
    )

    vision: Literal["resnet18", "none"] = Field(
        default="resnet18", description="'none': image tokens come in from outside, as extra tokens"
    )
    vision_weights: str | None = Field(
        default=None,
        description="a torchvision tag (IMAGENET1K_V1), a .safetensors or .pth file, or 'scratch'",
    )
    per_camera_backbones: bool = Field(default=False, description="one ResNet for each camera; LeRobot cannot hold it")
    camera_embedding: bool = Field(default=False, description="a learned vector that says which camera a token is from")

    extra_tokens: int = Field(default=0, ge=0, description="most extra tokens (touch, region, ViT) in one forward pass")
    extra_token_dim: int | None = Field(
        default=None,
        ge=1,
        description="width of the extra tokens as they come in; None: already d_model wide",
    )

    @model_validator(mode="after")
    def _check_shape(self) -> Self:
        if self.d_model % self.heads or self.d_model % 4:
            raise InputError(
                f"d_model must be a multiple of heads ({self.heads}) and of 4; got {self.d_model}. "
                f"Take {-(-self.d_model // (4 * self.heads)) * 4 * self.heads}, or other heads."
            )
        if self.extra_token_dim is not None and self.extra_tokens == 0:
            raise InputError(
                f"extra_token_dim = {self.extra_token_dim} needs extra_tokens >= 1, the most tokens that "
                "will come; got 0. Set extra_tokens, or leave extra_token_dim out."
            )
        return self

    @model_validator(mode="after")
    def _check_vision(self) -> Self:
        if len(set(self.cameras)) != len(self.cameras):
            raise InputError(f"cameras must be different names; got {list(self.cameras)}. Name each camera once.")
        if self.vision == "none":
            given = [k for k in ("cameras", "vision_weights", "per_camera_backbones", "camera_embedding")
                     if getattr(self, k)]  # fmt: skip
            if given:
                raise InputError(
                    f"vision = 'none' has no backbone for {', '.join(given)}. "
                    "Leave them out and bring image tokens in as extra tokens, or set vision = 'resnet18'."
                )
            return self
        if not self.cameras:
            raise InputError("vision = 'resnet18' needs cameras; got none. Name them, or set vision = 'none'.")
        if self.vision_weights is None:
            raise InputError(
                "vision = 'resnet18' needs vision_weights; got none. Give a torchvision tag such as "
                "'IMAGENET1K_V1', a .safetensors or .pth file, or say 'scratch' for a random ResNet."
            )
        return self
