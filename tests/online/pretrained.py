"""Pretrained encoders as they are published: their weights are downloaded, loaded, and described in one line each.

Run it where there is a network: `python -m tests.online.pretrained [NAME ...]`. Each line states the token grid, the
mean and the standard deviation of the tokens of one fixed image, and a hash of the tokens rounded to 0.05. Two machines
with equal versions print equal numbers; the hash may differ where a token lies at a rounding border. The exit code is 1
if an encoder could not be loaded.
"""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import hf_hub_download

from tactile_align.features.encoder import Encoder, load_encoder


def by_tag(model: str, tag: str) -> Callable[[], Encoder]:
    """Return a function that loads an open_clip model by tag."""
    return lambda: load_encoder(model, pretrained=tag)


def by_file(model: str, repository: str, file: str, **options: tuple[int, int]) -> Callable[[], Encoder]:
    """Return a function that downloads a file from the Hugging Face hub and loads it as a user would."""
    return lambda: load_encoder(model, pretrained=Path(hf_hub_download(repository, file)), **options)  # type: ignore[arg-type]


def timm(name: str, **options: tuple[int, int]) -> Callable[[], Encoder]:
    """Return a function that loads a timm model from its file on the hub."""
    return by_file(f"timm/{name}", f"timm/{name}", "model.safetensors", **options)


ENCODERS = {
    "clip-openai": by_tag("ViT-B-16", "openai"),
    "clip-laion": by_tag("ViT-B-16", "laion2b_s34b_b88k"),
    "clip-datacomp": by_tag("ViT-B-32", "datacomp_xl_s13b_b90k"),
    "siglip": by_tag("ViT-B-16-SigLIP", "webli"),
    "convnext": timm("convnext_tiny.fb_in22k"),
    "dinov2": timm("vit_small_patch14_dinov2.lvd142m", image_size=(224, 224)),
    "dinov2-reg": timm("vit_small_patch14_reg4_dinov2.lvd142m", image_size=(224, 224)),
    "dinov3": timm("vit_small_patch16_dinov3.lvd1689m"),
    "sparsh-dino": by_file("sparsh/dino_vitbase", "facebook/sparsh-dino-base", "dino_vitbase.ckpt"),
    "sparsh-mae": by_file("sparsh/mae_vitbase", "facebook/sparsh-mae-base", "mae_vitbase.ckpt"),
}


def image_for(encoder: Encoder) -> torch.Tensor:
    """Return one image of waves with a dark square, of the encoder's input size."""
    width, height = encoder.input_size
    v, u = np.mgrid[:height, :width]
    waves = [127.5 + 120 * np.sin(u / (9 + 4 * i) + v / (17 - 3 * i)) for i in range(3)]
    image = np.stack(waves, axis=2)
    image[height // 3 : height // 2, width // 4 : width // 2] = 20
    return torch.from_numpy(np.tile(image.round().astype(np.uint8), (1, 1, encoder.frames)))[None]


def described(encoder: Encoder) -> str:
    """Return the grid, the statistics and the hash of the tokens of the fixed image."""
    with torch.no_grad():
        tokens = encoder.eval().tokens(image_for(encoder))[0].double().numpy()
    rounded = np.round(tokens / 0.05).astype(np.int32)
    digest = hashlib.sha256(rounded.tobytes()).hexdigest()[:16]
    shape = "x".join(map(str, tokens.shape))
    return f"{shape} mean {tokens.mean():+.4f} std {tokens.std():.4f} {digest}"


def main(names: list[str]) -> int:
    """Print one line for each of the named encoders, or for all, and return the exit code."""
    failed = 0
    for name in names or ENCODERS:
        try:
            print(f"{name:14} {described(ENCODERS[name]())}", flush=True)
        except (OSError, ValueError) as error:  # no network, a gated repository, or a file that does not fit
            failed += 1
            print(f"{name:14} FAILED {type(error).__name__}: {' '.join(str(error).split())[:300]}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(sys.argv[1:]))
