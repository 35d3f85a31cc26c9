"""Two processes train as one: the same losses and the same weights from the same batches."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tactile_align.config.train import TrainConfig
from tactile_align.policies.checkpoint import latest_checkpoint, load_checkpoint
from tactile_align.training.logs import read_metrics
from tactile_align.training.loop import train
from tests.processes import start
from tests.training.heads import BLIND, SHAPE, on_joints

Maker = Callable[..., TrainConfig]


def train_as(rank: int, port: int, config: TrainConfig) -> None:
    """Train as one of two processes, told of each other as torchrun tells them."""
    facts = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in facts.items()})
    torch.set_num_threads(1)
    train(config, progress=False)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


COMPARED = (
    "loss",
    "l1",
    "kl",
    "denoise",
    "hsa",
    "chance",
    "pairs",
    "no_contact",
    "no_negative",
    "negatives_from",
    "bank_share",
    "excluded",
)
"""Names of the log before the first slash that are compared."""


def train_as_two(config: TrainConfig) -> None:
    """Train in two processes that share each batch."""
    port = free_port()
    ranks = [start(train_as, rank, port, config) for rank in range(2)]
    for rank in ranks:
        rank.join(timeout=500)
    assert [rank.exitcode for rank in ranks] == [0, 0]


def compare(alone: Path, together: Path, least: int) -> None:
    """Assert that two run folders hold the same losses, at least so many names a record, and the same weights."""
    outs = (alone, together)
    records = [[r for r in read_metrics(out / "metrics.jsonl") if r["kind"] != "finding"] for out in outs]
    for one, two in zip(*records, strict=True):
        names = [n for n in one if n.partition("/")[0] in COMPARED]
        assert len(names) >= least
        for name in names:
            assert two[name] == pytest.approx(one[name], rel=2e-3), (one["step"], name)
    weights = [load_checkpoint(latest_checkpoint(out / "checkpoints"))["model"] for out in outs]
    for name, value in weights[0].items():
        if value.is_floating_point() and not name.startswith(
            "alignment.memory.banks"
        ):  # whose rows come in another order
            assert float((weights[1][name] - value).abs().max()) < 2e-3, name
    first = [next(r for r in one if r["kind"] == "train") for one in records]
    assert first[1]["gradient_norm"] == pytest.approx(first[0]["gradient_norm"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"hsa": {"symmetric": True, "region_negatives": 2, "finger_negative": True, "bank": 18, "touch_ceiling": 0.98}},
        {"hsa": {"kind": "mse", "learn_temperature": False}, "steps": 2, "validate_every": 2, "save_every": 2},
        {"hsa": {"pairs": "two_crops"}, "train_policy": False, "steps": 2, "validate_every": 2, "save_every": 2},
    ],
    ids=["plain", "all negatives", "mse", "two crops"],
)
def test_two_processes_equal_one(small_config: Maker, changes: dict[str, object]) -> None:
    # float32 sums in another order differ; a wrong gradient would differ by a factor, not by rounding.
    plain = {"policy": {"dropout": 0.0}, "steps": 4, "validate_every": 4, "log": {"every": 1}, **changes}
    one, config = train(small_config("one", **plain), progress=False), small_config("two", **plain)
    train_as_two(config)
    compare(one, Path(config.out), least=7)


@pytest.mark.slow
def test_two_processes_equal_one_with_a_denoiser(regrasp_folder: Path, tmp_path: Path) -> None:
    policy = {"head": "flow", **SHAPE, **BLIND, "denoiser": {"layers": 2}, "dropout": 0.0}
    one, two = (on_joints(regrasp_folder, tmp_path / name, "flow", policy=policy) for name in ("one", "two"))
    train_as_two(two)
    compare(train(one, progress=False), Path(two.out), least=5)
