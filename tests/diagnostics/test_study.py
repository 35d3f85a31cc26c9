"""Studies: their files, the tables with paired differences, and, slowly, runs that are made, resumed and repeated."""

import shlex
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tactile_align.cli import run
from tactile_align.config.study import StudyConfig, merged
from tactile_align.config.train import TrainConfig, config_text
from tactile_align.diagnostics.actions import POLICY as POLICY_ROW
from tactile_align.diagnostics.actions import action_moments
from tactile_align.diagnostics.intervals import paired_interval
from tactile_align.diagnostics.readouts import view_readouts
from tactile_align.diagnostics.study import actions_of, commands, config_of, head_parameters, load_study, results, study
from tactile_align.diagnostics.study_tables import RunResult, paired, table_text
from tactile_align.diagnostics.summary import Recall
from tactile_align.errors import InputError
from tactile_align.policies.build import LoadedRun, make_model
from tactile_align.training.data import load_data
from tests.processes import CONTEXT
from tests.training.conftest import POLICY, TOWER

ALIGNMENT = load_study("alignment")
SHIPPED = [(name, row) for name in ("alignment", "policy") for row in load_study(name).rows]


@pytest.mark.parametrize(("name", "row"), SHIPPED)
def test_every_shipped_row_is_a_valid_config_of_the_same_size(name: str, row: str, tmp_path: Path) -> None:
    plan = load_study(name)
    first = next(name for name in plan.rows if plan.rows[name].base is None and not plan.rows[name].changes)
    base, config = config_of(plan, tmp_path, first, 0), config_of(plan, tmp_path, row, 0)
    assert config.features.vision == base.features.vision and config.features.touch == base.features.touch
    for same in ("steps", "batch_size", "held_out", "contact_share", "seed"):
        assert getattr(config, same) == getattr(base, same)
    others = [config_of(plan, tmp_path, other, 0) for other in plan.rows if other != row]
    assert all(config.model_dump(exclude={"out"}) != other.model_dump(exclude={"out"}) for other in others)


def head_of(row: str) -> int:
    alignment = make_model(config_of(ALIGNMENT, Path("x"), row, 0), 7, 7).alignment
    assert alignment is not None
    return head_parameters(alignment)


def test_the_equal_capacity_row_has_the_head_parameters_of_the_grid() -> None:
    grid, mean = 16 * 96 * 128 + 128, 96 * 128 + 128  # tokens of ViT-demo have 96 numbers, features 128
    assert (head_of("crop"), head_of("crop_mean"), head_of("plain")) == (grid, mean, mean)
    assert abs(head_of("capacity") / grid - 1) < 0.05
    assert head_of("opening") == 2 * 128 + 128 + 2 * (128 * 128 + 128)


def test_the_equal_area_rows_cross_layout_with_area() -> None:
    features = [
        config_of(ALIGNMENT, Path("x"), row, 0).features for row in ("layout_small", "plain_small", "plain", "crop")
    ]
    assert [(f.pooling, f.grid, f.margin) for f in features] == [
        ("grid", 4, 1.0),
        ("grid", 1, 1.0),
        ("grid", 1, 2.2),
        ("grid", 4, 2.2),
    ]


def test_changes_reach_into_lists_and_leave_the_base_alone() -> None:
    base = {"a": {"b": 1, "c": 2}, "views": [{"camera": "x"}]}
    assert merged(base, {"a": {"b": 5}, "views": [{"zoom": 2}]}) == {
        "a": {"b": 5, "c": 2},
        "views": [{"camera": "x", "zoom": 2}],
    }
    assert base == {"a": {"b": 1, "c": 2}, "views": [{"camera": "x"}]}


def plan_of(rows: dict[str, Any], **entries: Any) -> StudyConfig:
    return StudyConfig.model_validate({"name": "own", "config": {"hsa": {"min_gap": 8}}, "rows": rows} | entries)


