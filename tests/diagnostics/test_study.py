"""The study's rows, its table and its verdicts; and, slowly, that one run goes through and is taken up again."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tactile_align.diagnostics import study as study_module
from tactile_align.diagnostics.readouts import view_readouts
from tactile_align.diagnostics.study import (
    PLANS,
    ROWS,
    TABLE,
    Cell,
    config_of,
    merged,
    results,
    study,
    table_text,
    verdicts,
)
from tactile_align.diagnostics.summary import Hits, Recall
from tactile_align.policies.build import LoadedRun
from tactile_align.training.data import load_data

PLAN = PLANS["full"]


def result(row: str, seed: int, r1: float, half: float = 0.02) -> Cell:
    episode, contact = np.divmod(np.arange(400), 10)
    hits = np.clip(r1 + 0.1 * np.random.default_rng(0).standard_normal(400), 0, 1)  # the same noise in every row
    both = Recall(
        at={1: r1, 5: 3 * r1},
        interval={1: (r1 - half, r1 + half), 5: (0, 1)},
        hits=Hits(tuple(episode.tolist()), tuple(contact.tolist()), tuple(hits.tolist())),
        median_rank=9.0,
        gallery=64,
        chance={1: 1 / 64, 5: 5 / 64},
        queries=40,
        episodes=9,
    )
    return Cell(row, seed, "SCRATCH", 320, 4000, False, 3.2, {"both": both})


def all_rows(**r1: float) -> list[Cell]:
    usual = dict.fromkeys((row.name for row in TABLE), 0.02) | r1
    return [result(name, 0, value) for name, value in usual.items()]


@pytest.mark.parametrize("name", list(ROWS))
def test_every_row_is_a_valid_config_of_the_same_size(name: str, tmp_path: Path) -> None:
    base, config = config_of(tmp_path, ROWS["grid"], 0, PLAN), config_of(tmp_path, ROWS[name], 0, PLAN)
    assert config.features.vision == base.features.vision and config.features.touch == base.features.touch
    assert (config.steps, config.batch_size, config.held_out) == (base.steps, base.batch_size, base.held_out)
    assert (
        name == "grid"
        or any(ROWS[name].shift_px)
        or config.model_dump(exclude={"out"}) != base.model_dump(exclude={"out"})
    )


def test_changes_reach_into_lists_and_leave_the_base_alone() -> None:
    base = {"a": {"b": 1, "c": 2}, "views": [{"camera": "x"}]}
    assert merged(base, {"a": {"b": 5}, "views": [{"zoom": 2}]}) == {
        "a": {"b": 5, "c": 2},
        "views": [{"camera": "x", "zoom": 2}],
    }
    assert base == {"a": {"b": 1, "c": 2}, "views": [{"camera": "x"}]}


def test_the_table_says_scratch_chance_and_intervals() -> None:
    text = table_text(all_rows(grid=0.2), PLAN.gallery)
    assert "SCRATCH" in text and "R@1 0.016" in text
    assert "| grid in box | 0 | 0.200 [0.180, 0.220] | 0.600 | 9.0 | 3.2 |" in text
    assert "one thing in" not in text


def test_ablations_stand_in_a_table_of_their_own_below_their_base() -> None:
    comparison, ablations = table_text([*all_rows(), result("shift_25", 0, 0.1)], PLAN.gallery).split(
        "one thing in 'crop at box"
    )
    assert "to the right" not in comparison and "whole image" not in ablations
    assert ablations.index("crop at box, grid") < ablations.index("box 25 px to the right")


def test_a_box_that_wins_is_said_to_win_and_a_tie_is_not() -> None:
    won = verdicts(all_rows(grid=0.5, crop=0.6))[0]
    assert "'crop at box, grid" in won and "better than whole image, grid and opening only (" in won
    assert "the interval of 'box elsewhere, grid' contains chance" in won and "NOT" not in won
    tied = verdicts(all_rows(grid=0.5, whole=0.49))[0]
    assert "better than opening only (" in tied
    lost = verdicts(all_rows(elsewhere=0.5))[0]
    assert "neither whole image nor opening only" in lost and "'box elsewhere, grid' does NOT contain chance" in lost
    assert "'crop elsewhere, grid' contains chance" in lost
    assert not verdicts(all_rows()[1:]), "a verdict needs every row"


def test_the_best_of_four_boxes_is_judged_by_corrected_paired_differences() -> None:
    cells = all_rows(grid=0.5)
    (line,) = verdicts(cells)
    rows = {cell.row: cell.both for cell in cells}
    plain, corrected = (rows["grid"].minus(rows["whole"], comparisons) for comparisons in (1, 8))
    assert f"{corrected.text()}" in line and f"{plain.text()}" not in line and "corrected for 8 comparisons" in line
    assert plain.interval is not None and corrected.interval is not None and corrected.interval[0] < plain.interval[0]


def test_unknown_rows_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown rows: gird\. Use only names from: table, ablations, opening"):
        study(tmp_path, ["gird"])


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory, regrasp_folder: Path) -> Iterator[Path]:
    """A study of two rows, as small as they come, on a recording that is there already."""
    folder = tmp_path_factory.mktemp("study")
    shutil.copytree(regrasp_folder, folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_module, "simulate", lambda out, **_: sorted(Path(out).glob("*.hdf5")))
        study(folder, ["grid", "shift_25"], [0], "smoke", progress=False)
        yield folder


@pytest.mark.slow
def test_a_smoke_run_goes_through_and_is_not_run_twice(smoke: Path) -> None:
    text = (smoke / "table.md").read_text(encoding="utf-8")
    assert "grid in box" in text and "box 25 px to the right" in text and "SCRATCH" in text
    made = [path.stat().st_mtime_ns for path in sorted(smoke.glob("runs/*/metrics.jsonl"))]
    assert study(smoke, ["grid", "shift_25"], [0], "smoke", progress=False) == text
    assert made == [path.stat().st_mtime_ns for path in sorted(smoke.glob("runs/*/metrics.jsonl"))]
    assert [cell.row for cell in results(smoke)] == ["grid", "shift_25"]


@pytest.mark.slow
def test_all_readouts_of_a_run_come_in_one_call(smoke: Path) -> None:
    config = config_of(smoke, ROWS["grid"], 0, PLANS["smoke"])
    data = load_data(config, progress=False)
    run = LoadedRun.load(Path(config.out), config, data.held_out, "retrieval")
    found = view_readouts(run, "left_wrist-tactile1", gallery=8)
    galleries = found.galleries
    assert set(galleries) == {"contact only", "cross-episode", "same episode with a gap", "regions of the same image"}
    assert galleries["contact only"]["both"].gallery == 8
    assert 2 <= galleries["regions of the same image"]["touch to vision"].gallery <= 8
    space, place = found.space, found.localisation
    assert space is not None and space.dim == 128 and space.pairs > 50
    assert place is not None and place.distance_mm is not None
    # The pad hangs some ten centimetres below the wrist camera: a pixel of the small input is a few tenths of a mm.
    assert 0 <= place.hit <= 1 and place.distance_px * 0.2 < place.distance_mm < place.distance_px * 5
    assert set(found.left_out) == {"probes"}, "two held-out episodes are too few for five folds"
