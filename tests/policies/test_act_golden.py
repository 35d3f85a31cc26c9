"""ACT against numbers that LeRobot's own class computed (tests/golden/make_act_golden.py)."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tactile_align.policies.act import ACT, ACTConfig, act_loss
from tactile_align.policies.runtime import TemporalEnsembler

FOLDER = Path(__file__).parents[1] / "golden"
F = SimpleNamespace(**runpy.run_path(str(FOLDER / "act_formula.py")))
GOLDEN = json.loads((FOLDER / "act_golden.json").read_text())
OURS = {
    "dim_model": "d_model",
    "n_heads": "heads",
    "dim_feedforward": "ffn_dim",
    "n_encoder_layers": "encoder_layers",
    "n_decoder_layers": "decoder_layers",
    "n_vae_encoder_layers": "vae_layers",
    "pre_norm": "pre_norm",
}


def build(variant: str) -> ACT:
    options: dict[str, Any] = {OURS[k]: v for k, v in F.VARIANTS[variant].items()}
    config = ACTConfig(
        state_dim=F.STATE,
        action_dim=F.ACTION,
        chunk_size=F.CHUNK,
        cameras=F.CAMERAS,
        vision_weights="scratch",
        dropout=0.0,
        **options,
    )
    model = ACT(config)
    state = model.state_dict()
    filled = {k: torch.from_numpy(F.weight(k, tuple(v.shape))) for k, v in state.items()}
    filled["vae_encoder_pos_enc"] = state["vae_encoder_pos_enc"]
    model.load_state_dict(filled, strict=True)
    return model


def batch() -> dict[str, torch.Tensor]:
    return {
        "state": torch.from_numpy(F.normal("state", (F.BATCH, F.STATE))),
        "images": torch.from_numpy(F.normal("images", (F.BATCH, len(F.CAMERAS), 3, F.HEIGHT, F.WIDTH))),
        "actions": torch.from_numpy(F.normal("action", (F.BATCH, F.CHUNK, F.ACTION))),
        "is_pad": torch.from_numpy(F.is_pad()),
        "noise": torch.from_numpy(F.normal("noise", (F.BATCH, F.LATENT))),
    }


def test_the_default_network_has_lerobots_keys_and_shapes() -> None:
    config = ACTConfig(state_dim=14, action_dim=14, cameras=("a", "b", "c"), vision_weights="scratch")
    with torch.device("meta"):
        state = ACT(config).state_dict()
    assert len(state) == GOLDEN["default"]["tensors"]
    assert F.digest((k, tuple(v.shape)) for k, v in state.items()) == GOLDEN["default"]["digest"]


@pytest.mark.parametrize("variant", F.VARIANTS)
def test_predicted_actions_are_lerobots(variant: str) -> None:
    model, b = build(variant).eval(), batch()
    assert (
        F.digest((k, tuple(v.shape)) for k, v in model.state_dict().items()) == (GOLDEN["variants"][variant]["digest"])
    )
    with torch.no_grad():
        actions = model(b["state"], b["images"]).actions
    expected = np.reshape(GOLDEN["variants"][variant]["actions"], (F.BATCH, F.CHUNK, F.ACTION))
    assert np.abs(actions.numpy() - expected).max() <= 1e-5


@pytest.mark.parametrize("variant", F.VARIANTS)
def test_training_loss_and_gradients_are_lerobots(variant: str) -> None:
    golden, b = GOLDEN["variants"][variant], batch()
    model = build(variant).train()
    out = model(**b)
    l1, kl = act_loss(out, b["actions"], b["is_pad"], reduction="all")
    loss = l1 + model.config.kl_weight * kl
    assert l1.item() == pytest.approx(golden["l1_all"], abs=1e-5)
    assert kl.item() == pytest.approx(golden["kl"], rel=1e-5)
    assert loss.item() == pytest.approx(golden["total_all"], rel=1e-5)
    # LeRobot 0.4.4 divides by all steps; over the valid ones, as since 0.6, the same errors weigh more.
    share = 1 - sum(F.PADDED) / (F.BATCH * F.CHUNK)
    valid, _ = act_loss(out, b["actions"], b["is_pad"], reduction="valid")
    assert valid.item() == pytest.approx(golden["l1_all"] / share, abs=1e-5)

    loss.backward()
    parameters = dict(model.named_parameters())
    for key in F.GRADIENTS:
        gradient = parameters[key].grad
        assert gradient is not None
        expected = np.array(golden["gradients"][key]["every"])
        error = np.abs(gradient.flatten()[:: F.STRIDE].numpy() - expected).max()
        assert error <= 1e-5 * np.abs(expected).max()
        assert gradient.norm().item() == pytest.approx(golden["gradients"][key]["norm"], rel=1e-5)


def test_thirty_steps_of_ensembling_are_lerobots() -> None:
    chunks = torch.from_numpy(F.normal("chunks", (F.STEPS, 1, F.CHUNK, F.ACTION)))
    ensembler = TemporalEnsembler(F.CHUNK)
    actions = torch.stack([ensembler.update(c) for c in chunks])
    expected = np.reshape(GOLDEN["ensembling"], actions.shape)
    assert np.abs(actions.numpy() - expected).max() <= 1e-5
