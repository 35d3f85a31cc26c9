"""Learning rates and weight decay by part of the model, and the table of the parameters."""

import json
import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tactile_align.config.train import TrainConfig
from tactile_align.errors import InputError
from tactile_align.policies.aligned import AlignedPolicy
from tactile_align.policies.build import make_model
from tactile_align.training.logs import read_metrics
from tactile_align.training.loop import train
from tactile_align.training.optimiser import make_optimiser

Maker = Callable[..., TrainConfig]
RATES = {"lr": 1e-2, "lr_backbone": 2e-2, "lr_tower": 3e-2, "lr_head": 4e-2, "lr_temperature": 5e-2}


def groups_of(model: AlignedPolicy, config: TrainConfig) -> dict[str, dict[str, Any]]:
    """Return the optimiser's group of each trained parameter by the parameter's name."""
    optimiser, _ = make_optimiser(model, config)
    group = {id(p): g for g in optimiser.param_groups for p in g["params"]}
    assert sum(len(g["params"]) for g in optimiser.param_groups) == len(group), "no parameter is in two groups"
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {id(p) for p in trained.values()} == set(group)
    return {name: group[id(p)] for name, p in trained.items()}


def test_each_part_has_its_own_learning_rate(small_config: Maker) -> None:
    tower = {"model": "ViT-demo", "pretrained": "scratch", "image_size": [48, 32]}
    config = small_config(
        optimiser=RATES,
        features={"vision": tower | {"stem": "conv"}, "touch": tower | {"tune": "adapters"}},
        policy={"vision": "resnet18", "cameras": ["top"], "image_size": [64, 48], "vision_weights": "scratch"},
    )
    groups = groups_of(make_model(config, 7, 7), config)
    expected = [
        ("act.backbones?", RATES["lr_backbone"]),
        ("act", RATES["lr"]),
        (r"alignment.towers.vision.visual", RATES["lr_tower"]),
        (r"alignment.temperature", RATES["lr_temperature"]),
        (r"alignment.towers.touch.adapters|alignment.towers.\w+_(pooling|head)|\w+_to_act", RATES["lr_head"]),
    ]
    left = set(groups)
    for pattern, rate in expected:
        own = {name for name in left if re.match(rf"(?:{pattern})\b", name)}
        assert own and {groups[name]["initial_lr"] for name in own} == {rate}, pattern
        left -= own
    assert left == set()


def test_only_matrices_that_multiply_tokens_are_decayed(small_config: Maker) -> None:
    # "attention" has queries: a matrix that is an embedding, as are positions and the class embedding of the tower.
    config = small_config(train_policy=False, features={"pooling": "attention", "touch_pooling": "attention"})
    model = make_model(config, 7, 7)
    groups = groups_of(model, config)
    kept = {name for name, group in groups.items() if group["weight_decay"] == 0}
    named = re.compile(r"bias$|class_embedding$|positional_embedding$|query$|temperature\.x$")
    norms = {
        f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.LayerNorm | nn.GroupNorm)
    }
    assert kept == {name for name in groups if named.search(name)} | (norms & set(groups))
    assert {name.rsplit(".", 1)[-1] for name in kept} >= {"class_embedding", "positional_embedding", "query", "x"}
    assert all(groups[name]["weight_decay"] == 1e-4 for name in set(groups) - kept)


def test_a_learnt_temperature_can_leave_the_neighbourhood_of_its_start(small_config: Maker) -> None:
    # 300 steps of one sign. At lr 1e-5 they moved log kappa by 0.0015.
    config = small_config(train_policy=False, steps=300, optimiser={"lr_tower": 1e-5, "warmup_steps": 0})
    model = make_model(config, 7, 7)
    optimiser, schedule = make_optimiser(model, config)
    assert model.alignment is not None
    for _ in range(300):
        optimiser.zero_grad()
        model.alignment.temperature().backward()
        optimiser.step()
        schedule.step()
    assert model.alignment.temperature().item() == pytest.approx(0.07 * 2.718281828 ** (-1e-3 * 150), rel=0.02)


def test_earlier_layers_of_a_pretrained_tower_have_smaller_rates(small_config: Maker) -> None:
    config = small_config(train_policy=False, optimiser={**RATES, "layer_decay": 0.5})
    model = make_model(config, 7, 7)
    assert model.alignment is not None
    with pytest.raises(InputError, match=r"layer_decay = 0.5 has no effect.*pretrained tower.*layer_decay = 1"):
        make_optimiser(model, config)
    model.alignment.towers.vision.scratch = False  # as if its weights had been loaded
    rate = {name: group["initial_lr"] / RATES["lr_tower"] for name, group in groups_of(model, config).items()}
    blocks = len(model.alignment.towers.vision.visual.transformer.resblocks)
    visual = "alignment.towers.vision.visual"
    assert rate[f"{visual}.positional_embedding"] == rate[f"{visual}.conv1.0.weight"] == 0.5 ** (blocks + 1)
    for i in range(blocks):
        own = {v for name, v in rate.items() if name.startswith(f"{visual}.transformer.resblocks.{i}.")}
        assert own == {0.5 ** (blocks - i)}
    assert rate[f"{visual}.ln_post.weight"] == 1
    assert rate["alignment.towers.touch_head.weight"] == pytest.approx(RATES["lr_head"] / RATES["lr_tower"])


def test_a_run_keeps_the_table_of_its_parameters_with_the_first_gradient(
    small_config: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    config = small_config(steps=3, log={"every": 2}, optimiser={"lr_tower": 2e-3})
    out = train(config)
    rows = {row["module"]: row for row in json.loads((out / "parameters.json").read_text(encoding="utf-8"))}
    model = make_model(config, 7, 7)
    assert rows["all"]["numbers"] == sum(p.numel() for p in model.parameters())
    assert rows["all"]["trained"] == sum(p.numel() for p in model.parameters() if p.requires_grad)
    head = rows["towers.touch_head"]
    assert (head["numbers"], head["trained"], head["learning rate"]) == (96 * 16 + 16, 96 * 16 + 16, "0.001")
    assert rows["towers.vision.visual.transformer.resblocks.0"]["learning rate"] == "0.002"
    records = [r for r in read_metrics(out / "metrics.jsonl") if r["kind"] == "train"]
    assert [r["step"] for r in records] == [1, 3]
    for record in records:
        norms = {name.removeprefix("grad/"): value for name, value in record.items() if name.startswith("grad/")}
        assert set(norms) == {name for name, row in rows.items() if row["trained"]} - {"all"}
        total = sum(value**2 for value in norms.values()) ** 0.5
        assert total == pytest.approx(record["gradient_norm"], rel=1e-4), "the parts make up the whole"
    assert head["first gradient norm"] == records[0]["grad/towers.touch_head"] > 0
    assert "towers.touch_head" in caplog.text and "first gradient: norm" in caplog.text


def test_gradient_norms_are_those_before_clipping(small_config: Maker) -> None:
    whole, clipped = (
        read_metrics(train(small_config(out, steps=1, optimiser=o), progress=False) / "metrics.jsonl")[0]
        for out, o in (("whole", {}), ("clipped", {"clip_norm": 1e-3}))
    )
    key = "grad/towers.touch_head"
    assert whole[key] == clipped[key] and torch.tensor(whole["gradient_norm"]) > 1e-3