def test_a_row_builds_on_its_base_and_removes_keys() -> None:
    data = {"data": [{"path": "x", "rig": "y"}], "views": [{"camera": "a", "sensor": "b"}]}
    plan = plan_of(
        {
            "a": {"changes": {"features": {"margin": 2.2}}},
            "b": {"base": "a", "changes": {"steps": 7}},
            "c": {"base": "b", "unset": ["features.margin", "hsa.min_gap"]},
        }
    )
    b, c = plan.train_config("b", **data), plan.train_config("c", **data)
    assert (b.features.margin, b.steps, b.hsa.min_gap) == (2.2, 7, 8)
    assert (c.features.margin, c.steps, c.hsa.min_gap) == (1.5, 7, 20)


@pytest.mark.parametrize("preset", ["balanced", "tiny"])
def test_a_preset_fits_the_head_that_a_row_chooses(preset: str) -> None:
    data = {"data": [{"path": "x", "rig": "y"}], "hsa": {"weight": 0.0}}
    rows: dict[str, Any] = {
        "act": {},
        "flow": {"changes": {"policy": {"head": "flow"}}},
        "longer": {"base": "flow", "changes": {"steps": 7}, "unset": ["optimiser.clip_norm"]},
        "back": {"base": "flow", "unset": ["policy.head"]},
    }
    plan = plan_of(rows, config={"preset": preset, "policy": {"vision": "none"}})
    act, flow, longer, back = (plan.train_config(name, **data) for name in rows)
    assert act.optimiser.ema is None and back == act
    assert flow.optimiser.lr == max(1e-4, act.optimiser.lr) and flow.optimiser.ema == 0.999
    assert longer.optimiser == flow.optimiser.model_copy(update={"clip_norm": 10.0}) and longer.steps == 7
    assert plan.train_config("act", policy={"head": "flow"}, **data) == flow


