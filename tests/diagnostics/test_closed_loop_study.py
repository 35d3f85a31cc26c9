"""Studies of success: their files, the order of their runs, and the tables of their roll-outs."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tactile_align.cli import run
from tactile_align.config.cell import CellOptions
from tactile_align.config.study import StudyConfig
from tactile_align.config.train import TrainConfig, config_text
from tactile_align.datasets.refs import EpisodeRef
from tactile_align.diagnostics import study as module
from tactile_align.diagnostics.intervals import mean_interval
from tactile_align.diagnostics.outcomes import Played
from tactile_align.diagnostics.study import RunResult, commands, config_of, cost, load_study, results, study
from tactile_align.diagnostics.study_tables import RolledOut, isotonic, table_text
from tactile_align.errors import InputError
from tactile_align.moments.sampling import split_episodes
from tactile_align.training.data import load_data
from tests.training.conftest import POLICY, TOWER

SHIPPED = ("closed_loop_quick", "closed_loop", "recipe", "heads")
ACTS = {"task": "feel", "seeds": 4}
FEEL = {"feel": {"task": "feel", "episodes": 8}}


def plan_of(rows: dict[str, Any], **entries: Any) -> StudyConfig:
    recordings = {"recordings": FEEL} if "recordings" not in entries else {}
    config = {"views": [{"camera": "left_wrist", "sensor": "tactile1"}]}
    given = {"name": "own", "measure": "success", "config": config, "rows": rows, **recordings, **entries}
    return StudyConfig.model_validate(given)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_rows_of_a_shipped_study_differ_from_each_other(name: str, tmp_path: Path) -> None:
    plan = load_study(name)
    configs = [config_of(plan, tmp_path, row, 0).model_dump(exclude={"out"}) for row in plan.rows]
    assert all(a != b for i, a in enumerate(configs) for b in configs[:i])
    assert all(config["threads"] == 1 for config in configs)


@pytest.mark.parametrize("name", SHIPPED)
def test_rows_of_a_group_have_equal_demonstrations_and_steps_unless_their_title_says_so(
    name: str, tmp_path: Path
) -> None:
    plan = load_study(name)
    for group in plan.groups.values():
        configs = {row: config_of(plan, tmp_path, row, 0) for row in group.rows}
        assert len({config.data[0].episodes for config in configs.values()}) == 1
        assert len({config.batch_size for config in configs.values()}) == 1
        assert len({config.steps for row, config in configs.items() if "equal compute" not in plan.title(row)}) == 1


@pytest.mark.parametrize("count", [24, 80])
def test_sort_holds_out_one_demonstration_of_each_class_and_trains_on_at_least_two(count: int, tmp_path: Path) -> None:
    plan = load_study("closed_loop")
    config = config_of(plan, tmp_path, f"sort{count}_hsa", 0)
    recorded = plan.recording_of("sort80")
    assert recorded is not None and (config.data[0].episodes or recorded.episodes) == count
    refs = [EpisodeRef(tmp_path / f"episode_init_{i}.hdf5") for i in range(count)]
    parts = split_episodes(refs, config.split_seed, config.held_out, config.test)
    train, held_out = (sorted(int(ref.path.stem.split("_")[-1]) % 8 for ref in part) for part in parts[:2])
    assert held_out == list(range(8)) and train == sorted(list(range(8)) * (count // 8 - 1))


def test_the_study_of_heads_runs_dry_and_its_rows_differ_in_the_head_and_the_ways_of_the_expert_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["study", "heads", str(tmp_path), "--dry-run"]) == 0
    assert capsys.readouterr().out.count("--rows two_ways_flow --seeds") == 3
    plan = load_study("heads")
    of_act = {"head": "flow", "vae_layers": 4, "latent_dim": 32}  # the defaults, which flow ignores
    for ways in ("one_way", "two_ways"):
        act, flow = (config_of(plan, tmp_path, f"{ways}_{head}", 0) for head in ("act", "flow"))
        changed = {"out": flow.out, "policy": act.policy.model_copy(update=of_act)}
        assert act.model_copy(update=changed) == flow
        assert {plan.condition(f"{ways}_{head}", "true").options.two_ways for head in ("act", "flow")} == {
            ways[0] == "t"
        }
    acts = plan.stated("two_ways_flow", "roll_outs")
    assert acts is not None and acts.seeds == 100 and len(plan.seeds) == 3


def test_a_joint_row_differs_from_its_reference_in_the_loss_alone(tmp_path: Path) -> None:
    plan = load_study("closed_loop")
    for task in ("lift", "feel"):
        region, joint = (config_of(plan, tmp_path, f"{task}_{name}", 0) for name in ("region", "joint"))
        assert region.policy.region_tokens and region.hsa.weight == 0
        changed = {"out": joint.out, "hsa": region.hsa.model_copy(update={"weight": 1.0})}
        assert region.model_copy(update=changed) == joint
        assert f"{task}_region" in plan.groups[task].against


def test_the_full_study_takes_at_most_20_core_hours() -> None:
    said = cost("closed_loop")
    assert "not measured" not in said and 0 < float(said.split(": ")[1].split()[0]) <= 20


@pytest.mark.parametrize(
    ("rows", "entries", "message"),
    [
        ({"a": {"recording": "fell", "roll_outs": ACTS}}, {}, r"rows\.a\.recording = 'fell' is unknown.*: feel"),
        ({"a": {"roll_outs": ACTS}}, {}, r"rows\.a names no recording.*: feel"),
        ({"a": {"recording": "feel", "init": "b", "roll_outs": ACTS}}, {}, r"rows\.a\.init = 'b' is unknown.*: a"),
        (
            {"a": {"recording": "feel", "init": "b", "roll_outs": ACTS}, "b": {"base": "a", "init": "a"}},
            {},
            r"rows\.b\.init = 'a' leads back to a",
        ),
        ({"a": {"recording": "feel", "episodes": 9, "roll_outs": ACTS}}, {}, r"rows\.a\.episodes = 9.*has 8"),
        (
            {"a": {"recording": "feel", "roll_outs": {**ACTS, "conditions": ["true", "dark"]}}},
            {"conditions": {"offset": {}}},
            r"rows\.a\.roll_outs\.conditions.*: dark\. Use names of: true, offset",
        ),
        ({"a": {"recording": "feel", "roll_outs": {**ACTS, "conditions": []}}}, {}, r"conditions"),
        ({"a": {"recording": "feel", "roll_outs": ACTS}}, {"measure": "action"}, r"rows\.a\.roll_outs needs measure"),
        ({"a": {"recording": "feel"}}, {}, r"needs rows with roll_outs; got none"),
        ({"a": {"recording": "feel", "roll_outs": ACTS}}, {"conditions": {"true": {}}}, r"conditions\.true: .*Rename"),
        (
            {"a": {"recording": "feel", "roll_outs": ACTS}, "b": {"base": "a", "roll_outs": {**ACTS, "seeds": 5}}},
            {"groups": {"g": {"rows": ["a", "b"], "against": ["a"]}}},
            r"groups\.g.*a: feel with 4 seeds from 0, b: feel with 5 seeds from 0",
        ),
        (
            {"a": {"recording": "feel", "roll_outs": ACTS}, "play": {"recording": "feel"}},
            {"curves": {"c": {"over": "demonstrations", "rows": ["play"]}}},
            r"curves\.c contains rows without roll-outs: play\. Use rows of: a",
        ),
        ({"a": {"roll_outs": ACTS}}, {"recording": FEEL["feel"], "recordings": FEEL}, r"either \[recording\] or"),
    ],
)
def test_a_wrong_closed_loop_study_is_refused_by_name(rows: Any, entries: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_of(rows, **entries)


def test_a_row_takes_recording_episodes_init_and_roll_outs_of_its_base() -> None:
    rows = {
        "play": {"recording": "feel"},
        "a": {"recording": "feel", "episodes": 6, "init": "play", "roll_outs": ACTS},
        "b": {"base": "a", "episodes": 4},
    }
    plan = plan_of(rows)
    config = config_of(plan, Path("x"), "b", 3)
    assert config.init == str(Path("x/runs/play-s3")) and config.data[0].episodes == 4
    assert config.data[0].path == str(Path("x/data/feel"))
    assert plan.stated("b", "roll_outs") == plan.stated("a", "roll_outs")
    assert config_of(plan, Path("x"), "play", 3).init is None


def test_a_row_that_starts_from_a_pretraining_gets_its_touch_encoder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = load_study("closed_loop")
    config = config_of(plan, tmp_path, "sort24_pretrained", 2)
    scratch = config_of(plan, tmp_path, "sort24", 2)
    path = str(tmp_path / "runs/sort_play_touch-s2/tower.safetensors")
    assert config.features.touch == scratch.features.touch.model_copy(update={"pretrained": path})
    features = scratch.features.model_copy(update={"touch": config.features.touch})
    assert config == scratch.model_copy(update={"features": features, "out": config.out}) and config.init is None
    assert [run.split("--rows ")[1] for run in commands("closed_loop", tmp_path, ["sort24_pretrained"], [2])] == [
        "sort_play_touch --seeds 2",
        "sort24_pretrained --seeds 2",
    ]
    monkeypatch.setattr(module, "load_data", lambda *_, **__: SimpleNamespace(train=range(5), judged_on="held-out"))
    monkeypatch.setattr(module, "train_to_the_end", lambda *_: None)
    before = config_of(plan, tmp_path, "sort_play_touch", 2)
    trained = module._trained(plan, "sort_play_touch", before, False)
    assert before.pretrain is not None and (trained.steps, trained.training_moments) == (300, 5)
    assert "| sort play: LeJEPA on touches | 2 | 5 | 300 |" in table_text(plan, [trained])


def test_a_pretraining_row_is_refused_where_success_is_not_measured(tmp_path: Path) -> None:
    row = "changes = { pretrain = { sensors = ['a'] }, train_policy = false, select_by = 'last', hsa = { weight = 0 } }"
    (tmp_path / "own.toml").write_text(f"config = {{ data = [{{ path = 'r' }}] }}\nrows = {{ pre = {{ {row} }} }}\n")
    with pytest.raises(InputError, match=r"own\.toml: row pre has \[pretrain\].*got measure = 'retrieval'"):
        load_study(tmp_path / "own.toml")


def test_a_row_without_a_touch_encoder_cannot_start_from_a_pretraining(tmp_path: Path) -> None:
    encoder = {"vision": {"model": "ViT-S-16", "stem": "conv", "image_size": [48, 32]}}
    only = {"train_policy": False, "select_by": "last", "hsa": {"weight": 0.0}, "pretrain": {"sensors": ["tactile1"]}}
    rows: dict[str, Any] = {
        "pre": {"recording": "feel", "unset": ["views"], "changes": {**only, "features": encoder}},
        "own": {"recording": "feel", "init": "pre", "roll_outs": ACTS, "changes": {"features": encoder}},
    }
    with pytest.raises(InputError, match=r"row own .*row pre .*one encoder.*features\.touch.*ViT-S-16"):
        config_of(plan_of(rows), tmp_path, "own", 0)
    rows["own"]["changes"] = {"features": {**encoder, "touch": encoder["vision"]}}
    assert config_of(plan_of(rows), tmp_path, "own", 0).features.touch.model == "ViT-S-16"


def test_a_condition_replaces_only_the_options_that_it_states() -> None:
    recordings = {"feel": {"task": "feel", "episodes": 8, "options": {"stripe_mm": 0.5, "clutter": True}}}
    conditions = {"off": {"options": {"box_offset_px": 10}}, "tidy": {"options": {"clutter": False}}}
    plan = plan_of({"a": {"recording": "feel", "roll_outs": ACTS}}, recordings=recordings, conditions=conditions)
    assert plan.condition("a", "true").options == CellOptions(stripe_mm=0.5, clutter=True)
    assert plan.condition("a", "off").options == CellOptions(stripe_mm=0.5, clutter=True, box_offset_px=10)
    assert plan.condition("a", "tidy").options == CellOptions(stripe_mm=0.5)


def test_a_run_comes_after_the_run_that_it_starts_from_although_only_its_row_is_chosen(tmp_path: Path) -> None:
    lines = commands("closed_loop_quick", tmp_path, ["feel_hsa"], [1])
    assert [line.split("--rows ")[1] for line in lines] == ["play_hsa --seeds 1", "feel_hsa --seeds 1"]


def test_the_dry_run_prints_the_core_hours_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["study", "closed_loop", str(tmp_path), "--rows", "look20_hsa", "--seeds", "0", "--dry-run"]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    # Recording of look 0.8, of play 1.2, play 0.8 and the row 1.8 minutes.
    assert first == "# 2 missing runs and 2 missing recordings: 0.08 core-hours" and len(lines) == 2


def test_only_the_first_episodes_are_used_and_too_few_are_refused(small_config: Callable[..., TrainConfig]) -> None:
    config = small_config()
    for count in (3, 5):
        entry = config.data[0].model_copy(update={"episodes": count})
        fewer = config.model_copy(update={"data": (entry,)})
        if count == 5:
            with pytest.raises(InputError, match=r"states episodes = 5, but there are 4"):
                load_data(fewer, progress=False)
        else:
            lists = load_data(fewer, progress=False).episodes
            used = {Path(e.path).name for part in lists.parts.values() for e in part}
            assert used == {f"episode_init_{i}.hdf5" for i in range(3)}


def played(correct: Sequence[Sequence[int]], first: int = 0, side: int = 1) -> list[Played]:
    """Return outcomes: one list per seed with 1 for each class that was correct; decided ones go to their side."""
    return [
        Played(
            seed=first + number,
            cls=cls,
            lifted=True,
            decided=True,
            correct=bool(right),
            side=side if (cls == 0) == bool(right) else -side,
            steps=44,
        )
        for number, classes in enumerate(correct)
        for cls, right in enumerate(classes)
    ]


def cell(row: str, seed: int, **outcomes: list[Played]) -> RunResult:
    rolled = {
        name: RolledOut("feel", "true", CellOptions(), "last, step 500", 0.5, outcome)
        for name, outcome in outcomes.items()
    }
    return RunResult(row, seed, "SCRATCH", 500, 3000, 0, False, 1.8, "held-out", "x", [], [], [], rolled=rolled)


ROWS: dict[str, Any] = {
    "vision": {"recording": "feel", "roll_outs": {"task": "feel", "seeds": 10, "conditions": ["true", "o10", "o50"]}},
    "touch": {"base": "vision"},
}
CONDITIONS = {"o10": {"options": {"box_offset_px": 10}}, "o50": {"options": {"box_offset_px": 50}}}
HALF, FULL, NONE = [[1, 0]] * 10, [[1, 1]] * 10, [[0, 0]] * 10


def test_rates_pool_the_training_seeds_and_pairs_are_counted_for_each_run() -> None:
    cells = [cell("touch", 0, true=played(FULL)), cell("touch", 1, true=played([[1, 0]] * 4 + [[1, 1]] * 6))]
    text = table_text(plan_of(ROWS, conditions=CONDITIONS), cells)
    correct = np.array([1.0] * 20 + [1, 0] * 4 + [1] * 12)
    low, high = mean_interval(correct, np.repeat(np.arange(10), 2).tolist() * 2) or (0.0, 0.0)
    pooled = next(line for line in text.splitlines() if line.startswith("| touch | true | 0, 1 |"))
    # 36 of 40 right; all 10 pairs of the first run and 6 of the second; the others went to one side twice.
    assert f"| 36/40 0.90 [{low:.2f}, {high:.2f}] | 16/20 | 16/20 | - |" in pooled
    assert "| touch | 1 | true |" in text and "| last, step 500 | 0.5 |" in text
    assert "| touch | 0 | 3000 | 500 | - | 1.8 |" in text


def test_groups_compare_equal_roll_out_seeds_with_the_exact_sign_test() -> None:
    cells = [cell("vision", s, true=played(HALF)) for s in (0, 1)]
    plan, most = plan_of(ROWS, conditions=CONDITIONS), played([[1, 1]] * 9 + [[0, 0]])
    group = table_text(plan, [*cells, *(cell("touch", s, true=most) for s in (0, 1))]).split("Group all: ")[1]
    # Nine seeds gain one of two classes and one seed loses one: +0.5 * 9/10 - 0.5 * 1/10, and 2 * 11 / 2^10.
    assert "| touch | 0, 1 | +0.40 [" in group and f"9 : 1, p = {22 / 1024:.2g} |" in group
    group = table_text(plan, [*cells, cell("touch", 0, true=played(FULL))]).split("Group all: ")[1]
    assert "| touch | 0 | +0.50 [" in group and f"10 : 0, p = {2 / 1024:.2g} |" in group
    assert f"{BEYOND}touch is above vision." in group
    same = table_text(plan, [cell("vision", 0, true=played(HALF)), cell("touch", 0, true=played(HALF))])
    assert "0 : 0, p = 1 |" in same and f"{BEYOND}no difference." in same


BEYOND = (
    "Beyond the noise of roll-outs, for these training runs and demonstrations (the interval excludes 0, and the "
    "difference has the same sign with every training seed): "
)


def test_rows_in_against_are_compared_with_each_other_each_pair_once() -> None:
    rows = {**ROWS, "tuned": {"base": "touch"}}
    groups = {"g": {"rows": ["touch", "vision", "tuned"], "against": ["vision", "touch"]}}
    plan = plan_of(rows, conditions=CONDITIONS, groups=groups)
    cells = [cell("vision", 0, true=played(NONE)), cell("touch", 0, true=played(HALF))]
    (line,) = (x for x in table_text(plan, cells).split("Group g: ")[1].splitlines() if x.startswith("| touch"))
    assert line.startswith("| touch | 0 | +0.50 [")
    both = table_text(plan, [*cells, cell("tuned", 0, true=played(FULL))]).split("Group g: ")[1]
    lines = [x.split(" | ") for x in both.splitlines() if x.startswith(("| touch", "| vision", "| tuned"))]
    assert [x[0] for x in lines] == ["| touch", "| tuned"] and "All 3 intervals" in both
    assert [x[:5] for x in lines[1][2:4]] == ["+1.00", "+0.50"]


def test_a_difference_that_one_training_seed_contradicts_is_not_beyond_noise() -> None:
    cells = [cell("vision", s, true=played(HALF * 6)) for s in (0, 1)]
    plan, less = plan_of(ROWS, conditions=CONDITIONS), played([[1, 0]] * 59 + [[0, 0]])
    text = table_text(plan, [*cells, cell("touch", 0, true=played(FULL * 6)), cell("touch", 1, true=less)])
    assert re.search(r"\+0\.2\d \[\+0\.[01]\d, ", text) and f"{BEYOND}no difference." in text
    assert "share the demonstrations and their split" in text


def test_a_small_difference_is_not_printed_as_minus_zero() -> None:
    cells = [cell("vision", 0, true=played(HALF * 30)), cell("touch", 0, true=played([[1, 0]] * 299 + [[0, 0]]))]
    group = table_text(plan_of(ROWS, conditions=CONDITIONS), cells).split("Group all: ")[1]
    assert "| touch | 0 | +0.00 [" in group and "-0.00" not in group


def test_the_seeds_of_each_comparison_are_shown_where_they_differ() -> None:
    rows = {**ROWS, "tuned": {"base": "touch"}}
    groups = {"g": {"rows": ["vision", "touch", "tuned"], "against": ["vision", "touch"]}}
    cells = [cell("vision", 0, true=played(HALF)), *(cell("touch", s, true=played(HALF)) for s in (0, 1))]
    cells += [cell("tuned", s, true=played(HALF)) for s in (0, 1)]
    text = table_text(plan_of(rows, conditions=CONDITIONS, groups=groups), cells)
    assert "| tuned | 0; 0, 1 | +0.00 [" in text.split("Group g: ")[1]


def test_the_isotonic_fit_pools_points_that_rise_where_a_curve_falls() -> None:
    runs = [[played(correct)] for correct in (FULL, [[1, 0]] * 4 + [[0, 0]] * 6, [[1, 0]] * 8 + [[0, 0]] * 2, NONE)]
    fit, band = isotonic(runs, rises=False)
    assert fit == pytest.approx([1.0, 0.3, 0.3, 0.0])  # 0.2 and 0.4 are pooled
    lows, highs = np.array(band).T
    assert (np.diff(lows) <= 0).all() and (np.diff(highs) <= 0).all() and (lows <= highs).all()
    turned, mirrored = isotonic(runs[::-1], rises=True)
    assert turned == pytest.approx(fit[::-1]) and mirrored == band[::-1]


def test_a_curve_that_is_not_monotone_is_called_so_and_runs_along_the_offsets() -> None:
    plan = plan_of(ROWS, conditions=CONDITIONS, curves={"offset": {"over": "box_offset_px", "rows": ["touch"]}})
    text = table_text(plan, [cell("touch", 0, true=played(FULL), o50=played(FULL), o10=played(NONE))])
    lines = [line for line in text.split("Curve offset: ")[1].splitlines() if line.startswith("| touch")]
    assert [line.split(" | ")[1] for line in lines] == ["0", "10", "50"]
    assert "not monotone" in lines[1] and "| 0.50 |" in lines[2]


def test_a_curve_over_demonstrations_has_one_point_per_row() -> None:
    rows = {**ROWS, "few": {"base": "touch", "episodes": 4}}
    plan = plan_of(rows, conditions=CONDITIONS, curves={"size": {"over": "demonstrations", "rows": ["touch", "few"]}})
    text = table_text(plan, [cell("touch", 0, true=played(FULL)), cell("few", 0, true=played(HALF))])
    lines = [line for line in text.split("Curve size: ")[1].splitlines() if line.startswith("| all")]
    assert [line.split(" | ")[1] for line in lines] == ["4", "8"] and "| 10/20 0.50" in lines[0]


def own_study(folder: Path, recording: Path, conditions: str = '["true"]') -> Path:
    """Write a study of success of two rows, play and acting, on a recording that exists, and return its path."""
    base = {
        "data": [{"path": str(recording), "rig": str(recording / "rig.toml")}],
        "views": [{"camera": "left_wrist", "sensor": "tactile1", "zoom": 2.2}],
        "features": {"vision": TOWER, "dim": 16},
        "hsa": {"min_gap": 8},
        "policy": POLICY,
        "batch_size": 12,
        "contact_share": 1.0,
        "steps": 2,
        "held_out": 2,
        "validate_every": 1,
        "validation_batches": 1,
        "threads": 1,
        "cache": str(folder / "cache"),
    }
    (folder / "base.toml").write_text(config_text(TrainConfig.model_validate(base)))
    (folder / "own.toml").write_text(
        f'measure = "success"\nconfig = "{folder / "base.toml"}"\nseeds = [0]\ngallery = 8\n'
        f'[conditions]\nshuffled = {{ touch = "shuffle" }}\n[rows]\n'
        f'acting = {{ init = "play", roll_outs = {{ task = "feel", seeds = 4, conditions = {conditions} }} }}\n'
        f"play = {{ changes = {{ train_policy = false }} }}\n"
    )
    return folder / "own.toml"


@pytest.mark.slow
def test_a_study_trains_play_first_rolls_out_and_makes_only_what_is_missing(
    tmp_path: Path, regrasp_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, ...]] = []

    def policy_of(run: Path, task: str, options: CellOptions, weights: str) -> tuple[str, str]:
        return run.name, f"{weights}, step 2"

    def play(policy: str, task: str, seeds: Sequence[int], *, options: CellOptions, touch: str) -> list[Played]:
        calls.append((policy, task, list(seeds), options, touch))
        return played([[1, 1]] * len(seeds))

    monkeypatch.setattr(module, "policy_of", policy_of)
    monkeypatch.setattr(module, "play", play)
    file, out = own_study(tmp_path, regrasp_folder), tmp_path / "out"
    text = study(file, out, ["acting"], progress=False)
    (acting, pretrained), _ = results(out)
    assert (acting.row, pretrained.row) == ("acting", "play") and not pretrained.rolled
    assert pretrained.recall is not None and pretrained.recall.gallery == 8
    assert config_of(load_study(file), out, "acting", 0).init == str(out / "runs" / "play-s0")
    assert calls[0] == ("acting-s0", "feel", [0, 1, 2, 3], CellOptions(), "true")
    assert "| acting | true | 0 | 8/8 1.00" in text
    made, before = (out / "runs/acting-s0/metrics.jsonl").stat().st_mtime_ns, len(calls)
    study(own_study(tmp_path, regrasp_folder, '["true", "shuffled"]'), out, ["acting"], progress=False)
    assert [call[-1] for call in calls[before:]] == ["shuffle"], "the first condition is not played again"
    assert made == (out / "runs/acting-s0/metrics.jsonl").stat().st_mtime_ns, "the run is not trained again"
    assert commands(file, out) == []
    other = file.with_name("other.toml")
    other.write_text(file.read_text().replace("seeds = 4", "seeds = 5"))
    with pytest.raises(InputError, match=r"row acting, seed 0: its roll-outs 'true' were made with another task"):
        study(other, out, ["acting"], progress=False)


def test_best_weights_are_rolled_out_only_if_they_are_of_another_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checkpoints").mkdir()
    best = tmp_path / "checkpoints" / "best_action.safetensors"
    assert not module._best_differs(tmp_path, 500)
    best.touch()
    for step, differs in ((400, True), (500, False)):
        monkeypatch.setattr(module, "header_of", lambda _, step=step: {"step": str(step)})
        assert module._best_differs(tmp_path, 500) == differs


def test_a_row_with_a_policy_needs_roll_outs_and_one_without_a_policy_must_have_none(tmp_path: Path) -> None:
    shared = 'measure = "success"\nconfig = { views = [{ camera = "left_wrist", sensor = "tactile1" }] }\n'
    shared += 'recordings = { feel = { task = "feel", episodes = 8 } }\n[rows]\n'
    acts = 'a = { recording = "feel", roll_outs = { task = "feel", seeds = 4 } }\n'
    for row, message in (
        ('b = { recording = "feel" }', r"row b has a policy, but no roll_outs"),
        ('b = { base = "a", changes = { train_policy = false } }', r"row b has roll_outs, but train_policy = false"),
    ):
        (tmp_path / "own.toml").write_text(shared + acts + row + "\n")
        with pytest.raises(InputError, match=message):
            load_study(tmp_path / "own.toml")


def test_changed_entries_of_the_rig_are_merged_along_the_bases() -> None:
    rows = {
        "a": {"recording": "feel", "roll_outs": ACTS, "rig": {"sensors": {"t": {"x": 1, "y": 2}}}},
        "b": {"base": "a", "rig": {"sensors": {"t": {"y": 3}}, "cameras": {"c": {"K": [[1]]}}}},
    }
    plan = plan_of(rows)
    assert plan.rig_changes("b") == {"sensors": {"t": {"x": 1, "y": 3}}, "cameras": {"c": {"K": [[1]]}}}
    assert config_of(plan, Path("x"), "b", 0).data[0].rig == str(Path("x/rigs/b_0.toml"))


def test_a_stored_roll_out_is_read_back_as_it_was(tmp_path: Path) -> None:
    first = cell("touch", 0, true=played(HALF))
    first = replace(first, rolled={"true": replace(first.rolled["true"], options=CellOptions(stripe_mm=0.5))})
    (tmp_path / "runs/touch-s0").mkdir(parents=True)
    (tmp_path / "runs/touch-s0/result.json").write_text(module.json_of(first))
    assert results(tmp_path) == ([first], [])
    path = tmp_path / "runs/touch-s0/result.json"
    stored = json.loads(path.read_text())
    options = stored["rolled"]["true"]["options"]
    assert options == {"stripe_mm": 0.5}, "a later option must not make this file another one"
    options.update({name: field.default for name, field in CellOptions.model_fields.items() if name not in options})
    path.write_text(json.dumps(stored))
    assert results(tmp_path) == ([first], []), "all options, as in older files"


def test_a_run_with_an_option_that_no_longer_exists_is_named_and_the_other_runs_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "simulate", lambda *_, **__: [])
    file, out = tmp_path / "own.toml", tmp_path / "out"
    acts = 'recording = "feel", roll_outs = { task = "feel", seeds = 4 }'
    file.write_text(
        'measure = "success"\nseeds = [0]\nconfig = { views = [{ camera = "left_wrist", sensor = "tactile1" }] }\n'
        'recordings = { feel = { task = "feel", episodes = 8 } }\n'
        f"rows = {{ a = {{ {acts} }}, b = {{ {acts} }} }}\n"
    )
    for row in "ab":
        run = out / f"runs/{row}-s0"
        run.mkdir(parents=True)
        (run / "config.toml").write_text(config_text(config_of(load_study(file), out, row, 0)))
        (run / "result.json").write_text(module.json_of(cell(row, 0, true=played([[1, 1]] * 4))))
    stored = json.loads((run / "result.json").read_text())
    stored["rolled"]["true"]["options"] = {"mark_mm": 3}
    text = json.dumps(stored)
    (run / "result.json").write_text(text)
    assert commands(file, out) == [], "what exists is neither trained nor played again"
    table = study(file, out, progress=False)
    assert "| a | true | 0 | 8/8 1.00" in table and "| b | true" not in table
    assert re.search(r"Left out.*b-s0/result\.json: rolled\.true\.options\.mark_mm: .*[Rr]emove .*study", table, re.S)
    assert (run / "result.json").read_text() == text
