"""Kills, full disks and stop signals never cost a run its last good checkpoint; resuming is exact."""

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tactile_align.config.train import TrainConfig, config_text
from tactile_align.policies.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from tactile_align.training.logs import read_metrics
from tactile_align.training.loop import train

Maker = Callable[..., TrainConfig]
ROOT = Path(__file__).parents[2]
SAVING = """
import sys, torch
from pathlib import Path
from tactile_align.policies.checkpoint import save_checkpoint
state = {"model": {f"w{i}": torch.randn(64, 1024) for i in range(8)}, "optimiser": {}}
print("go", flush=True)
for step in range(int(sys.argv[2]), 10**6):
    whole = {**state, "step": step}
    save_checkpoint(Path(sys.argv[1]), whole, 2, whole if step % 3 == 0 else None)
"""
TRAINING = """
import sys
from tactile_align.config.train import load_config
from tactile_align.training.loop import train
train(load_config(sys.argv[1]), progress=False)
"""
FULL_DISK = """
import resource, sys, torch
from pathlib import Path
from tactile_align.policies.checkpoint import save_checkpoint
folder = Path(sys.argv[1])
state = {"model": {"w": torch.randn(512, 512)}, "step": 1}
save_checkpoint(folder, state, 1, state)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))  # what may still be written, as on a full disk
try:
    save_checkpoint(folder, {**state, "step": 2}, 1, None)
except OSError as error:
    print(error)
"""


def start(script: str, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", script, *args], stdout=subprocess.PIPE, text=True, cwd=ROOT)


@pytest.mark.slow
def test_kill_9_at_twenty_random_moments_leaves_only_checkpoints_that_load(tmp_path: Path) -> None:
    rng, kept = random.Random(7), 0
    for attempt in range(20):
        saving = start(SAVING, str(tmp_path), str(1000 * attempt))
        assert saving.stdout is not None
        saving.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.4))
        saving.kill()
        saving.wait()
        saving.stdout.close()
        left = [path for path in tmp_path.glob("*.pt") if not path.name.startswith(".")]
        for path in left:
            kept += load_checkpoint(path)["model"]["w7"].shape == (64, 1024)
    assert kept >= 20


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_last_checkpoint(small_config: Maker, tmp_path: Path) -> None:
    config = small_config(steps=400, save_every=1, validate_every=400, policy={"dropout": 0.0})
    train(small_config("prepared", steps=1), progress=False)  # fills the cache of prepared episodes
    (tmp_path / "config.toml").write_text(config_text(config), encoding="utf-8")
    running = start(TRAINING, str(tmp_path / "config.toml"))
    checkpoints = Path(config.out) / "checkpoints"
    deadline = time.monotonic() + 240
    while len(list(checkpoints.glob("step_*.pt"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    running.kill()
    running.wait()
    done = load_checkpoint(latest_checkpoint(checkpoints))["step"]
    assert 3 <= done < 400
    records = read_metrics(Path(config.out) / "metrics.jsonl")
    assert records[0]["step"] == 1


def test_a_full_disk_leaves_the_last_good_checkpoint_and_says_so(tmp_path: Path) -> None:
    pytest.importorskip("resource", reason="limits on file sizes are a Unix thing")
    saving = start(FULL_DISK, str(tmp_path))
    text, _ = saving.communicate(timeout=240)
    assert "step_00000002.pt: could not be written" in text
    assert "last good checkpoint is step_00000001.pt" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "step_00000001.pt"]
    assert load_checkpoint(tmp_path / "step_00000001.pt")["model"]["w"].shape == (512, 512)


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_stop_signal_saves_and_the_run_can_go_on(small_config: Maker, tmp_path: Path, sent: signal.Signals) -> None:
    config = small_config(steps=300, save_every=300, validate_every=300, keep_last=1)
    train(small_config("prepared", steps=1), progress=False)
    (tmp_path / "config.toml").write_text(config_text(config), encoding="utf-8")
    running = start(TRAINING, str(tmp_path / "config.toml"))
    log = Path(config.out) / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while (not log.exists() or not log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(sent)
    assert running.wait(timeout=120) == 0
    assert 0 < load_checkpoint(latest_checkpoint(Path(config.out) / "checkpoints"))["step"] < 300


@pytest.mark.slow
def test_the_next_fifty_losses_of_a_resumed_run_are_those_of_one_that_never_stopped(
    small_config: Maker, tmp_path: Path
) -> None:
    options = {"steps": 56, "save_every": 6, "validate_every": 28, "keep_last": 99, "log": {"every": 1}}
    options |= {"optimiser": {"ema": 0.99, "accumulate": 2}, "batch_size": 8}
    whole = train(small_config("whole", **options), progress=False)
    shutil.copytree(whole, tmp_path / "resumed")
    for path in (tmp_path / "resumed" / "checkpoints").glob("*.pt"):
        if path.name != "step_00000006.pt":
            path.unlink()
    train(small_config("resumed", **options, workers=2), resume=True, progress=False)
    first, again = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "resumed"))
    told = [
        [(r["kind"], r["step"], r["loss"]) for r in records if r["kind"] in ("train", "validation")]
        for records in (first, again)
    ]
    assert told[0] == told[1] and sum(kind == "train" and step > 6 for kind, step, _ in told[1]) == 50
    a, b = (load_checkpoint(tmp_path / n / "checkpoints" / "step_00000056.pt") for n in ("whole", "resumed"))
    assert all(torch.equal(a["mean"]["tensors"][n], b["mean"]["tensors"][n]) for n in a["model"])


def test_going_on_with_another_config_is_refused_by_name_and_leaves_the_run_as_it_was(small_config: Maker) -> None:
    out = train(small_config(steps=1), progress=False)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"another hsa.*start a new `out`"):
        train(small_config(steps=1, hsa={"temperature": 0.1}), resume=True, progress=False)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_run_killed_before_its_first_checkpoint_or_in_the_middle_of_a_line_goes_on(
    small_config: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    config = small_config(steps=2, save_every=1, log={"every": 1})
    with pytest.raises(FileNotFoundError, match="no run was started here"):
        caplog.clear()
        train(config, resume=True, progress=False)
    log = train(config, progress=False) / "metrics.jsonl"
    whole = [(r["kind"], r["step"], r["loss"]) for r in read_metrics(log)]
    for kept in ("step_00000001.pt", None):
        for path in (log.parent / "checkpoints").glob("*.pt"):
            if path.name != kept:
                path.unlink()
        log.write_text(log.read_text(encoding="utf-8") + '{"kind": "tr', encoding="utf-8")
        caplog.clear()
        train(config, resume=True, progress=False)
        assert [(r["kind"], r["step"], r["loss"]) for r in read_metrics(log)] == whole
        assert log.read_text(encoding="utf-8").endswith("}\n") and "logged again" in caplog.text


def test_the_newest_checkpoints_and_the_best_are_kept(tmp_path: Path) -> None:
    for step in range(1, 6):
        state = {"model": {}, "step": step}
        save_checkpoint(tmp_path, state, 2, state if step == 3 else None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "step_00000004.pt", "step_00000005.pt"]
    assert load_checkpoint(tmp_path / "best.pt")["step"] == 3
