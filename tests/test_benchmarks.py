"""Benchmarks that need other hardware run here at tiny sizes, so that they are ready when it is there."""

import pytest

from tests.benchmarks import gpu


def test_the_gpu_benchmark_runs_dry_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--dry"]) == 0
    rows = [line.split(" | ")[:2] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    parts = [f"{part.removeprefix('| ').split()[0].rstrip(',')} {precision}" for part, precision in rows[1:]]
    expected = ["ViT-demo float32", "loss float32", "ViT-demo TF32", "loss TF32", "ViT-demo bfloat16"]
    assert parts == [*expected, "kinematics torch.float64", "kinematics torch.float32"]
