"""Small encoders and images for the tests."""

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor

from tactile_align.features.encoder import Encoder, load_encoder

CLIP_MEAN, CLIP_STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD


def demo_encoder(**options: object) -> Encoder:
    """Return the small ViT from scratch, with a seed of its own."""
    torch.manual_seed(0)
    return load_encoder("ViT-demo", pretrained="scratch", **options).eval()  # type: ignore[arg-type]


def noise(count: int, width: int, height: int, seed: int = 0) -> Tensor:
    """Return (count, height, width, 3) uint8 images."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, height, width, 3), generator=generator, dtype=torch.uint8)


def save_clip(model: str, path: Path) -> object:
    """Write a random open_clip checkpoint to disk and return the model it holds, in eval mode."""
    load_encoder("ViT-demo", pretrained="scratch")  # registers the small model with open_clip
    torch.manual_seed(5)
    clip = open_clip.create_model(model, pretrained=None, pretrained_text=False)
    torch.save(clip.state_dict(), path)
    return clip.eval()


def registered(folder: Path, name: str, embed_dim: int, vision: dict[str, Any]) -> str:
    """Tell open_clip of a small model and return its name."""
    text = {"context_length": 8, "vocab_size": 16, "width": 32, "heads": 1, "layers": 1}
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"embed_dim": embed_dim, "vision_cfg": vision, "text_cfg": text}), encoding="utf-8")
    open_clip.add_model_config(path)
    return name
