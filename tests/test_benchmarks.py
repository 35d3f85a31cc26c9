"""Benchmark scripts: each can be imported, and some run at tiny sizes."""

import json
import re
from dataclasses import replace
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
    episode, time = np.repeat(np.arange(12), 6), np.tile(np.arange(6), 12)
    done = np.random.default_rng(3).random((72, 1)) < 0.5

    def result(px: np.ndarray, says: np.ndarray) -> Pointed:
        known, places, by = np.ones((72, 1), bool), np.zeros((72, 1, 2)), {POINTER: px[:, None]}
        return Pointed("v", episode, time, known, places, done, known, {}, by, by, done.astype(float), says)

    late = done.copy()
    late[np.flatnonzero(done)[::2]] = False
    none = [result(np.zeros(72), done)] * 2
    # The errors of the second run are far above those of the first. Each draw of episodes has both, so its median
    # lies between them; if the episodes of the two were mixed up, a draw could have more of one.
    some = [result(more + episode, late) for more in (0.0, 100.0)]
    assert pointer.alike(none[0], some[1]) and not pointer.alike(none[0], replace(none[0], done=late))
    *rows, f1 = pointer.apart(none, some)
    assert len(rows) == 4
    for line in rows:
        middle, low, high = map(float, re.findall(r"[+-][0-9.]+", line)[:3])
        assert middle == -55.5 and -61 <= low < middle < high <= -50
    hits, misses = late.sum(), (done & ~late).sum()
    gain = 1 - 2 * hits / (2 * hits + misses)
    assert f1.startswith(f"v: F1 of done {gain:+.3f} [+0.") and pointer.f1_text(none) == "1.000 [1.000, 1.000]"
