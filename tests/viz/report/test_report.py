import json
import re
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from jinja2 import UndefinedError

from tactile_align.checks import Check, Report, Table
from tactile_align.errors import InputError
from tactile_align.viz.report.page import filled, image_data
from tactile_align.viz.report.plots import action_plots, curve_plots, retrieval_plots
from tactile_align.viz.report.report import judge, render, report
from tactile_align.viz.report.run_folder import read_run
from tests.viz.report.running import VIEW, make_run, summary, write_report
from tests.viz.test_ink import contrast

HOSTILE = "</script><script>alert(1)</script>\"'<img src=x onerror=alert(2)>&amp;"


def check(run: Path, id: str) -> Check:
    return judge(read_run(run)).check(id)


def rewrite(run: Path, data: dict[str, object]) -> None:
    (run / "summary.json").write_text(json.dumps(data), encoding="utf-8")


def log(run: Path, *records: dict[str, object]) -> None:
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def test_the_verdict_comes_first_and_rests_on_intervals(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for at, base, expected in ((0.42, 0.20, "pass"), (0.42, 0.34, "pass"), (0.42, 0.38, "warn"), (0.42, 0.5, "fail")):
        # Intervals are +-0.06 around the run and around its paired difference to opening-only; chance is 1/64.
        rewrite(run, summary(at, base))
        found = check(run, f"retrieval-opening/{VIEW}")
        assert (found.status, found.value) == (expected, at) and f"{base:.1%}" in found.measured
        assert check(run, f"retrieval-chance/{VIEW}").status == "pass"
    rewrite(run, summary(0.05, 0.01))
    assert check(run, f"retrieval-chance/{VIEW}").status == "fail"
    few = json.loads(json.dumps(summary(0.42, 0.2)))
    few["views"][VIEW]["retrieval"]["both"]["interval"] = {"1": None, "5": None, "10": None}
    del few["views"][VIEW]["minus_opening"]["interval"]
    rewrite(run, few)
    for id in (f"retrieval-chance/{VIEW}", f"retrieval-opening/{VIEW}"):
        assert check(run, id).status == "warn" and "too few episodes for an interval" in check(run, id).measured
    assert "too few episodes" in render([read_run(run)], "")
    rewrite(run, summary(0.05, 0.01))
    page = render([read_run(run)], "")
    assert page.index('id="verdict"') < page.index('id="curves"')


def with_hits(data: dict[str, Any], at_1: float, episodes: tuple[str, ...]) -> dict[str, Any]:
    """Return a summary with equal hits of 20 contacts of 5 episodes."""
    data = json.loads(json.dumps(data))
    hits = {"episode": sorted(4 * [*range(5)]), "contact": 5 * [*range(4)], "at_1": 20 * [at_1]}
    data["views"][VIEW]["retrieval"]["both"]["hits"] = hits
    return data | {"episodes": episodes}


def test_two_runs_are_compared_in_pairs_on_the_same_episodes_only(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, name) for name in ("a", "b")]
    five = tuple("abcde")

    def paired() -> Check:
        a, b = (read_run(run) for run in runs)
        return judge(b, a).check(f"retrieval-paired/{VIEW}")

    rewrite(runs[0], with_hits(summary(), 0.25, five))
    rewrite(runs[1], with_hits(summary(), 0.75, five))
    assert paired().value == 0.5 and "+50.0% [" in paired().measured and "same 20 contacts" in paired().measured
    page = render([read_run(run) for run in runs], "")
    assert page.count(f'data-id="retrieval-paired/{VIEW}"') == 1
    for spoilt, reason in (
        (with_hits(summary(), 0.75, five[:4]), "judged on different episodes"),
        (with_hits(summary(), 0.75, five) | {"judged_on": "held-out"}, "judged on different episodes"),
        (summary() | {"episodes": five}, "no hits"),
        (summary() | {"views": {}}, "only one of the runs"),
    ):
        rewrite(runs[1], spoilt)
        assert paired().measured == "not compared" and reason in paired().why
        assert f"tactile-align evaluate {runs[0]} {runs[1]}" in paired().advice


def test_a_run_without_its_baseline_says_that_the_opening_was_not_measured(tmp_path: Path) -> None:
    run, data = make_run(tmp_path), json.loads(json.dumps(summary()))
    del data["views"][VIEW]["opening_only"], data["views"][VIEW]["minus_opening"]
    rewrite(run, data)
    found = check(run, f"retrieval-opening/{VIEW}")
    assert (found.status, found.measured) == ("info", "not measured") and f"evaluate {run}" in found.advice
    with (run / "config.toml").open("a") as file:
        file.write('region = "opening"\n')
    assert not [c.id for c in judge(read_run(run)).checks if c.id.startswith("retrieval-opening")]


