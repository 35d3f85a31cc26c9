"""The summary of a run: one JSON form that reads back as what was written, and errors that name file and key."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tactile_align.diagnostics.summary import (
    ActionError,
    BaselineTrial,
    Comparison,
    Difference,
    HeldOutLoss,
    Hits,
    Localisation,
    OpeningOnly,
    PhaseError,
    Probe,
    Recall,
    SpaceHealth,
    Summary,
    ViewSummary,
    json_of,
    result_of,
    summary_of,
)
from tactile_align.errors import InputError

RECALL = Recall(
    {1: 0.4, 5: 0.6, 10: 0.7},
    {1: (0.3, 0.5), 5: None, 10: (0.6, 0.8)},
    3.5,
    64,
    {1: 1 / 64, 5: 5 / 64, 10: 10 / 64},
    40,
    9,
    Hits((0, 0, 1), (0, 1, 0), (1.0, 0.5, 0.0)),
)
TRIALS = (BaselineTrial(1e-4, 9, 60.0, 0.355), BaselineTrial(1e-3, 9, 90.0, 0.526), BaselineTrial(1e-2, 3, 30.0))
LOSS = HeldOutLoss(3.1, 4.85, 128)
VIEW = ViewSummary(
    moments=500,
    contacts=40,
    loss=LOSS,
    retrieval={"both": RECALL},
    opening_only=OpeningOnly(LOSS, {"both": RECALL}, {"contact only": {"both": RECALL}}, TRIALS),
    galleries={"regions of the same image": {"touch to vision": RECALL}},
    probes={"object from h_tau": Probe("R2", -3.0, 0.0, 40, 9, (-np.inf, 0.9))},
    left_out={"probes/indentation from h_w": "needs the truth"},
    space=SpaceHealth(*(float(i) for i in range(11)), 16, 40, "no collapse"),
    localisation=Localisation(0.5, 0.1, 0.3, 12.0, 40, 9),
)
PHASES = {"all": {"policy": PhaseError(0.15, 900, 9, (0.1, 0.2)), "standing still": PhaseError(0.2, 900, 9)}}
ERROR = ActionError((0.1, 0.2), (0.1, 0.1), 900)
WEIGHTS = {"retrieval": "best R@1 0.400, step 9", "action": "best action error 0.100, step 8"}
SUMMARY = Summary("run", "ViT", "held-out", {"wrist-touch": VIEW}, "measured", ERROR, PHASES, WEIGHTS, ("1a", "2b"))


def test_a_summary_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    for summary in (SUMMARY, Summary("run", "none", "test")):
        path.write_text(json_of(summary), encoding="utf-8")
        assert summary_of(path) == summary


def test_the_json_form_has_the_keys_of_the_docs_and_leaves_out_what_is_none() -> None:
    data = json.loads(json_of(SUMMARY))
    view = data["views"]["wrist-touch"]
    assert view["retrieval"]["both"]["interval"]["10"] == [0.6, 0.8]
    assert {"galleries", "localisation", "space", "probes", "left_out"} < set(view)
    assert "distance_mm" not in view["localisation"] and "standing_still_per_column" not in data["action_error"]


@pytest.mark.parametrize(
    ("spoil", "key"),
    [
        ({"views": {"v": {"moments": 5}}}, r"views\.v\.contacts"),
        ({"encoder": 3}, "encoder"),
        ({"action_error": {"per_column": ["x"], "first_step": [], "moments": 1}}, r"action_error\.per_column\.0"),
    ],
)
def test_a_wrong_key_is_named_with_its_file(spoil: dict[str, object], key: str) -> None:
    data = json.loads(json_of(SUMMARY)) | spoil
    with pytest.raises(InputError, match=rf"summary\.json: {key}: "):
        result_of(Summary, data, "summary.json")


def test_the_text_sets_every_number_beside_its_baseline() -> None:
    lines = SUMMARY.text().splitlines()
    assert "HSA 3.100, chance 4.850: 0.64 of chance" in lines
    (other,) = (line for line in lines if line.startswith("regions of the same image"))
    assert other.split()[-3:] == ["-", "0.016", "64"]
    (line,) = (line for line in lines if line.startswith("opening only: "))
    assert line == (
        "opening only: learning rate 0.001, chosen by held-out R@1 from 0.0001 (0.355), 0.001 (0.526), 0.01 "
        "(diverged); training took 3.0 min"
    )
    title = (
        "action error by phase on held-out episodes (selected on these episodes), mean over all columns, robot units"
    )
    at = lines.index(f"{title}; weights: best action error 0.100, step 8.")
    assert "not corrected" in lines[at + 1] and lines[at + 2] == "  all: 900 moments, 9 episodes"
    assert any("left out: indentation from h_w: needs the truth" in line for line in lines)
    blind = replace(VIEW, localisation=None, space=None)
    text = replace(SUMMARY, views={"v": blind}).text()
    assert "localisation" not in text and "feature space" not in text


def recall_of(hits: Hits) -> Recall:
    return replace(RECALL, hits=hits)


def test_two_recalls_are_compared_on_the_contacts_that_both_asked() -> None:
    episode, contact = (tuple(np.repeat(np.arange(5), 4).tolist()), tuple(np.tile(np.arange(4), 5).tolist()))
    own = recall_of(Hits(episode, contact, (1.0, 0.0, 1.0, 0.5) * 5))
    other = recall_of(Hits(episode[::-1][:-4], contact[::-1][:-4], (0.5, 0.0, 0.0, 1.0) * 4))  # in another order
    found = own.minus(other)
    assert (found.value, found.pairs, found.episodes) == (pytest.approx(0.25), 16, 4)
    assert found.interval is not None and other.minus(own).interval == pytest.approx(
        (-found.interval[1], -found.interval[0])
    )
    with pytest.raises(InputError, match="no query in common"):
        own.minus(recall_of(Hits((9,), (9,), (1.0,))))
    with pytest.raises(InputError, match=r"galleries of 64 and 32 candidates"):
        own.minus(replace(own, gallery=32))
    with pytest.raises(InputError, match="no hits"):
        own.minus(replace(RECALL, hits=None))


def test_a_result_with_too_few_episodes_says_so_in_place_of_an_interval() -> None:
    few = replace(RECALL, interval=dict.fromkeys(RECALL.interval))
    text = replace(SUMMARY, views={"v": replace(VIEW, retrieval={"both": few})}).text()
    assert "box, both" in text and "0.400 (too few episodes for an interval)" in text
    assert not Difference(0.3, 10, 3).above_zero


def test_a_list_of_numbers_is_one_line_of_the_json() -> None:
    lines = [line.strip() for line in json_of(SUMMARY).splitlines()]
    assert '"at_1": [ 1.0, 0.5, 0.0 ]' in lines


def test_a_comparison_is_read_back_and_says_how_it_was_corrected() -> None:
    minus = {"b": Difference(-0.01, 900, 9, (-0.02, 0.0)), "c": Difference(0.0, 900, 9)}
    comparison = Comparison((SUMMARY, SUMMARY, SUMMARY), 2, {"v": minus}, {"contact": minus})
    assert result_of(Comparison, json.loads(json_of(comparison)), "f") == comparison
    text = comparison.text()
    assert "on the same moments of held-out episodes (selected on these episodes); all 2 intervals" in text
    assert "  weights of run: retrieval: best R@1 0.400, step 9, action: best action error 0.100, step 8" in text
    (line,) = (line for line in text.splitlines() if line.startswith("  action error, contact, b"))
    assert line.split()[-6:] == ["b", "-0.0100", "[-0.0200,", "+0.0000]", "of", "900"]


def test_a_difference_that_rounds_to_zero_has_no_minus() -> None:
    assert Difference(-1e-5, 9, 9, (-1e-6, -1e-7)).text() == "+0.000 [+0.000, +0.000]"
