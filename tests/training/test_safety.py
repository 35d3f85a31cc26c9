"""Kills, full disks and stop signals never cost a run its last good checkpoint; resuming is exact."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tactile_align.config.train import TrainConfig
from tactile_align.policies.checkpoint import latest_checkpoint, load_checkpoint, save_best, save_checkpoint
from tactile_align.training.logs import read_metrics
from tactile_align.training.loop import train
from tests.processes import start

Maker = Callable[..., TrainConfig]


def save_for_ever(folder: Path, first: int) -> None:
    state = {"model": {f"w{i}": torch.randn(64, 1024) for i in range(8)}, "optimiser": {}}
    for step in range(first, 10**6):
        whole = {**state, "step": step}
        save_checkpoint(folder, whole, 2)
        if step % 3 == 0:
            save_best(folder, {"model": state["model"], "step": step, "measure": "action", "value": 0.5})


def train_quietly(config: TrainConfig) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    train(config, progress=False)


def test_kill_9_at_twenty_random_moments_leaves_only_checkpoints_that_load(tmp_path: Path) -> None:
    rng, kept = random.Random(7), 0
    for attempt in range(20):
        saving = start(save_for_ever, tmp_path, 1000 * attempt)
        time.sleep(rng.uniform(0.0, 0.4))
        saving.kill()
        saving.join()
        left = [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
        for path in left:
            kept += load_checkpoint(path)["model"]["w7"].shape == (64, 1024)
    assert kept >= 20


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_last_checkpoint(small_config: Maker) -> None:
    config = small_config(steps=400, save_every=1, validate_every=400, policy={"dropout": 0.0})
    running = start(train_quietly, config)
    checkpoints = Path(config.out) / "checkpoints"
    deadline = time.monotonic() + 240
    while len(list(checkpoints.glob("step_*.pt"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    running.kill()
    running.join()
    done = load_checkpoint(latest_checkpoint(checkpoints))["step"]
    assert 3 <= done < 400
    records = read_metrics(Path(config.out) / "metrics.jsonl")
    assert records[0]["step"] == 1


def test_a_full_disk_leaves_the_last_good_checkpoint_and_says_so(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="limits on file sizes are a Unix thing")
    state = {"model": {"w": torch.randn(512, 512)}, "step": 1}
    save_checkpoint(tmp_path, state, 1)
    best = {**state, "measure": "action", "value": 0.5}
    save_best(tmp_path, best)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))  # what may still be written, as on a full disk
    try:
        with pytest.raises(OSError, match=r"step_00000002\.pt: .*could not .*Last good checkpoint: step_00000001\.pt"):
            save_checkpoint(tmp_path, {**state, "step": 2}, 1)
        with pytest.raises(
            OSError, match=r"best_action\.safetensors: .*could not .*Last good checkpoint: step_00000001"
        ):
            save_best(tmp_path, {**best, "step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best_action.safetensors", "step_00000001.pt"]
    assert load_checkpoint(tmp_path / "best_action.safetensors")["step"] == 1
    assert load_checkpoint(tmp_path / "step_00000001.pt")["model"]["w"].shape == (512, 512)


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_stop_signal_saves_and_the_run_can_go_on(small_config: Maker, sent: signal.Signals) -> None:
    config = small_config(steps=300, save_every=300, validate_every=300, keep_last=1)
    running = start(train_quietly, config)
    log = Path(config.out) / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while (not log.exists() or not log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert running.pid is not None
    os.kill(running.pid, sent)
    running.join(timeout=120)
    assert running.exitcode == 0
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
    train(small_config("resumed", **options, workers=1), resume=True, progress=False)
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
    with pytest.raises(ValueError, match=r"hsa changed.*train into a new `out`"):
        train(small_config(steps=1, hsa={"temperature": 0.1}), resume=True, progress=False)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_run_killed_before_its_first_checkpoint_or_in_the_middle_of_a_line_goes_on(
    small_config: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    config = small_config(steps=2, save_every=1, log={"every": 1})
    with pytest.raises(FileNotFoundError, match="No run was started here"):
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
        assert log.read_text(encoding="utf-8").endswith("}\n") and "removed" in caplog.text


def test_a_run_resumes_before_a_damaged_newest_checkpoint_only_where_told_and_deletes_nothing(
    small_config: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    config = small_config(steps=3, save_every=1, log={"every": 1})
    out = train(config, progress=False)
    whole = [(r["kind"], r["step"], r.get("loss")) for r in read_metrics(out / "metrics.jsonl")]
    newest = out / "checkpoints" / "step_00000003.pt"
    torn = newest.read_bytes()[:-200]
    newest.write_bytes(torn)
    with pytest.raises(ValueError, match=r"step_00000003\.pt: .*damaged.* from step_00000002\.pt .* --skip-damaged$"):
        train(config, resume=True, progress=False)
    caplog.clear()
    train(config, resume=True, skip_damaged=True, progress=False)
    assert [(r["kind"], r["step"], r.get("loss")) for r in read_metrics(out / "metrics.jsonl")] == whole
    assert (out / "checkpoints" / "step_00000003.pt.damaged").read_bytes() == torn
    assert load_checkpoint(newest)["step"] == 3 and "step_00000003.pt.damaged" in caplog.text
    for path in (out / "checkpoints").glob("step_*.pt"):
        path.write_bytes(torn)
    with pytest.raises(ValueError, match=r"step_00000001\.pt: .*damaged"):
        train(config, resume=True, skip_damaged=True, progress=False)


def test_the_newest_checkpoints_and_the_best_are_kept(tmp_path: Path) -> None:
    for step in range(1, 6):
        state = {"model": {}, "step": step}
        save_checkpoint(tmp_path, state, 2)
        if step == 3:
            save_best(tmp_path, {**state, "measure": "action", "value": 0.5})
    kept = ["best_action.safetensors", "step_00000004.pt", "step_00000005.pt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == kept
    assert load_checkpoint(tmp_path / kept[0])["step"] == 3
