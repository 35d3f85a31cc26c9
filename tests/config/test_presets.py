"""Presets, and the table of the original's flags in the docs."""

import re
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from tactile_align.config.presets import Preset
from tactile_align.config.train import TrainConfig, config_text, load_config
from tactile_align.errors import FactError

ROOT = Path(__file__).parents[2]
REST = 'views = [{ camera = "left_wrist", sensor = "tactile1" }]\n[[data]]\npath = "recordings"\nrig = "cell"\n'


def read(tmp_path: Path, text: str) -> TrainConfig:
    path = tmp_path / "config.toml"
    path.write_text(text + REST, encoding="utf-8")
    return load_config(path)


@pytest.mark.parametrize(
    ("name", "weight", "temperature"), [("conservative", 0.5, 0.07), ("balanced", 1.0, 0.07), ("aggressive", 2.0, 0.05)]
)
def test_the_originals_presets_have_its_numbers(tmp_path: Path, name: str, weight: float, temperature: float) -> None:
    with pytest.raises(FactError, match=r"policy.cameras = \[\].*presets conservative, balanced and aggressive"):
        read(tmp_path, f'preset = "{name}"\n')
    seen = 'policy = { cameras = ["top"], vision_weights = "IMAGENET1K_V1" }\n'
    config = read(tmp_path, f'preset = "{name}"\n{seen}')
    assert config.policy.vision == "resnet18"
    assert (config.hsa.weight, config.hsa.temperature) == (weight, temperature)
    assert (config.batch_size, config.steps, config.optimiser.lr, config.held_out) == (16, 30000, 2e-5, 0.02)
    assert config.contact_share == "natural"
    assert (config.policy.chunk_size, config.policy.d_model, config.policy.ffn_dim) == (45, 512, 3200)


def test_what_a_config_states_itself_wins_over_its_preset(tmp_path: Path) -> None:
    config = read(tmp_path, 'preset = "tiny"\nsteps = 7\nhsa = { temperature = 0.2 }\n')
    assert config.steps == 7 and config.hsa.temperature == 0.2
    assert config.hsa.learn_temperature and config.features.vision.model == "ViT-demo"
    (tmp_path / "again.toml").write_text(config_text(config), encoding="utf-8")
    assert load_config(tmp_path / "again.toml") == config


def test_an_unknown_preset_is_named_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises((FactError, ValueError), match=r"config.toml: unknown preset 'bold'.*conservative"):
        read(tmp_path, 'preset = "bold"\n')
    assert get_args(Preset) == ("conservative", "balanced", "aggressive", "tiny")


def test_every_counterpart_of_an_original_flag_exists() -> None:
    text = (ROOT / "docs" / "hsa.md").read_text(encoding="utf-8")
    table = text[text.index("| the original") :].split("\n\n")[0].splitlines()[2:]
    named = [path for row in table for path in re.findall(r"`([a-z_.]+)`", row.split("|")[2])]
    assert len(table) >= 28 and len(named) >= 28
    for path in named:
        model: object = TrainConfig
        for part in path.split("."):
            assert isinstance(model, type) and issubclass(model, BaseModel), path
            assert part in model.model_fields, path
            model = inner_model(model.model_fields[part].annotation)


def inner_model(annotation: object) -> object:
    """Return the model inside a field's annotation: X, X | None or tuple[X, ...]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inside = [inner_model(one) for one in get_args(annotation)]
    return next((one for one in inside if isinstance(one, type) and issubclass(one, BaseModel)), None)
