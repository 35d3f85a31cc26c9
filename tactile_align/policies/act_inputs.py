"""What ACT is given beside the alignment: its shape, its own cameras' frames."""

import torch
from torch import Tensor

from tactile_align.config.policy import PolicyConfig
from tactile_align.features.towers import POLICY_GRID
from tactile_align.policies.act import IMAGENET_MEAN, IMAGENET_STD, ACTConfig
from tactile_align.policies.parts import Batch


def act_config(policy: PolicyConfig, state_dim: int, action_dim: int, views: int, sensors: int) -> ACTConfig:
    """Return ACT's shape, with room for the tokens of so many views and touches where the policy reads them."""
    tokens = POLICY_GRID**2 * (views * policy.region_tokens + sensors * policy.touch_tokens)
    return ACTConfig(
        state_dim=state_dim,
        action_dim=action_dim,
        chunk_size=policy.chunk_size,
        cameras=policy.cameras,
        vision="resnet18" if policy.cameras else "none",
        vision_weights=policy.vision_weights,
        d_model=policy.d_model,
        heads=policy.heads,
        ffn_dim=policy.ffn_dim,
        encoder_layers=policy.encoder_layers,
        decoder_layers=policy.decoder_layers,
        vae_layers=policy.vae_layers,
        latent_dim=policy.latent_dim,
        dropout=policy.dropout,
        kl_weight=policy.kl_weight,
        use_vae=policy.use_vae,
        per_camera_backbones=policy.per_camera_backbones,
        extra_tokens=tokens,
    )


def camera_key(camera: str) -> str:
    """Return the batch key of a whole camera frame that ACT's own ResNet sees."""
    return f"camera-{camera}"


def camera_images(batch: Batch, cameras: tuple[str, ...]) -> Tensor | None:
    """Return the cameras' frames (B, cameras, 3, H, W), normalised as ImageNet's; None without cameras."""
    if not cameras:
        return None
    frames = torch.stack([batch[f"image/{camera_key(name)}"] for name in cameras], dim=1)
    x = frames.permute(0, 1, 4, 2, 3).to(batch["qpos"].dtype) / 255.0
    mean, std = (x.new_tensor(v).view(1, 1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (x - mean) / std
