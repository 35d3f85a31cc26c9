"""The command line: exit status, one-line errors, flags over files."""

import os
from pathlib import Path

import pytest

from tactile_align import demo
from tactile_align.cli import VERBS, run
from tactile_align.training.config import load_config


def test_unusable_input_is_one_line_on_stderr_and_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["overlay", str(tmp_path / "none.hdf5"), "--rig", "cell"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and "none.hdf5" in captured.err
    assert run(["train", str(tmp_path / "none.toml")]) == 2
    assert "no such file" in capsys.readouterr().err


def test_an_unknown_key_of_a_config_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.toml").write_text('temprature = 3\n[[data]]\npath = "x"\nrig = "cell"\n')
    assert run(["train", str(tmp_path / "c.toml")]) == 2
    assert "c.toml: temprature: unknown key" in capsys.readouterr().err


def test_flags_override_the_file_and_the_run_keeps_the_result(regrasp_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(
        f"""
batch_size = 8
steps = 1
held_out = 1
contact_share = 1.0
out = '{(tmp_path / "run").as_posix()}'
cache = '{(tmp_path / "cache").as_posix()}'
train_policy = false
[[data]]
path = '{regrasp_folder.as_posix()}'
rig = '{(regrasp_folder / "rig.toml").as_posix()}'
[[views]]
camera = "left_wrist"
sensor = "tactile1"
zoom = 2.2
[features.vision]
model = "ViT-demo"
pretrained = "scratch"
image_size = [32, 32]
"""
    )
    assert run(["train", str(tmp_path / "c.toml"), "--hsa.temperature", "0.08", "--seed", "3"]) == 0
    kept = load_config(tmp_path / "run" / "config.toml")
    assert kept.hsa.temperature == 0.08 and kept.seed == 3 and kept.batch_size == 8


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status: object = run([verb, "--help"])
    except SystemExit as left:
        status = left.code
    assert not status and len(capsys.readouterr().out) > 200


@pytest.mark.slow
def test_the_smoke_demo_runs_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # helpers would import for longer than they work
    monkeypatch.setattr(demo, "SMALL_TOWER", {**demo.SMALL_TOWER, "image_size": [48, 32]})
    assert run(["demo", "--size", "smoke", "--out", str(tmp_path / "demo")]) == 0
    for name in ("overlay_regrasp", "overlay_expert", "curves", "recall", "gallery_step_000000", "embedding_by_object"):
        assert (tmp_path / "demo" / "pictures" / f"{name}.png").stat().st_size > 5000
    summary = (tmp_path / "demo" / "summary.md").read_text(encoding="utf-8")
    assert "SCRATCH" in summary and "chance" in summary and "opening alone" in summary
