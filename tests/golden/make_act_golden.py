"""Write act_golden.json: what LeRobot's own ACT computes from weights and inputs made by act_formula.py.

Needs an environment of its own, since LeRobot forbids the torch of this project:
    python3.11 -m venv golden && golden/bin/pip install lerobot==0.4.4 && golden/bin/python make_act_golden.py
The committed file was made with LeRobot 0.4.4 and torch 2.10.0 on a CPU, Python 3.11.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import act_formula as formula
import lerobot
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy, ACTTemporalEnsembler


def config(cameras: tuple[str, ...], state: int, action: int, chunk: int, **options: Any) -> ACTConfig:
    image = PolicyFeature(FeatureType.VISUAL, (3, formula.HEIGHT, formula.WIDTH))
    return ACTConfig(
        input_features={
            "observation.state": PolicyFeature(FeatureType.STATE, (state,)),
            **{f"observation.images.{c}": image for c in cameras},
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (action,))},
        chunk_size=chunk,
        n_action_steps=chunk,
        pretrained_backbone_weights=None,
        device="cpu",
        **options,
    )


def batch() -> dict[str, torch.Tensor]:
    f = formula
    out = {
        "observation.state": torch.from_numpy(f.normal("state", (f.BATCH, f.STATE))),
        "action": torch.from_numpy(f.normal("action", (f.BATCH, f.CHUNK, f.ACTION))),
        "action_is_pad": torch.from_numpy(f.is_pad()),
    }
    images = torch.from_numpy(f.normal("images", (f.BATCH, len(f.CAMERAS), 3, f.HEIGHT, f.WIDTH)))
    return out | {f"observation.images.{c}": images[:, i] for i, c in enumerate(f.CAMERAS)}


def run(options: dict[str, Any]) -> dict[str, Any]:
    f = formula
    policy = ACTPolicy(config(f.CAMERAS, f.STATE, f.ACTION, f.CHUNK, dropout=0.0, **options))
    state = policy.model.state_dict()
    for key, tensor in state.items():
        if key != "vae_encoder_pos_enc":  # a fixed table, part of what is compared
            tensor.copy_(torch.from_numpy(f.weight(key, tuple(tensor.shape))))

    policy.eval()
    with torch.no_grad():
        actions = policy.predict_action_chunk(batch())

    policy.train()
    noise = torch.from_numpy(f.normal("noise", (f.BATCH, f.LATENT)))
    drawn = torch.randn_like
    torch.randn_like = lambda *_args, **_kwargs: noise
    try:
        loss, parts = policy(batch())
    finally:
        torch.randn_like = drawn
    loss.backward()
    gradients = {k: p.grad for k, p in policy.model.named_parameters() if k in f.GRADIENTS}
    return {
        "digest": f.digest((k, tuple(v.shape)) for k, v in state.items()),
        "actions": actions.flatten().tolist(),
        "l1_all": parts["l1_loss"],
        "kl": parts["kld_loss"],
        "total_all": loss.item(),
        "gradients": {
            k: {"norm": g.norm().item(), "every": g.flatten()[:: f.STRIDE].tolist()} for k, g in gradients.items()
        },
    }


def ensembling() -> list[float]:
    f = formula
    ensembler = ACTTemporalEnsembler(0.01, f.CHUNK)
    chunks = torch.from_numpy(f.normal("chunks", (f.STEPS, 1, f.CHUNK, f.ACTION)))
    return torch.stack([ensembler.update(c) for c in chunks]).flatten().tolist()


def main() -> None:
    full = ACTPolicy(config(("a", "b", "c"), 14, 14, 100)).model.state_dict()
    golden = {
        "made_with": {"lerobot": lerobot.__version__, "torch": torch.__version__},
        "default": {"tensors": len(full), "digest": formula.digest((k, tuple(v.shape)) for k, v in full.items())},
        "variants": {name: run(options) for name, options in formula.VARIANTS.items()},
        "ensembling": ensembling(),
    }
    # Nine digits say a float32 exactly.
    golden = json.loads(json.dumps(golden), parse_float=lambda x: float(f"{float(x):.9g}"))
    Path(__file__).with_name("act_golden.json").write_text(json.dumps(golden, indent=0) + "\n")


if __name__ == "__main__":
    main()
