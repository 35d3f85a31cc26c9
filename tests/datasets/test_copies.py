"""Copies of a recording are found also when they were renamed, encoded again or cut out."""

from pathlib import Path
from typing import Any

import numpy as np

from tactile_align.datasets.codec import encode_jpeg
from tactile_align.datasets.copies import Copy, copies
from tactile_align.datasets.episodes import write_episode
from tactile_align.datasets.inspect import inspect_path
from tests.datasets.test_inspect import moving


def walk(seed: int, steps: int = 60) -> np.ndarray:
    return np.cumsum(np.random.default_rng(seed).normal(0, 0.01, (steps, 14)), axis=0)


def test_a_cut_out_or_rounded_copy_is_a_copy_and_another_recording_is_not() -> None:
    whole, other = walk(0), walk(1)
    states = [whole, other, whole[20:40], whole.astype(np.float32).astype(np.float64), np.vstack([walk(2), other[:45]])]
    assert copies(states) == [Copy(0, 2, 1.0), Copy(0, 3, 1.0), Copy(1, 4, 38 / 53)]
    assert copies([whole, walk(3), np.roll(whole, 1, axis=1)]) == []


def test_a_recording_cut_into_overlapping_episodes_is_found_in_all_its_owners() -> None:
    whole = walk(0, 200)
    parts = [whole[:100], whole[100:], whole[50:150]]
    assert copies(parts) == copies(parts, ["train", "train", "test"]) == [Copy(0, 2, 86 / 93, others=2)]
    assert copies(parts, ["train", "train", "train"]) == copies([]) == []
    first = np.vstack([whole[:40], walk(1, 60)])
    assert copies([first, whole[:80], np.vstack([whole[:80], walk(2, 60)])])[-1] == Copy(1, 2, 1.0)


def test_the_same_rest_before_and_after_a_motion_makes_no_copy() -> None:
    rest = np.zeros((40, 14))
    assert copies([np.vstack([rest, walk(i), rest]) for i in range(3)]) == []
    assert copies([rest, rest + 1]) == [] and copies([rest, rest]) == [Copy(0, 1, 1.0)]
    assert copies([rest[:3], walk(0)[:3], walk(0)[:3]]) == [Copy(1, 2, 1.0)]  # shorter than a window


def test_inspect_names_a_copy_that_was_cut_and_encoded_again(tmp_path: Path) -> None:
    whole: dict[str, Any] = moving(0)
    write_episode(tmp_path / "a.hdf5", **whole)
    cut = {name: whole[name][10:40] for name in ("qpos", "action")}
    images = {name: [encode_jpeg(frame, 60) for frame in frames[10:40]] for name, frames in whole["images"].items()}
    touches = {name: frames[10:40] for name, frames in whole["touches"].items()}
    write_episode(tmp_path / "b.hdf5", **{**whole, **cut, "images": images, "touches": touches})
    write_episode(tmp_path / "c.hdf5", **moving(1))
    inspection = inspect_path(tmp_path, timing=False)
    (fault,) = inspection.faults
    assert (fault.kind, fault.file.name) == ("duplicate", "b.hdf5")
    assert "shares 100% of its joints and actions with a.hdf5" in fault.text