@pytest.mark.parametrize(
    ("rows", "entries", "message"),
    [
        ({"a": {"base": "b"}, "b": {"base": "a"}}, {}, r"rows\.b\.base = 'a'"),
        ({"a": {"base": "z"}}, {}, r"rows\.a\.base = 'z'"),
        ({"a": {"shift_px": [1, 0]}, "b": {"base": "a"}}, {}, r"rows\.b\.base = 'a'.*without shift_px"),
        ({"a": {}}, {"groups": {"g": {"rows": ["a", "z"], "against": ["a"]}}}, r"groups\.g.*: z\."),
        (
            {"a": {}},
            {"groups": {"g": {"rows": ["a"], "against": ["standing_still"]}}},
            r"groups\.g.*: standing_still\.",
        ),
    ],
)
def test_a_study_file_with_a_wrong_name_is_refused(rows: dict[str, Any], entries: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_of(rows, **entries)


def test_a_wrong_row_is_named_before_anything_is_recorded_or_trained(tmp_path: Path) -> None:
    for row, message in (
        ('unset = ["steps"]', r"row b: unset = 'steps', but the base does not set this key"),
        ("changes = { step = 3 }", r"row b: step: unknown key; did you mean 'steps'"),
        ("changes = { views = [{ zoom = 2 }, { zoom = 3 }] }", r"row b: a list of tables in `changes`"),
    ):
        text = (
            "recording = { episodes = 3 }\n"
            'config = { views = [{ camera = "left_wrist", sensor = "tactile1" }] }\n[rows]\na = {}\n'
            + f"b = {{ {row} }}\n"
        )
        (tmp_path / "mine.toml").write_text(text)
        with pytest.raises(InputError, match=message):
            study(tmp_path / "mine.toml", tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_unknown_rows_and_studies_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown rows: gird\. Use only names from: box, area, more, opening"):
        study("alignment", tmp_path / "out", ["gird"])
    assert not (tmp_path / "out").exists(), "nothing was recorded"
    with pytest.raises(
        InputError,
        match=r"'alinment': no such study.*alignment, closed_loop, closed_loop_quick, heads, pointer, policy, recipe",
    ):
        load_study("alinment")


def cell(row: str, seed: int = 0, values: Any = 0.2, **changes: Any) -> RunResult:
    values = np.broadcast_to(values, 90)
    r1 = float(values.mean())
    recall = Recall(
        at={1: r1, 5: 3 * r1},
        interval={1: (r1 - 0.02, r1 + 0.02), 5: (0, 1)},
        median_rank=9.0,
        gallery=64,
        chance={1: 1 / 64, 5: 5 / 64},
        queries=90,
        episodes=9,
    )
    episodes, places = [f"e{i // 10}" for i in range(90)], [i % 10 for i in range(90)]
    entries = {"values": values.tolist(), "episodes": episodes, "places": places, "recall": recall}
    entries |= {"judged_on": "test", "selected": "best R@1 0.120, step 160", **changes}
    return RunResult(row, seed, "SCRATCH", 320, 4000, 393344, False, 3.2, **entries)


def test_the_table_says_scratch_chance_intervals_and_head_parameters() -> None:
    text = table_text(ALIGNMENT, [cell("grid"), cell("gone")])
    assert "SCRATCH" in text and "R@1 0.016" in text
    assert "| grid in box | 0 | 0.200 [0.180, 0.220] | 0.600 | 9.0 | 393,344 | best R@1 0.120, step 160 | 3.2 |" in text
    assert "minus" not in text and "gone" not in text


def test_the_table_states_the_judged_episodes_and_runs_judged_on_different_parts_are_not_mixed() -> None:
    held_out = cell("crop", judged_on="held-out")
    assert "contacts of test episodes, averaged" in table_text(ALIGNMENT, [cell("grid")])
    assert "contacts of held-out episodes (selected on these episodes), averaged" in table_text(ALIGNMENT, [held_out])
    with pytest.raises(InputError, match=r"grid, seed 0 on test episodes and crop, seed 0 on held-out.*same part"):
        table_text(ALIGNMENT, [cell("grid"), held_out])


def test_each_group_compares_its_rows_with_its_references_only() -> None:
    cells = [cell(row) for row in ("whole", "opening", "grid", "crop", "plain", "left_25")]
    box, area, more = table_text(ALIGNMENT, cells).split("Group ")[1:]
    assert "minus whole image, grid | minus opening only" in box and "| crop at box, grid | 0 |" in box
    assert "| crop, grid 1 x 1 | 0 |" in area and "left" not in area and "minus whole" not in area
    assert "| crop 25 px to the left | 0 |" in more and "All 1 intervals" in more and "All 5 intervals" in box


def test_a_constant_difference_on_noisy_contacts_is_found_by_pairing_them() -> None:
    noise = np.random.default_rng(0).uniform(0, 0.8, 90)
    a, b = cell("a", values=noise + 0.05), cell("b", values=noise)
    turned = cell("a", values=(noise + 0.05)[::-1], episodes=a.episodes[::-1], places=a.places[::-1])
    for first in (a, turned):
        difference, _ = paired([first, b], "a", "b")
        assert difference is not None and difference.interval is not None
        assert 0 < difference.interval[0] <= 0.05 <= difference.interval[1] < 0.1
    wide = paired_interval(noise + 0.05, noise[::-1], np.array(a.episodes))
    assert wide is not None and wide[0] < 0 < wide[1], "unpaired contacts do not show it"


def test_seeds_are_averaged_and_a_seed_of_one_row_alone_is_left_out() -> None:
    cells = [cell("a", 0, 0.4), cell("a", 1, 0.2), cell("a", 2, 0.9), cell("b", 0, 0.1), cell("b", 1, 0.1)]
    difference, seeds = paired(cells, "a", "b")
    assert difference is not None and seeds == [0, 1]
    assert (difference.pairs, difference.episodes) == (90, 9) and difference.value == pytest.approx(0.2)
    assert paired(cells[2:], "a", "b") == (None, [])


def test_more_comparisons_give_wider_intervals_and_few_episodes_give_none() -> None:
    values, zero, episode = np.random.default_rng(1).uniform(size=90), np.zeros(90), np.arange(90) // 10
    one, many = (paired_interval(values, zero, episode, comparisons=n) for n in (1, 12))
    assert one is not None and many is not None and many[0] < one[0] and one[1] < many[1]
    assert paired_interval(values, zero, np.arange(90) % 3) is None


def test_a_policy_is_compared_with_standing_still_on_its_own_moments() -> None:
    plan = load_study("policy")
    still = np.linspace(0.3, 0.5, 90).tolist()
    phases = ["free"] * 45 + ["contact"] * 45
    values = np.repeat([0.2, 0.3], 45)
    cells = [cell("full", values=values, recall=None, standing_still=still, phases=phases, selected="step 60")]
    text = table_text(plan, cells)
    assert "| alignment, touch and region | 0 | 0.2500" in text and " | 0.3000 | 0.4000 | step 60 | 3.2 |" in text
    assert "minus standing still" in text and "| alignment, touch and region | 0 | -0.1500 [" in text


def test_an_action_study_has_the_errors_of_evaluate_in_robot_units(small_config: Callable[..., TrainConfig]) -> None:
    data = load_data(small_config(), progress=False)
    loaded = LoadedRun.untrained(small_config(), data.held_out)
    found, want = actions_of(loaded, data.train), action_moments(loaded, data.train)
    (qpos, action), row = data.held_out.low_dim()[0], 5
    still = np.abs(qpos[row] - action[row : row + POLICY["chunk_size"]]).mean()
    assert found["places"][row] == row and len(found["values"]) == len(found["episodes"]) == len(data.held_out)
    assert found["standing_still"][row] == pytest.approx(still, rel=1e-4)
    assert np.mean(found["values"]) == pytest.approx(want.phases()["all"][POLICY_ROW].error, abs=1e-6)
    assert set(found["phases"]) <= {"free", "contact", "transition"}


def test_an_action_study_without_a_policy_is_refused_before_it_trains(tmp_path: Path) -> None:
    text = 'measure = "action"\nrecording = { episodes = 3 }\n[rows]\na = {}\n[config]\ntrain_policy = false\n'
    (tmp_path / "own.toml").write_text(text + 'views = [{ camera = "left_wrist", sensor = "tactile1" }]\n')
    with pytest.raises(InputError, match=r"row a has train_policy = false, but measure = 'action' needs a policy"):
        study(tmp_path / "own.toml", tmp_path / "out")


OWN = """
config = "{config}"
seeds = [0]
gallery = 8
[rows]
base = {{}}
shifted = {{ title = "25 px right", shift_px = [25, 0] }}
"""


def called(call: tuple[Callable[..., None], tuple[Any, ...], dict[str, Any]]) -> None:
    work, args, options = call
    work(*args, **options)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, regrasp_folder: Path) -> Iterator[Path]:
    """Folder of a finished study of a user's own config, file.toml, with two runs."""
    folder = tmp_path_factory.mktemp("study")
    base = {
        "data": [{"path": str(regrasp_folder), "rig": str(regrasp_folder / "rig.toml")}],
        "views": [{"camera": "left_wrist", "sensor": "tactile1", "zoom": 2.2}],
        "features": {"vision": TOWER, "dim": 16},
        "hsa": {"min_gap": 8},
        "train_policy": False,
        "batch_size": 12,
        "contact_share": 1.0,
        "steps": 4,
        "held_out": 2,
        "validate_every": 4,
        "validation_batches": 1,
        "threads": 1,
        "cache": str(folder / "cache"),
    }
    (folder / "base.toml").write_text(config_text(TrainConfig.model_validate(base)))
    (folder / "own.toml").write_text(OWN.format(config=folder / "base.toml"))

    # Two processes as joblib starts them would import for longer than they train.
    with CONTEXT.Pool(2) as pool, pytest.MonkeyPatch.context() as patch:
        parallel = {2: lambda calls: pool.map(called, calls, chunksize=1)}
        patch.setattr("tactile_align.diagnostics.study.Parallel", lambda n_jobs: parallel[n_jobs])
        patch.setattr("tactile_align.diagnostics.study.train_to_the_end", None)  # of this process
        study(folder / "own.toml", folder / "out", processes=2, progress=False)
    yield folder


@pytest.mark.slow
def test_a_study_of_a_users_config_is_not_run_twice_and_shifts_its_boxes(own: Path) -> None:
    text = (own / "out" / "table.md").read_text(encoding="utf-8")
    assert "| 25 px right | 0 |" in text and "SCRATCH" in text and "too few episodes for an interval" in text
    made = [path.stat().st_mtime_ns for path in sorted(own.glob("out/runs/*/metrics.jsonl"))]
    assert study(own / "own.toml", own / "out", progress=False) == text and len(made) == 2
    assert made == [path.stat().st_mtime_ns for path in sorted(own.glob("out/runs/*/metrics.jsonl"))]
    rigs = [tomllib.loads((own / f"out/runs/{row}-s0/rig.toml").read_text()) for row in ("shifted", "base")]
    (u, v), (u0, v0) = ([line[2] for line in rig["cameras"]["left_wrist"]["K"][:2]] for rig in rigs)
    assert (u - u0, v - v0) == (25, 0)
    assert commands(own / "own.toml", own / "out") == []


@pytest.mark.slow
def test_a_printed_command_makes_the_same_run_as_the_study(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["study", str(own / "own.toml"), str(own / "again"), "--rows", "shifted", "--dry-run"]) == 0
    cost, line = capsys.readouterr().out.splitlines()
    assert cost == "# 1 missing runs and 0 missing recordings: unknown core-hours; not measured: 1 of these"
    assert not (own / "again").exists() and run(shlex.split(line)[1:]) == 0
    (again,), _ = results(own / "again")
    first = next(cell for cell in results(own / "out")[0] if cell.row == "shifted")
    assert again.values == first.values and again.places == first.places


@pytest.mark.slow
def test_a_changed_study_is_refused_by_the_runs_of_the_old_one(own: Path) -> None:
    changed = own / "own2.toml"
    changed.write_text(OWN.format(config=own / "base.toml").replace("base = {}", "base = { changes = { steps = 5 } }"))
    with pytest.raises(
        InputError,
        match=r"base-s0: this run was trained with another config than the study file states now; steps changed",
    ):
        study(changed, own / "out", ["base"], progress=False)


@pytest.mark.slow
def test_all_readouts_of_a_run_come_in_one_call(own: Path) -> None:
    config = config_of(load_study(own / "own.toml"), own / "out", "base", 0)
    data = load_data(config, progress=False)
    loaded = LoadedRun.load(Path(config.out), config, data.held_out, "retrieval")
    found = view_readouts(loaded, "left_wrist-tactile1", gallery=8)
    galleries = found.galleries
    assert set(galleries) == {"contact only", "cross-episode", "same episode with a gap", "regions of the same image"}
    assert galleries["contact only"]["both"].gallery == 8
    assert 2 <= galleries["regions of the same image"]["touch to vision"].gallery <= 8
    space, place = found.space, found.localisation
    assert space is not None and space.dim == 16 and space.pairs > 50
    assert place is not None and place.distance_mm is not None
    # The pad hangs some ten centimetres below the wrist camera: a pixel of the small input is a few tenths of a mm.
    assert 0 <= place.hit <= 1 and place.distance_px * 0.2 < place.distance_mm < place.distance_px * 5
    assert set(found.left_out) == {"probes"}, "two held-out episodes are too few for a probe"
