"""Benchmark scripts: each can be imported, and some run at tiny sizes."""

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from tactile_align.diagnostics.pointing import POINTER, Pointed
from tests.benchmarks import gpu, inputs, no_information, pointer, scale

SCRIPTS = sorted(path.stem for path in (Path(__file__).parent / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_benchmark_imports_only_names_that_exist(name: str) -> None:
    assert callable(import_module(f"tests.benchmarks.{name}").main)


def test_the_benchmark_without_information_trains_two_steps(capsys: pytest.CaptureFixture[str]) -> None:
    no_information.main(["bank-and-regions", "--steps", "2"])
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| bank-and-regions")]
    assert float(row.split(" | ")[1]) > 0.9


@pytest.mark.parametrize("name", inputs.GENERATORS)
def test_random_spellings_are_read_right_and_damage_is_named(name: str) -> None:
    for library in {"cells": ("pyarrow", "av"), "attributes": ("zarr",)}.get(name, ()):
        pytest.importorskip(library)
    assert inputs.wrong(name, range(20)) == []


def test_the_benchmark_of_scale_measures_three_episodes_and_names_what_is_over_a_bar(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scale.main([str(scale.written(tmp_path, 3)), "--here", "--parts", "files", "listing"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _ in lines] == ["files written", "cold listing", "warm listing"]
    slow = {100: {"CPU s": 0.1}, 1000: {"CPU s": 9.0}}
    assert len(scale.judged("warm listing", slow)) == 2 and len(scale.judged("inspect", slow)) == 1
    assert scale.judged("warm listing", {100: {"CPU s": 0.1}, 1000: {"CPU s": 1.0}}) == []


def test_the_gpu_benchmark_runs_dry_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--dry"]) == 0
    rows = [line.split(" | ")[:2] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    parts = [f"{part.removeprefix('| ').split()[0].rstrip(',')} {precision}" for part, precision in rows[1:]]
    expected = ["ViT-demo float32", "loss float32", "ViT-demo TF32", "loss TF32", "ViT-demo bfloat16"]
    assert parts == [*expected, "kinematics torch.float64", "kinematics torch.float32"]


def test_pointers_are_compared_moment_by_moment_over_episodes() -> None:
    rng = np.random.default_rng(3)
    episode, time = np.repeat(np.arange(12), 6), np.tile(np.arange(6), 12)
    away, done = rng.uniform(1, 20, (72, 1)), rng.random((72, 1)) < 0.5

    def result(more: float, said: np.ndarray) -> Pointed:
        px, yes = {POINTER: away + more}, np.ones((72, 1), bool)
        places = np.zeros((72, 1, 2))
        return Pointed("v", episode, time, yes, places, done, yes, {}, px, px, done.astype(float), said)

    late = done.copy()
    late[np.flatnonzero(done)[::2]] = False
    own, other = [result(0, done)] * 2, [result(4, late)] * 2
    *rows, f1 = pointer.apart(own, other)
    assert len(rows) == 4 and all(line.endswith("| -4.0 [-4.0, -4.0] | -4.0 [-4.0, -4.0] |") for line in rows)
    hits, misses = late.sum(), (done & ~late).sum()
    gain = 1 - 2 * hits / (2 * hits + misses)
    assert f1.startswith(f"v: F1 of done {gain:+.3f} [0.") and pointer.f1_text(own) == "1.000 [1.000, 1.000]"
