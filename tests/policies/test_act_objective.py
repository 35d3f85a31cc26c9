"""ACT's loss, parameter groups and recorded defaults."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from tactile_align.config.train import OptimiserConfig
from tactile_align.policies import act
from tactile_align.policies.act import ACT, ACTConfig, ACTOutput, act_loss, act_parameter_groups

TINY = ACTConfig(
    state_dim=3,
    action_dim=2,
    chunk_size=4,
    cameras=("top",),
    vision_weights="scratch",
    d_model=16,
    heads=2,
    ffn_dim=8,
    encoder_layers=1,
    vae_layers=1,
)


def test_padding_counts_for_nothing_or_as_zeros() -> None:
    # Row 0: errors 1 and 3 on real steps; row 1: error 5, then a padded step that would say 100.
    predicted = torch.tensor([[[1.0], [3.0]], [[5.0], [100.0]]])
    is_pad = torch.tensor([[False, False], [False, True]])
    out = ACTOutput(predicted, None, None)
    target = torch.zeros_like(predicted)
    assert act_loss(out, target, is_pad)[0].item() == pytest.approx(9 / 3)
    assert act_loss(out, target, is_pad, reduction="all")[0].item() == pytest.approx(9 / 4)
    assert act_loss(out, target, None)[0].item() == pytest.approx(109 / 4)


def test_thirty_percent_padding_makes_the_two_reductions_differ_by_ten_sevenths() -> None:
    out = ACTOutput(torch.randn(4, 10, 3), None, None)
    is_pad = (torch.arange(10) >= 7).expand(4, 10)
    target = torch.randn(4, 10, 3)
    valid = act_loss(out, target, is_pad)[0]
    assert (valid / act_loss(out, target, is_pad, reduction="all")[0]).item() == pytest.approx(10 / 7)


def test_kl_is_that_of_torch_distributions_summed_over_the_latent_and_averaged_over_the_batch() -> None:
    mu, logvar = torch.randn(5, 8), torch.randn(5, 8)
    out = ACTOutput(torch.ones(5, 4, 2), mu, logvar)
    l1, kl = act_loss(out, torch.zeros(5, 4, 2), None)
    expected = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0)).sum(-1).mean()
    torch.testing.assert_close(kl, expected)
    assert l1.item() == 1.0


def test_the_defaults_are_the_recorded_ones() -> None:
    o = OptimiserConfig()
    assert (o.lr, o.lr_backbone, o.weight_decay, o.clip_norm) == (1e-5, 1e-5, 1e-4, 10.0)
    groups = act_parameter_groups(ACT(TINY), lr=1.0, lr_backbone=2.0, weight_decay=3.0)
    assert {g["name"]: (g["lr"], g["weight_decay"]) for g in groups} == {"policy": (1.0, 3.0), "backbone": (2.0, 3.0)}
    assert act.IMAGENET_MEAN == (0.485, 0.456, 0.406)
    assert act.IMAGENET_STD == (0.229, 0.224, 0.225)
    c = ACTConfig(state_dim=14, action_dim=14, cameras=("top",), vision_weights="scratch")
    assert (c.chunk_size, c.d_model, c.heads, c.ffn_dim, c.latent_dim) == (100, 512, 8, 3200, 32)
    assert (c.encoder_layers, c.decoder_layers, c.vae_layers, c.dropout) == (4, 1, 4, 0.1)
    assert (c.kl_weight, c.loss_reduction, c.use_vae, c.pre_norm) == (10.0, "valid", True, False)


@pytest.mark.parametrize("per_camera", [False, True])
def test_groups_hold_every_trainable_parameter_once(per_camera: bool) -> None:
    model = ACT(TINY.model_copy(update={"per_camera_backbones": per_camera}))
    model.action_head.bias.requires_grad_(False)
    policy, backbone = act_parameter_groups(model, lr=1e-4, lr_backbone=2e-6, weight_decay=1e-4)
    ids = [id(p) for g in (policy, backbone) for p in g["params"]]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(p) for p in model.parameters() if p.requires_grad}
    # Without classifier and with batch norm frozen, 20 convolutions are all a ResNet-18 can train.
    assert len(backbone["params"]) == 20
    torch.optim.AdamW([policy, backbone])


def test_without_vision_there_is_no_backbone_group() -> None:
    blind = TINY.model_copy(update={"cameras": (), "vision": "none", "vision_weights": None})
    assert [g["name"] for g in act_parameter_groups(ACT(blind), lr=1e-4, lr_backbone=2e-6, weight_decay=1e-4)] == [
        "policy"
    ]