def test_the_loss_is_judged_against_its_chance_level(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for share, expected in ((0.89, "pass"), (0.95, "warn"), (1.01, "fail")):
        rewrite(run, summary(hsa=share * 4.85))
        found = check(run, f"hsa-of-chance/{VIEW}")
        assert found.status == expected and found.value == pytest.approx(share)


def test_a_policy_no_better_than_standing_still_fails(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    found = check(run, "action-error")
    assert found.status == "pass" and found.value == pytest.approx(0.4)
    data = summary()
    still = [0.05] * 7
    data["action_error"] = {
        "per_column": still,
        "first_step": still,
        "standing_still_per_column": still,
        "moments": 900,
    }
    rewrite(run, data)
    assert check(run, "action-error").status == "fail"
    data["action_error"] = {"per_column": still, "first_step": still, "moments": 900}
    rewrite(run, data)
    assert check(run, "action-error").status == "info"


def test_one_point_of_a_curve_has_a_chance_line_and_one_held_out_loss_for_each_step(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    first, again = (
        {"kind": "validation", "step": 2, f"hsa/{VIEW}": x, f"chance/{VIEW}": 2.0, "loss": x} for x in (1.9, 1.5)
    )
    (run / "metrics.jsonl").write_text("", encoding="utf-8")
    log(run, {"kind": "train", "step": 2, f"hsa/{VIEW}": 1.8, f"chance/{VIEW}": 2.1, "loss": 1.8}, first, again)
    (plot, *_) = curve_plots([read_run(run)])
    chance = next(trace for trace in plot.traces if trace["name"] == "chance")
    assert (chance["x"], chance["y"]) == ([1, 3], [2.0, 2.0]), "a line needs two points"
    held_out = next(trace for trace in plot.traces if trace["name"] == "held out")
    assert (held_out["x"], held_out["y"]) == ([2], [1.5]), "the record that was written last"
    found = check(run, f"hsa-of-chance/{VIEW}")
    assert "all pairs of the test episodes; the curve: validation batches" in found.measured


def test_the_action_charts_name_the_columns_and_the_verdict_tells_why_a_baseline_is_missing(tmp_path: Path) -> None:
    run, data = make_run(tmp_path), summary()
    error = {"per_column": [0.01, 0.02], "first_step": [0.01, 0.02], "moments": 900, "columns": ["dx [m]", "grip"]}
    error |= {"last_action_per_column": [0.03, 0.04], "standing_still_is": "left out: dx matches nothing"}
    rewrite(run, data | {"action_error": error})
    (plot,) = action_plots([read_run(run)])
    assert [(trace["name"], trace["x"]) for trace in plot.traces] == [
        ("policy", ["dx [m]", "grip"]),
        ("last action", ["dx [m]", "grip"]),
    ]
    found = check(run, "action-error")
    assert found.status == "info" and "left out: dx matches nothing" in found.why and "0.0350" in found.measured
    stated = error | {"standing_still_per_column": [0.1, 0.1], "standing_still_is": "guessed: dx [m], grip delta"}
    rewrite(run, data | {"action_error": stated})
    assert check(run, "action-error").status == "pass" and "guessed: dx" in check(run, "action-error").measured


def test_a_policy_that_a_linear_map_of_the_joints_beats_is_warned_of(tmp_path: Path) -> None:
    run, data = make_run(tmp_path), summary()
    for interval, expected in (
        ((0.01, 0.03), "pass"),
        ((-0.03, -0.01), "warn"),
        ((-0.01, 0.01), "warn"),
        (None, "warn"),
    ):
        minus = {"value": 0.02, "pairs": 900, "episodes": 9, "interval": interval}
        error = {"moments": 900, "episodes": 9, "interval": None}
        rows = {"policy": {"error": 0.04, **error}, "linear in joints": {"error": 0.06, "minus_policy": minus, **error}}
        rewrite(run, data | {"phases": {"all": rows}})
        assert check(run, "action-linear").status == expected


def test_scratch_a_diverged_and_an_unfinished_run_are_told_apart(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert check(run, "encoder").status == "warn" and "SCRATCH" in check(run, "encoder").why
    assert (check(run, "training").status, check(run, "training").value) == ("pass", 300)
    log(run, {"kind": "train", "step": 300, "loss": "nan"})
    assert check(run, "training").status == "fail" and "diverged" in check(run, "training").measured
    assert check(make_run(tmp_path, "short", steps=200), "training").status == "pass"
    short = make_run(tmp_path, "cut", steps=200)
    (short / "config.toml").write_text("steps = 900\n", encoding="utf-8")
    cut = check(short, "training")
    assert (cut.status, cut.value, cut.limit) == ("warn", 200, "900 steps") and "--resume" in cut.advice
    live = judge(replace(read_run(short), live=True)).check("training")
    assert live.status == "info"


def test_a_run_without_a_pair_is_not_called_good(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    log(run, *({"kind": kind, "step": 300, f"pairs/{VIEW}": 0.0} for kind in ("train", "validation")))
    assert (check(run, f"no-pairs/train/{VIEW}").status, check(run, f"no-pairs/validation/{VIEW}").status) == (
        "fail",
        "warn",
    )
    log(run, *({"kind": kind, "step": 300, f"pairs/{VIEW}": 3.0} for kind in ("train", "validation")))
    assert not [one.id for one in judge(read_run(run)).checks if one.kind == "no-pairs"]


def test_remarks_of_the_watch_keep_their_id_and_step_and_stand_once(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert read_run(run).watch is None
    remark = {"kind": "finding", "id": "flat-at-chance", "status": "warn", "text": "0.99 of chance", "advice": "look"}
    log(run, {**remark, "step": 120}, {**remark, "step": 180, "status": "fail"})
    watch = read_run(run).watch
    assert watch is not None and [c.id for c in watch.checks] == ["flat-at-chance"]
    assert watch.verdict == "fail" and "180" in watch.checks[0].measured and watch.checks[0].advice == "look"
    page = render([read_run(run)], "")
    assert page.index('data-id="flat-at-chance"') < page.index('id="curves"')
    log(run, {"kind": "finding", "step": 200, "check": "flat", "text": "of an earlier version"})
    with pytest.raises(InputError, match=r"metrics\.jsonl.*no 'id'"):
        read_run(run)


def test_pictures_of_steps_and_episodes_are_grouped_by_the_last_of_both(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for episode in (0, 1):
        for step in (0, 40):
            cv2.imwrite(str(run / "pictures" / f"attention_episode_{episode}_step_{step:06d}.png"), np.zeros((4, 4, 3)))
    page = render([read_run(run)], "")
    assert "attention_episode_0 by step" in page and "attention_episode_1 by step" in page
    assert page.count('max="1" value="1"') == 2


def test_the_doctors_report_keeps_its_ids_the_gravest_first(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    good = Check("image-range", "Image range", "pass", "0 to 237", 237, "", "0 to 255")
    bad = Check("one-step", "one <b>step", "fail", "loss rose", why="The rate is too high", advice="lower it")
    parameters = Table("parameters", ("module", "count"), (("vision", 12345),))
    write_report(run / "doctor.json", Report("doctor", "config.toml", (good,), (parameters,)))
    assert check(run, "doctor").status == "pass"
    page = render([read_run(run)], "")
    assert "Doctor: pass" in page and "0 to 237" in page and "12345" in page
    write_report(run / "doctor.json", Report("doctor", "config.toml", (good, bad)))
    assert check(run, "doctor").status == "fail" and "one-step" in check(run, "doctor").measured
    page = render([read_run(run)], "")
    assert page.index('data-id="one-step"') < page.index('data-id="image-range"')
    assert "one &lt;b&gt;step" in page and "one <b>step" not in page


def test_ids_are_the_same_in_what_commands_wrote_and_on_the_page(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path))
    assert run.verification is not None
    wanted = [c.id for c in judge(run).checks] + [c.id for c in run.verification.checks]
    assert re.findall(r'data-id="([^"]+)"', render([run], "")) == wanted


@pytest.mark.parametrize("broken", ['{"verdict": "pass"}', '{"findings": []}', '{"checks": [{"id": "a"}]}'])
def test_a_report_in_another_form_is_refused_with_the_command_that_writes_it(tmp_path: Path, broken: str) -> None:
    run = make_run(tmp_path)
    (run / "doctor.json").write_text(broken, encoding="utf-8")
    with pytest.raises(InputError, match=r"doctor\.json.*doctor CONFIG --json"):
        read_run(run)
    (run / "doctor.json").unlink()
    rewrite(run, {"views": {VIEW: {}}})
    with pytest.raises(InputError, match=r"(?s)summary\.json: run.*command that wrote it"):
        read_run(run)


def test_a_held_out_loss_that_rises_again_is_named_with_its_best_step(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert check(run, "held-out-rise").status == "pass"
    log(run, *({"kind": "validation", "step": s, "loss": v} for s, v in ((310, 2.0), (320, 2.5))))
    found = check(run, "held-out-rise")
    assert found.status == "warn" and found.value == pytest.approx(0.25) and "at step 310" in found.measured


def test_a_run_goes_by_its_folder_and_one_just_called_run_by_two(tmp_path: Path) -> None:
    assert read_run(make_run(tmp_path, "first")).name == "first"
    assert read_run(make_run(tmp_path / "demo", "run")).name == "demo/run"


def test_parts_that_are_missing_are_named_with_the_command_that_makes_them(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("steps = 10\n", encoding="utf-8")
    run = read_run(tmp_path)
    page = render([run], "")
    for said in ("tactile-align evaluate", "tactile-align verify", "tactile-align doctor", "metrics.jsonl is missing"):
        assert said in page
    assert f"report {tmp_path} --draw" in page and f"--json &gt; {tmp_path / 'doctor.json'}" in page
    assert {found.status for found in judge(run).checks} == {"info"}


def test_a_folder_that_is_no_run_and_damaged_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.toml.*tactile-align train"):
        read_run(tmp_path)
    run = make_run(tmp_path)
    good = (run / "metrics.jsonl").read_text(encoding="utf-8")
    (run / "metrics.jsonl").write_text(good + '{"kind": "train", "st', encoding="utf-8")
    assert len(read_run(run).metrics) == len(good.splitlines())
    (run / "metrics.jsonl").write_text('{"step": 1\n' + good, encoding="utf-8")
    with pytest.raises(ValueError, match=r"metrics\.jsonl line 1"):
        read_run(run)
    (run / "metrics.jsonl").write_text(good, encoding="utf-8")
    (run / "summary.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match=r"summary\.json: Input should be"):
        read_run(run)


def test_curves_hold_the_logged_numbers_and_chance(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path))
    plot = next(plot for plot in curve_plots([run]) if "alignment" in plot.title)
    training, held_out, chance = plot.traces
    assert training["x"][:2] == [1, 11] and training["y"][1] == pytest.approx(4.85 * np.exp(-11 / 500))
    assert held_out["x"] == [300] and held_out["y"] == [3.1]
    assert len(chance["x"]) > 1 and set(chance["y"]) == {4.85} and chance["line"]["dash"] == "dot"


def test_the_chart_of_the_next_touch_has_its_controls_for_two_runs(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, name) for name in ("first", "second")]
    values = {"next": 0.2, "next_chance": 0.25, "next_still": 0.1}
    for run in runs:
        log(run, *({"kind": kind, "step": 400, **values} for kind in ("train", "validation")))
    plot = next(plot for plot in curve_plots([read_run(run) for run in runs]) if plot.title == "next touch")
    assert [trace["y"][-1] for trace in plot.traces] == [0.2, 0.2, 0.25, 0.1] * 2
    assert len({(trace["line"]["color"], trace["line"]["dash"]) for trace in plot.traces}) == 8


def test_retrieval_bars_carry_their_interval_and_stand_beside_opening_only(tmp_path: Path) -> None:
    other = make_run(tmp_path, "other")
    rewrite(other, summary(0.6, 0.1))
    (plot,) = retrieval_plots([read_run(make_run(tmp_path)), read_run(other)])
    names = [trace["name"] for trace in plot.traces]
    assert names[:3] == ["demo: touch and box", "demo: opening only", "chance (gallery of 64)"]
    bar = plot.traces[0]
    assert bar["x"] == ["R@1", "R@5", "R@10"] and bar["y"][0] == 0.42
    assert bar["error_y"]["array"][0] == pytest.approx(0.06) and bar["error_y"]["arrayminus"][0] == pytest.approx(0.06)
    assert plot.traces[2]["y"] == pytest.approx([1 / 64, 5 / 64, 10 / 64])


def test_hostile_names_are_text_everywhere(tmp_path: Path) -> None:
    run = make_run(tmp_path, view=HOSTILE, word="</pre><script>alert(3)</script>" + "n" * 300)
    cv2.imwrite(str(run / "pictures" / "a' onload='alert(4).png"), np.zeros((4, 4, 3), np.uint8))
    page = render([read_run(run)], "")
    assert page.count("<script") == 3 and page.count("</script>") == 3
    assert "<img src=x" not in page and "onload='alert" not in page


def test_data_in_a_script_cannot_end_it_and_comes_back_whole() -> None:
    task = {"sensor": HOSTILE, "camera": "<!-- ' \u2028 \u05d0"}
    page = filled("label/label.html", title="t", task=task)
    data = re.search(r'id="task">(.*?)</script>', page, re.DOTALL)
    assert data is not None and json.loads(data[1]) == task and "<" not in data[1]
    assert page.count("<script") == 2 and "<img src=x" not in page
    with pytest.raises(UndefinedError, match="task"):
        filled("label/label.html", title="t")


def test_the_page_names_no_place_in_the_network(tmp_path: Path) -> None:
    page = render([read_run(make_run(tmp_path))], "")
    assert "default-src 'none'" in page
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!data:|#)", page)


def test_every_picture_has_an_alternative_text_and_steps_share_a_slider(tmp_path: Path) -> None:
    page = render([read_run(make_run(tmp_path))], "")
    pictures = re.findall(r"<img [^>]*>", page)
    assert len(pictures) == 6 and all(re.search(r'alt="[^"]{20,}"', picture) for picture in pictures)
    slider = re.search(r'<input type="range" min="0" max="2" value="2"', page)
    assert slider and "overlay by episode" in page and page.count("<option") == 2


def test_pictures_may_lie_elsewhere(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (run / "pictures").rename(tmp_path / "drawn")
    assert "no pictures" in render([read_run(run)], "")
    assert render([read_run(run, tmp_path / "drawn")], "").count("<img ") == 6


@pytest.mark.slow
def test_large_pictures_shrink_and_the_page_stays_below_20_mb(tmp_path: Path) -> None:
    pytest.importorskip("plotly", reason="plotly is not installed")
    run = make_run(tmp_path)
    noise = np.random.default_rng(0).integers(0, 255, (1000, 1600, 3), dtype=np.uint8)
    written, jpeg = cv2.imencode(".jpg", noise, [cv2.IMWRITE_JPEG_QUALITY, 90])
    assert written and len(jpeg) > 1_000_000
    for i in range(16):
        (run / "pictures" / f"overlay_{i:02d}.jpg").write_bytes(jpeg.tobytes())
    cv2.imwrite(str(run / "pictures" / "wide.png"), np.zeros((300, 2400, 3), np.uint8))
    url, width, height = image_data(run / "pictures" / "wide.png")
    assert (width, height) == (1600, 200) and url.startswith("data:image/jpeg")
    page = report(run)
    assert page.stat().st_size < 20_000_000
    assert "not embedded, to keep" in page.read_text(encoding="utf-8")


def test_a_page_is_not_overwritten_unasked_and_two_runs_get_their_own(tmp_path: Path) -> None:
    pytest.importorskip("plotly", reason="plotly is not installed")
    one, two = make_run(tmp_path), make_run(tmp_path, "an other")
    assert report(one) == one / "report.html"
    assert report(one, two) == one / "report_with_an_other.html"
    with pytest.raises(FileExistsError, match=r"report\.html.*exists"):
        report(one)
    report(one, overwrite=True)
    twin = make_run(tmp_path / "elsewhere", "demo")
    page = report(one, twin, out=tmp_path / "twins.html").read_text(encoding="utf-8")
    assert f"{one} and {twin}" in page


def test_words_of_the_page_have_aa_contrast() -> None:
    style = (resources.files("tactile_align.viz.report") / "page.css").read_text(encoding="utf-8")
    texts = set(re.findall(r"[{;] ?color: #([0-9a-f]{6})", style))
    assert len(texts) >= 5
    for colour in texts:
        rgb = tuple(int(colour[i : i + 2], 16) for i in (0, 2, 4))
        assert contrast(rgb, (255, 255, 255)) >= 4.5  # type: ignore[arg-type]


def test_read_outs_are_shown_as_evaluate_prints_them_and_as_text(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert "feature space and probes" not in render([read_run(run)], "")
    found = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    view = found["views"]["left_wrist-tactile1"]
    view |= {"galleries": {"cross-episode": view["retrieval"]}, "probes": {}, "left_out": {"localisation": HOSTILE}}
    (run / "summary.json").write_text(json.dumps(found), encoding="utf-8")
    page = render([read_run(run)], "")
    assert re.search(r"cross-episode +0\.420 \[0\.360, 0\.480\] +- +0\.016 +64", page)
    assert "left out: localisation: &lt;/script&gt;" in page and HOSTILE not in page
