"""The parameter table."""

from torch import nn

from tactile_align.config.features import EncoderConfig, FeatureConfig
from tactile_align.features.parameters import Part, parameter_parts, parameter_table
from tactile_align.features.towers import Towers


def test_parameters_are_counted_by_module() -> None:
    model = nn.ModuleDict({"a": nn.ModuleDict({"x": nn.Linear(3, 2), "y": nn.Linear(2, 2)}), "b": nn.Linear(4, 1)})
    model["a"]["y"].requires_grad_(False)  # type: ignore[index]
    assert parameter_parts(model) == (Part("a.x", 8, 0, 2), Part("a.y", 0, 6, 2), Part("b", 5, 0, 2))
    assert parameter_parts(model, depth=1) == (Part("a", 8, 6, 4), Part("b", 5, 0, 2))


def test_shared_weights_count_once_and_the_sum_is_that_of_the_model() -> None:
    vision = EncoderConfig(model="ViT-demo", pretrained="scratch", tune="last", last_blocks=1)
    model = Towers(FeatureConfig(vision=vision))
    parts = parameter_parts(model)
    assert sum(p.trainable for p in parts) == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(p.frozen for p in parts) == sum(p.numel() for p in model.parameters() if not p.requires_grad) > 0
    assert not any(p.name.startswith("touch.") for p in parts)
    text = parameter_table(model)
    assert text.splitlines()[-1].split()[0] == "all" and f"{sum(p.trainable for p in parts):,}" in text
