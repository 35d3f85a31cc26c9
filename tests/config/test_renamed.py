"""Configs of former versions are refused with the new names."""

from pathlib import Path

import pytest

from tactile_align.cli import run
from tactile_align.config.renamed import RENAMED
from tactile_align.config.train import TrainConfig, load_config
from tactile_align.errors import FactError


@pytest.mark.parametrize("old", sorted(RENAMED))
def test_a_former_key_is_refused_with_its_new_name(tmp_path: Path, old: str) -> None:
    table, _, key = old.rpartition(".")
    file = tmp_path / "run.toml"
    file.write_text(f'[[data]]\npath = "p"\nrig = "r"\n[{table}]\n{key} = 1\n')
    with pytest.raises(FactError, match=f"run.toml: .*{old} is now {RENAMED[old]}"):
        load_config(file)


def test_a_run_folder_with_former_keys_is_refused_as_one_of_another_version(tmp_path: Path) -> None:
    table, _, key = next(iter(RENAMED)).rpartition(".")
    (tmp_path / "config.toml").write_text(f'[[data]]\npath = "p"\nrig = "r"\n[{table}]\n{key} = 0\n')
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(FactError) as caught:
        load_config(tmp_path / "config.toml")
    assert str(caught.value).startswith(f"{tmp_path}: written by another version of tactile-align ({table}.{key}")
    assert "Train again" in str(caught.value) and "Rename" not in str(caught.value)


def test_new_names_are_fields_and_former_ones_are_not() -> None:
    for old, new in RENAMED.items():
        for name, known in ((old, False), *((name, True) for name in new.split(" and "))):
            model = TrainConfig
            *tables, key = name.split(".")
            for table in tables:
                model = model.model_fields[table].annotation  # type: ignore[assignment]
            assert (key in model.model_fields) is known, name


def test_the_command_line_says_it_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.toml"
    table, _, key = next(iter(RENAMED)).rpartition(".")
    file.write_text(f'[[data]]\npath = "p"\nrig = "r"\n[{table}]\n{key} = true\n')
    assert run(["train", str(file)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
