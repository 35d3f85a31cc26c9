"""A compiled network trains as the plain one does, and leaves checkpoints that are loaded without compiling."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch._dynamo.utils import counters

from tactile_align.config.train import TrainConfig
from tactile_align.policies.checkpoint import latest_checkpoint, load_checkpoint
from tactile_align.training.data import load_data
from tactile_align.training.logs import read_metrics
from tactile_align.training.loop import train

Maker = Callable[..., TrainConfig]


@pytest.mark.slow
def test_compiled_steps_equal_plain_ones(small_config: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    # Traced as for compiling, but run as it is: to machine code takes a minute, `tests.benchmarks.compiled`.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    require_equal_training(small_config)


def require_equal_training(config_of: Maker) -> None:
    """Train plain and compiled; config_of(out, **changes) returns the config of a run."""
    options = {"steps": 3, "validate_every": 3, "policy": {"dropout": 0.0}, "log": {"every": 1}}
    data = load_data(config_of("plain", **options), progress=False)
    torch.compiler.reset()
    counters.clear()
    plain = train(config_of("plain", **options), data=data, progress=False)
    assert counters["stats"]["unique_graphs"] == 0
    compiled = train(config_of("compiled_run", **options, optimiser={"compile": True}), data=data, progress=False)
    assert counters["stats"]["unique_graphs"] > 0  # it was not just run eagerly
    torch.compiler.reset()
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
