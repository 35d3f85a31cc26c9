"""Configuration of the policy."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tactile_align.errors import InputError
from tactile_align.facts import Strict

OF_RESNET = ("cameras", "image_size", "vision_weights", "per_camera_backbones")
"""Options that only vision = "resnet18" has."""
OF_ACT = ("decoder_layers", "vae_layers", "latent_dim", "use_vae", "kl_weight", "loss_reduction", "init_gain")
"""Options that only head = "act" has."""
Head = Literal["act", "flow", "diffusion"]
QUARTERS = ("q1", "q2", "q3", "q4")
"""Quarters of a denoiser's noise levels in the log, from little noise to pure noise. In q4 only the observation tells
the action."""


class DenoiserConfig(Strict):
    """Options of the denoiser, the network of the heads "flow" and "diffusion"."""

    layers: Annotated[int, Field(ge=1)] = 4
    """Number of transformer layers of the denoiser. Its width and attention heads are those of the policy."""
    draws: Annotated[int, Field(ge=1)] = 4
    """Number of noises per moment in a training step. They share the memory of the encoder, which costs most."""
    sample_steps: Annotated[int, Field(ge=1)] = 10
    """Number of passes of the denoiser in which noise becomes a chunk of actions."""
    train_steps: Annotated[int, Field(ge=2)] = 100
    """Number of noise levels in training. Only for head = "diffusion"; flow has a level for every number in 0..1."""


class PolicyConfig(Strict):
    """Options of the policy. The field names follow the ACT paper."""

    head: Head = "act"
    """Network that turns the encoder's memory into actions. act: the decoder of ACT, which predicts one chunk for each
    observation. flow and diffusion: a denoiser that turns random noise into one of the chunks that were demonstrated
    after such an observation, by flow matching or by noise prediction (DDIM). Use these if several ways are right."""
    denoiser: DenoiserConfig = DenoiserConfig()
    """Denoiser of the heads flow and diffusion."""
    execute: Annotated[int, Field(ge=1)] | None = None
    """Number of actions of a chunk that are executed before the policy predicts the next chunk (receding horizon).
    None: the caller decides; roll-outs execute 3."""
    chunk_size: Annotated[int, Field(ge=1)] = 45
    """Number of future actions that the policy predicts at once. 45 actions are about one second of motion."""
    vision: Literal["tower", "resnet18", "none"] = "tower"
    """How ACT receives whole camera frames. tower: as tokens of the vision encoder that the alignment loss trains; the
    frames are those of the cameras of all views. resnet18: through a ResNet that is part of ACT, as in the original
    ACT; the frames are those of `cameras`. none: not at all."""
    cameras: tuple[str, ...] = ()
    """Names of the cameras whose whole frames ACT receives through its ResNet. Required for vision = "resnet18"."""
    image_size: tuple[int, int] = (320, 240)
    """(width, height) to which the whole frames of `cameras` are resized, px. Only for vision = "resnet18"."""
    vision_weights: str | None = None
    """Initial weights of the ResNet: a torchvision tag (the name of a set of pretrained weights), the path of a file,
    or "scratch" for random weights. Required for vision = "resnet18"."""
    per_camera_backbones: bool = False
    """Use a separate ResNet for each camera, as the original implementation does. A policy with separate ResNets cannot
    be exported to LeRobot's ACT. Only for vision = "resnet18"."""
    region_tokens: bool = True
    """Give ACT the tokens of the sensor's box in each view, from the encoder that the alignment loss trains."""
    touch_tokens: bool = True
    """Give ACT the tokens of each touch image, from the encoder that the alignment loss trains."""
    pointer_token: bool | None = None
    """Give ACT one token for each view of the contact pointer: the place of the next contact that the pointer predicts,
    and the probability that there is none. The action loss does not train the pointer. None: true if the config has a
    [pointer] table and trains a policy; a loaded config states which."""
    d_model: Annotated[int, Field(ge=8)] = 512
    """Width of the transformer: the number of elements of each token."""
    heads: Annotated[int, Field(ge=1)] = 8
    """Number of attention heads. d_model must be divisible by this number."""
    ffn_dim: Annotated[int, Field(ge=8)] = 3200
    """Width of the feed-forward layers of the transformer."""
    encoder_layers: Annotated[int, Field(ge=1)] = 4
    """Number of transformer encoder layers."""
    decoder_layers: Annotated[int, Field(ge=1)] = 1
    """Number of transformer decoder layers."""
    vae_layers: Annotated[int, Field(ge=1)] = 4
    """Number of transformer layers of the CVAE encoder, which computes the latent from the demonstrated actions."""
    latent_dim: Annotated[int, Field(ge=1)] = 32
    """Number of elements of the latent vector of the CVAE."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout rate of the transformer."""
    use_vae: bool = True
    """Train with a latent vector that represents the style of a demonstration (CVAE). False: no latent, as with the
    option no_encoder of the original implementation."""
    kl_weight: Annotated[float, Field(ge=0)] = 10.0
    """Weight of the KL divergence of the latent in the action loss."""
    loss_reduction: Literal["valid", "all"] = "valid"
    """Actions over which the L1 loss is averaged. valid: the recorded actions only. all: also the padding after the end
    of an episode, as in the original ACT; this reduces the weight of the last actions of an episode."""
    init_gain: Annotated[float, Field(gt=0)] = 1.0
    """Factor that multiplies the initial weight matrices of ACT, except its ResNet. Use 0.5 if the initial outputs are
    too large."""

    @model_validator(mode="after")
    def _head_uses_its_options(self) -> "PolicyConfig":
        ignored = {
            "act": {"denoiser": self.denoiser != DenoiserConfig()},
            "flow": self._changed(OF_ACT) | {"denoiser.train_steps": self.denoiser.train_steps != 100},
            "diffusion": self._changed(OF_ACT),
        }[self.head]
        if given := [f"policy.{name}" for name, changed in ignored.items() if changed]:
            raise InputError(
                f"{', '.join(given)}: policy.head = '{self.head}' ignores {'this' if len(given) == 1 else 'these'}. "
                f"Omit {', '.join(given)}, or choose another policy.head"
            )
        steps, levels = self.denoiser.sample_steps, self.denoiser.train_steps
        if self.head == "diffusion" and steps > levels:
            raise InputError(
                f"policy.denoiser.sample_steps = {steps} exceeds train_steps = {levels}, but every sampling step of "
                f"policy.head = 'diffusion' needs a level of its own. Reduce sample_steps"
            )
        if self.execute is not None and self.execute > self.chunk_size:
            raise InputError(
                f"policy.execute = {self.execute} exceeds policy.chunk_size = {self.chunk_size}, but only predicted "
                f"actions can be executed. Reduce execute"
            )
        return self

    def _changed(self, names: tuple[str, ...]) -> dict[str, bool]:
        return {name: getattr(self, name) != type(self).model_fields[name].default for name in names}

    @model_validator(mode="after")
    def _resnet_is_used(self) -> "PolicyConfig":
        changed = [name for name, differs in self._changed(OF_RESNET).items() if differs]
        if changed and self.vision != "resnet18":
            given = ", ".join(f"policy.{name} = {getattr(self, name)!r}" for name in changed)
            raise InputError(
                f"{given}, but only policy.vision = 'resnet18' has a ResNet that uses this; vision is "
                f"'{self.vision}'. Set policy.vision = 'resnet18', or omit {', '.join(changed)}"
            )
        return self
