"""A compiled network trains as the plain one does, and leaves checkpoints that are loaded without compiling."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch._inductor.config as inductor

from tactile_align.config.train import TrainConfig
from tactile_align.policies.checkpoint import latest_checkpoint, load_checkpoint
from tactile_align.training.data import load_data
from tactile_align.training.logs import read_metrics
from tactile_align.training.loop import train

Maker = Callable[..., TrainConfig]


@pytest.mark.slow
@pytest.mark.skipif(
    not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))),
    reason="torch.compile on the CPU needs a C++ compiler (g++ or clang++)",
)
def test_compiled_steps_equal_plain_ones(small_config: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    monkeypatch.setattr(inductor.cpp, "simdlen", 1)  # scalar kernels are compiled in two thirds of the time
    options = {"steps": 3, "validate_every": 3, "policy": {"dropout": 0.0}, "log": {"every": 1}}
    data = load_data(small_config("plain", **options), progress=False)
    torch.compiler.reset()
    plain = train(small_config("plain", **options), data=data, progress=False)
    assert not (tmp_path / "compiled").exists()
    compiled = train(small_config("compiled_run", **options, optimiser={"compile": True}), data=data, progress=False)
    torch.compiler.reset()
    assert any((tmp_path / "compiled").rglob("*.so"))  # it was not just run eagerly
    outs = (plain, compiled)
    records = [[r for r in read_metrics(out / "metrics.jsonl") if r["kind"] != "finding"] for out in outs]
    assert len(records[0]) == len(records[1]) == 4
    for eager, fast in zip(*records, strict=True):
        for name in ("loss", "l1", "kl", "hsa"):
            # A validation pass draws its latents inside the network, where compiled code has draws of its own.
            drawn = eager["kind"] == "validation" and name in ("loss", "l1")
            assert fast[name] == pytest.approx(eager[name], rel=1e-2 if drawn else 1e-4), (eager["step"], name)
    a, b = (load_checkpoint(latest_checkpoint(out / "checkpoints"))["model"] for out in (plain, compiled))
    assert a.keys() == b.keys()
