"""Results to pages: what failed reads as failed, and nobody's text becomes markup."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from eyechart.cli import main
from eyechart.reporting.runbook import render_runbook
from eyechart.reporting.terminal import print_results
from eyechart.results import Finding, Results, ScoredSample, WrittenCaption, to_json
from report_data import INJECTIONS, RUN_SETTINGS, condition, make_ablation, make_coverage, make_results


def shown(results: Results) -> str:
    stream = io.StringIO()
    print_results(results, stream)
    return stream.getvalue()


def last_paragraph(page: str) -> str:
    return " ".join(page[page.rindex("VERDICT:") :].split())


# The runbook


def test_runbook_has_the_figures_of_the_founding_document() -> None:
    document = render_runbook(make_results())
    for line in (
        "- Samples: 100 (requested 128; 99 distinct images, 1,310 label tokens)",
        "  - correct: 3.5150",
        "  - shuffled: 4.4022",
        "  - shuffled: +0.8872 (95% [+0.8672, +0.9072]; lower99 +0.8572; gate, must exceed 0.05)",
        "  - noise: +2.1502 (95% [+2.1302, +2.1702]; lower99 +2.1202; gate, must exceed 0)",
        "- subset_train: 4,900",
        "- subset_eval: 100",
        "- truncated: 0.00%",
        "- label_zero: 0.00%",
        "- avg_label_tokens: 13.1",
        "- Overall: PASS",
    ):
        assert line in document.splitlines()
    assert "--num_samples 128 --checkpoint outputs/run/checkpoint_3675.pt" in document
    assert "the original runbook shuffles inside the batch" in document


def test_runbook_keeps_the_sections_in_the_founding_order() -> None:
    headings = re.findall(r"^## (.+)$", render_runbook(make_results()), flags=re.MULTILINE)
    assert headings == [
        "Scope",
        "Environment",
        "Stage 1 Trial Config",
        "Spec: Check 1 - Ablation (Teacher-Forced Loss)",
        "Spec: Check 2 - Truncation + Label Coverage",
        "Execution",
        "Results (Actual)",
        "Artifacts / Code Paths",
        "Pass/Fail Summary",
    ]


@pytest.mark.parametrize("verdict", ["FAIL", "INCONCLUSIVE"])
def test_what_did_not_pass_never_reads_like_a_pass(verdict: str) -> None:
    """Whatever the figures: these are the figures of a healthy run."""
    results = make_results(verdict, coverage=None)
    document = render_runbook(results)
    assert f"- Verdict: **{verdict}**" in document
    assert f"- Ablation test: {verdict} (gap(shuffled)" in document
    assert f"- Overall: {verdict}" in document
    for page in (document, shown(results)):
        assert "PASS" not in page
        assert "carries the picture into the language model" not in page
        assert ("NOT shown" in page) == (verdict == "FAIL")
        assert ("UNDECIDED" in page) == (verdict == "INCONCLUSIVE")
        assert ("About 1,234 samples would decide" in " ".join(page.split())) == (verdict == "INCONCLUSIVE")


def test_a_failed_second_check_reads_as_failed() -> None:
    results = make_results("FAIL", ablation=make_ablation("PASS"), coverage=make_coverage("FAIL"))
    document = render_runbook(results)
    assert "Conclusion: FAILS at max_seq_len 512. 3.00% of 4900 samples are truncated" in document
    assert "- Truncation/coverage: FAIL (3.00% of 4900 samples" in document
    assert "Nothing is cut" not in document
    assert last_paragraph(shown(results)) == "VERDICT: FAIL: check 2, 3.00% of 4900 samples are truncated, more than 2%"


def test_a_warning_is_part_of_the_conclusion() -> None:
    coverage = make_coverage(reasons=["warning: 1.50% of 4900 samples are truncated"], truncated_pct=1.5)
    document = render_runbook(make_results(coverage=coverage))
    assert "Conclusion: Within the limits at max_seq_len 512, but: Warning: 1.50% of 4900" in document
    assert "Nothing is cut" not in document


def test_checks_that_were_not_run_are_named() -> None:
    results = make_results("INCONCLUSIVE", ablation=None, coverage=None, training=None, checkpoint=None)
    document = render_runbook(results)
    assert "- Ablation test: NOT RUN" in document
    assert "- Truncation/coverage: NOT RUN" in document
    assert "VERDICT: INCONCLUSIVE: neither check was run" in shown(results)


def test_a_loss_that_is_not_finite_is_shown_as_such() -> None:
    conditions = {
        "correct": condition(None),
        "shuffled": condition(4.4),
        "zero": condition(None),
        "noise": condition(5.7),
    }
    results = make_results("FAIL", ablation=make_ablation("FAIL", conditions=conditions, order=[]))
    document = render_runbook(results)
    assert "  - correct: not finite" in document
    assert "  - zero: none, a loss is not finite" in document
    assert "not finite" in shown(results)


def test_runbooks_of_two_runs_differ_only_in_figures() -> None:
    changed = make_ablation()
    conditions = dict(changed.conditions) | {"shuffled": condition(4.0, 0.4850, 0.05)}
    first = render_runbook(make_results()).splitlines()
    second = render_runbook(make_results(ablation=changed.model_copy(update={"conditions": conditions}))).splitlines()
    assert len(first) == len(second)
    different = [(a, b) for a, b in zip(first, second, strict=True) if a != b]
    assert [a.split(":")[0] for a, _ in different] == ["  - shuffled", "  - shuffled"]


def test_a_run_without_some_condition_still_has_its_line() -> None:
    fewer = {name: make_ablation().conditions[name] for name in ("correct", "shuffled")}
    document = render_runbook(make_results(ablation=make_ablation(conditions=fewer)))
    assert document.count("  - noise: not scored") == 2


def test_nothing_the_config_did_not_record_is_claimed() -> None:
    document = render_runbook(make_results(config={"seed": 7}))
    assert "- Seed: 7" in document
    assert "- Max seq len: not recorded" in document


def test_no_absolute_path_reaches_the_runbook() -> None:
    places = {"image_root": "/home/me/pictures", "json_file": "C:\\me\\rows.json"}
    config = RUN_SETTINGS | {"data": RUN_SETTINGS["data"] | places}
    ablation = make_ablation(reasons=["row 3 of '/home/me/my data/rows.json' is missing"])
    results = make_results(
        config=config,
        checkpoint="/home/me/out/checkpoint_1.pt",
        command="qwen3-vlm ablate --checkpoint=/home/me/out/checkpoint_1.pt --output ~me/x",
        ablation=ablation,
        environment={"python": "/home/me/.venv"},
        diagnosis=[Finding(code="c", severity="note", message="see /home/me/a", fix="mend /home/me/b")],
    )
    document = render_runbook(results)
    assert "me/" not in document
    assert "me\\" not in document
    assert "my data" not in document
    assert ".../checkpoint_1.pt" in document


def test_hostile_captions_change_no_other_line_of_the_runbook() -> None:
    def document(captions: list[str]) -> list[str]:
        samples = [WrittenCaption(row=7, image="a.png", true=text, written=text) for text in captions]
        return render_runbook(make_results(samples=samples)).splitlines()

    for start in (0, 8):  # the runbook shows eight
        hostile = INJECTIONS[start : start + 8]
        pairs = zip(document(hostile), document(["plain"] * len(hostile)), strict=True)
        changed = [a for a, b in pairs if a != b]
        assert len(changed) == 2 * len(hostile)
        assert all(re.match("  - (true|written): ", line) for line in changed)


# The terminal


def test_terminal_is_legible_at_80_columns_without_colour() -> None:
    conditions = dict(make_ablation().conditions) | {
        "mean-token": condition(None),
        "zero": condition(12.3, 10.1234, 0.0),
    }
    page = shown(make_results(ablation=make_ablation(conditions=conditions)))
    assert "\x1b" not in page
    assert max(len(line) for line in page.splitlines()) <= 80
    assert "..." not in page
    assert "\u2026" not in page
    row = next(line for line in page.splitlines() if line.startswith("shuffled "))
    assert row.split() == ["shuffled", "4.4022", "+0.8872", "+0.867", "+0.907", "+0.8572", ">", "0.05", "met"]
    assert "shuffled: what it costs" in page
    assert "order: correct < shuffled < no-image < zero < noise" in page
    assert page.splitlines()[-1] == "VERDICT: PASS"


def test_a_condition_that_was_left_out_has_its_line_and_reason() -> None:
    wording = {
        "mean-token": "Left out: it needs rows.",
        "shuffled": "Left out: no, it was scored.",
        "prompt": "Each row's own.",
    }
    page = shown(make_results(ablation=make_ablation(wording=wording)))
    assert "  mean-token: left out: it needs rows." in page.splitlines()
    assert page.count("left out:") == 1
    assert "Each row's own" not in page


def test_a_gate_that_is_not_met_says_so() -> None:
    conditions = dict(make_ablation().conditions) | {"shuffled": condition(3.53, 0.015, 0.05)}
    page = shown(make_results("FAIL", ablation=make_ablation("FAIL", conditions=conditions)))
    assert "> 0.05 NOT MET" in page
    assert last_paragraph(page).startswith("VERDICT: FAIL: check 1, gap(shuffled) +0.0001")


def test_terminal_takes_no_markup_and_no_control_codes() -> None:
    reasons = ["[red]x[/red] [/] :smile: \x1b[31mred\x07"]
    page = shown(make_results("FAIL", ablation=make_ablation("FAIL", reasons=reasons)))
    assert "- [red]x[/red] [/] :smile: <U+001B>[31mred<U+0007>" in page
    assert "\x1b" not in page


def test_terminal_survives_a_stream_that_knows_only_ascii() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    print_results(make_results("FAIL", ablation=make_ablation("FAIL", reasons=["Bild \u732b.png"])), stream)
    stream.flush()
    assert b"Bild \\u732b.png" in stream.buffer.getvalue()  # type: ignore[attr-defined]


def test_console_of_rich_would_have_read_the_markup() -> None:
    """The test above is worth something: rich's default does swallow it."""
    stream = io.StringIO()
    Console(file=stream).print("[red]x[/red]")
    assert stream.getvalue() == "x\n"


# The command that makes the page again


def folder_with(tmp_path: Path, images: list[str], config: dict[str, Any]) -> Path:
    """A results.json whose samples show these images."""
    scored = [ScoredSample(row=i, image=name, caption="a", label_tokens=1, losses={}) for i, name in enumerate(images)]
    results = make_results(ablation=None, coverage=None, training=None, scored=scored, config=config)
    (tmp_path / "results.json").write_text(to_json(results), encoding="utf-8")
    return tmp_path


def test_report_says_how_many_images_are_not_where_the_results_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"there")
    folder = folder_with(tmp_path, ["a.png", "b.png", "b.png", "c.png"], {"data": {"image_root": "pictures"}})
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().err == "warning: 2 of 3 images not found below pictures; give --image_root\n"
    monkeypatch.chdir(tmp_path.parent)
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().err == "warning: 3 of 3 images not found below pictures; give --image_root\n"
    assert (folder / "report.html").is_file(), "the page is written all the same"
    for name in ("b.png", "c.png"):
        (tmp_path / "pictures" / name).write_bytes(b"there")
    assert main(["report", str(folder), "--image_root", str(tmp_path / "pictures")]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("config", [{}, {"data": None}, {"data": {"image_root": 7}}])
def test_report_says_that_nobody_knows_where_the_images_are(
    tmp_path: Path, config: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(folder_with(tmp_path, ["a.png"], config))]) == 0
    assert capsys.readouterr().err == (
        "warning: 1 images not looked for: the results do not say where they are; give --image_root\n"
    )


def test_report_leaves_a_page_alone_where_the_given_image_root_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_with(tmp_path, ["a.png"], {})
    (folder / "report.html").write_text("a good page", encoding="utf-8")
    assert main(["report", str(folder), "--image_root", str(tmp_path / "none")]) == 2
    said = capsys.readouterr().err
    assert said == f"error: --image_root: expected the folder that the images are in, {tmp_path / 'none'} is none\n"
    assert (folder / "report.html").read_text(encoding="utf-8") == "a good page"


@pytest.mark.parametrize("content", ['{"a"', '{"verdict": "PASS"}', '{"verdict": 1, "reasons": [], "x": 2}', "[]", ""])
def test_report_names_no_website_where_results_are_broken(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results.json").write_text(content, encoding="utf-8")
    assert main(["report", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path / 'results.json'}: not a results file of schema 1: ")
    assert "://" not in said and "For further" not in said and said.count("\n") == 1
