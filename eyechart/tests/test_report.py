"""Results to pages: a failure is shown as a failure, and no text becomes markup."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from eyechart.cli import main
from eyechart.faults.diagnosis import RunEvidence, diagnose_run
from eyechart.reporting.runbook import render_runbook
from eyechart.reporting.terminal import print_results
from eyechart.results import Finding, Remark, Results, ScoredSample, WrittenCaption, to_json
from eyechart.verdict.verdict import Missing
from report_data import GAPS, INJECTIONS, PLACES, RUN_SETTINGS, everywhere, make_ablation, make_coverage, make_results
from standings import Gap, checked, covered, results_of


def shown(results: Results) -> str:
    stream = io.StringIO()
    print_results(results, stream)
    return stream.getvalue()


def verdicts(page: str) -> list[str]:
    """What stands after each name of a verdict, on the terminal or in the runbook."""
    names = "VERDICT|check [12]|Verdict|Ablation test|Truncation/coverage|Overall"
    return re.findall(rf"^(?:- )?(?:{names}): \W*(\w+(?: \w+)?)", page, flags=re.MULTILINE)


# The runbook


def test_runbook_has_the_figures_of_the_founding_document() -> None:
    document = render_runbook(make_results())
    for line in (
        "- Samples: 100 (requested 128; 99 distinct images, 1,310 label tokens)",
        "  - correct: 3.5150",
        "  - shuffled: 4.4022",
        "  - shuffled: +0.8872 (95% [+0.8674, +0.9070]; lower99 +0.8635; gate, must exceed 0.05)",
        "  - noise: +2.1502 (95% [+2.1304, +2.1700]; lower99 +2.1265; gate, must exceed 0)",
        "  - no-image: +1.3850 (95% [+1.3652, +1.4048]; lower99 +1.3613; reported for context)",
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


GATE = st.sampled_from([(1.0, 0.05), (0.02, 0.002), (0.0, 0.0), (-0.1, 0.01), (0.03, 0.1), (0.4, None)])
"""Gaps that surely exceed the margins, lie between them, are none, are below 0, are open, and have no error."""
DAMAGE = {"PASS": {64: 100}, "FAIL": {64: 50, 600: 50}, "INCONCLUSIVE": {}}


@given(st.tuples(GATE, GATE, GATE), st.sampled_from([*DAMAGE, None]), st.booleans(), st.booleans())
def test_what_did_not_pass_never_reads_like_a_pass(
    gaps: tuple[Gap, Gap, Gap], check_2: str | None, all_scored: bool, finite: bool
) -> None:
    """Whatever the figures: the pages say the verdicts of the checks, and claim that the picture is used for a PASS."""
    missing = Missing() if all_scored else Missing(unscored={"image missing": 1})
    not_finite = () if finite else ("noise",)
    ablation = checked(
        dict(zip(("shuffled", "zero", "noise"), gaps, strict=True)), missing=missing, not_finite=not_finite
    )
    coverage = None if check_2 is None else covered(DAMAGE[check_2])
    results = make_results(ablation=ablation, coverage=coverage)
    second = [] if check_2 is None else [check_2]
    terminal, document = shown(results), render_runbook(results)
    assert verdicts(terminal) == [results.verdict, ablation.verdict, *second]
    assert verdicts(document) == [results.verdict, ablation.verdict, check_2 or "NOT RUN", results.verdict]
    for page in (terminal, document):
        assert ("The picture is used" in " ".join(page.split())) == (ablation.verdict == "PASS")
    headline = " ".join(terminal.split("check 1:")[0].split())
    assert ("Check 1 fails" in headline) == (ablation.verdict == "FAIL")
    assert ("Undecided" in headline) == (ablation.verdict == "INCONCLUSIVE")
    if "FAIL" in second and ablation.verdict != "FAIL":
        assert "At max_seq_len 512, truncation or missing labels exceed the limits" in headline


def test_how_many_samples_would_decide_is_said_once_and_only_of_what_is_undecided() -> None:
    gaps = {**GAPS["INCONCLUSIVE"], "shuffled": (0.08, 0.03)}
    undecided = make_ablation(gaps=gaps)
    assert undecided.needed_samples is not None and undecided.needed_samples > undecided.samples
    for ablation, times in ((undecided, 1), (make_ablation(), 0)):
        results = make_results(ablation=ablation, diagnosis=diagnose_run(RunEvidence(ablation=ablation)))
        for page in (render_runbook(results), shown(results)):
            assert " ".join(page.split()).count(f"about {undecided.needed_samples} would be enough") == times


def test_a_failed_second_check_reads_as_failed() -> None:
    results = make_results(coverage=make_coverage("FAIL"))
    document, terminal = render_runbook(results), shown(results)
    assert verdicts(document) == ["FAIL", "PASS", "FAIL", "FAIL"] and verdicts(terminal) == ["FAIL", "PASS", "FAIL"]
    assert "Conclusion: At max_seq_len 512, truncation or missing labels exceed the limits." in document
    said = "3.00% of 4,900 samples (147) are truncated, more than the 2% allowed for a PASS"
    for page in (document, terminal):
        assert said in " ".join(page.split()) and "Nothing is cut" not in page
    headline = " ".join(terminal.split("check 1:")[0].split())
    assert "Check 2 does not pass: At max_seq_len 512, truncation" in headline


def test_a_warning_is_part_of_the_conclusion() -> None:
    results = make_results(coverage=make_coverage("WARNS"))
    document = render_runbook(results)
    assert "At max_seq_len 512, truncation and label coverage are within the limits, with warnings." in document
    assert "  - Warning: 1.43% of 4,900 samples (70) are truncated" in document
    assert "- Warning: 1.43% of 4,900 samples" in shown(results)
    assert "Nothing is cut" not in document
    assert "Conclusion: Nothing is cut off at max_seq_len 512." in render_runbook(make_results())


def test_checks_that_were_not_run_are_named() -> None:
    results = make_results(ablation=None, coverage=None, training=None, checkpoint=None)
    document = render_runbook(results)
    assert verdicts(document) == ["INCONCLUSIVE", "NOT RUN", "NOT RUN", "INCONCLUSIVE"]
    assert " ".join(shown(results).split()) == (
        "VERDICT: INCONCLUSIVE Check 1 was not run: it is not known whether the picture is used. "
        "Check 2 was not run: truncation was not measured."
    )


def test_a_loss_that_is_not_finite_is_shown_as_such() -> None:
    results = make_results(ablation=make_ablation(not_finite=["correct", "zero"]))
    document = render_runbook(results)
    assert results.verdict == "FAIL"
    assert "  - correct: not finite" in document
    assert "  - zero: none, a loss is not finite" in document
    for page in (document, shown(results)):
        assert "loss(zero) is not finite for at least one label token" in " ".join(page.split())


def test_runbooks_of_two_runs_differ_only_in_figures() -> None:
    other = {**GAPS["PASS"], "shuffled": (0.485, 0.01)}
    first = render_runbook(make_results()).splitlines()
    second = render_runbook(make_results(ablation=make_ablation(gaps=other))).splitlines()
    assert len(first) == len(second)
    different = [(a, b) for a, b in zip(first, second, strict=True) if a != b]
    starts = ["  - shuffled", "  - shuffled", "  - gap(shuffled) +0.8872 +- 0.0100 nats/token", "Conclusion"]
    assert [a.split(":")[0] for a, _ in different] == starts
    assert all(re.sub(r"[+\d.]+", "", a) == re.sub(r"[+\d.]+", "", b) for a, b in different)


def test_a_run_without_some_condition_still_has_its_line() -> None:
    fewer = {name: GAPS["PASS"][name] for name in ("shuffled", "zero")}
    document = render_runbook(make_results(ablation=make_ablation(gaps=fewer)))
    assert document.count("  - noise: not scored") == 2
    assert "  - The gate noise was not scored, and a PASS needs all of them" in document


def test_nothing_the_config_did_not_record_is_claimed() -> None:
    document = render_runbook(make_results(config={"seed": 7}))
    assert "- Seed: 7" in document
    assert "- Max seq len: not recorded" in document


def test_no_absolute_path_reaches_the_runbook() -> None:
    places = {"image_root": "/home/me/pictures", "json_file": "C:\\me\\rows.json"}
    config = RUN_SETTINGS | {"data": RUN_SETTINGS["data"] | places}
    failed = {"error": "OSError", "message": "row 3 of '/home/me/my data/rows.json' is missing"}
    ablation = make_ablation(
        missing=Missing(unscored={"no file /home/me/pictures/a.png": 1}),
        remarks=[Remark(code="writing-failed", about="written captions", figures=failed)],
        notes={"template": "read from /home/me/template.jinja"},
    )
    results = make_results(
        config=config,
        checkpoint="/home/me/out/checkpoint_1.pt",
        command="qwen3-vlm ablate --checkpoint=/home/me/out/checkpoint_1.pt --output ~me/x",
        ablation=ablation,
        environment={"python": "/home/me/.venv"},
        diagnosis=[Finding(code="c", severity="note", message="see /home/me/a", fix="replace /home/me/b")],
    )
    document = render_runbook(results)
    assert "me/" not in document
    assert "me\\" not in document
    assert "my data" not in document
    for place in ("checkpoint_1.pt", "rows.json", "a.png", "template.jinja", "a", "b"):
        assert f".../{place}" in document


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


@pytest.mark.parametrize("text", INJECTIONS)
def test_text_from_anywhere_in_the_results_changes_no_other_line_of_the_runbook(text: str) -> None:
    pages = (render_runbook(everywhere(t)).splitlines() for t in (text, "plain"))
    changed = [hostile for hostile, plain in zip(*pages, strict=True) if hostile != plain]
    for place, shown_on in PLACES.items():
        assert any(place in line for line in changed) == ("runbook" in shown_on), place
    others = [line for line in changed if not any(place in line for place in PLACES)]
    assert all(re.fullmatch("`{4,}(bash)?", line) for line in others), "a block's fence is longer than what it holds"


# The terminal


def test_terminal_is_legible_at_80_columns_without_colour() -> None:
    gaps: dict[str, Gap] = {**GAPS["PASS"], "zero": (10.1234, 0.01), "mean-token": (1.0, 0.01)}
    page = shown(make_results(ablation=make_ablation(gaps=gaps, not_finite=["mean-token"])))
    assert "\x1b" not in page
    assert max(len(line) for line in page.splitlines()) <= 80
    assert "..." not in page
    assert "\u2026" not in page
    row = next(line for line in page.splitlines() if line.startswith("shuffled "))
    assert row.split() == ["shuffled", "4.4022", "+0.8872", "+0.867", "+0.907", "+0.8635", ">", "0.05", "met"]
    assert "  shuffled: what a wrong picture costs" in page
    assert "order: correct < shuffled < no-image < noise < zero" in page


@pytest.mark.parametrize("verdict", GAPS)
def test_the_verdict_is_the_first_line_and_its_reasons_come_before_every_table(verdict: str) -> None:
    page = shown(make_results(verdict))
    assert page.splitlines()[0] == f"VERDICT: {verdict}"
    assert page.index(f"check 1: {verdict}") < page.index("- gap(shuffled)") < page.index("condition ")


@pytest.mark.parametrize("verdict", GAPS)
def test_no_sentence_stands_on_the_terminal_twice(verdict: str) -> None:
    text = " ".join(shown(make_results(verdict)).split())
    sentences = [part for part in re.split(r"(?<=[.:;]) | - ", text) if len(part.split()) > 4]
    assert len(sentences) > 10 and len(sentences) == len(set(sentences))


def test_a_condition_that_was_left_out_has_its_line_and_reason() -> None:
    remarks = [
        Remark(code="mean-needs-train-data", about="mean-token", left_out=True),
        Remark(code="donors-from-all-samples", about="shuffled", figures={"derangements": 4}),
    ]
    page = shown(make_results(ablation=make_ablation(remarks=remarks, notes={"prompt": "Each row's own."})))
    line = "mean-token: left out. It needs --train_data: a file of rows whose images are averaged."
    assert line in " ".join(page.split())
    assert page.count("left out.") == 1
    assert "Each row's own" not in page and "the same batch" not in page


@pytest.mark.parametrize(
    ("gap", "state"), [((0.8, 0.01), "met"), ((0.015, 0.01), "NOT MET"), ((0.06, 0.03), "open"), ((0.4, None), "open")]
)
def test_the_table_says_where_a_gate_stands(gap: Gap, state: str) -> None:
    ablation = make_ablation(gaps={**GAPS["PASS"], "shuffled": gap})
    row = next(line for line in shown(make_results(ablation=ablation)).splitlines() if line.startswith("shuffled "))
    assert row.rstrip().endswith(f"> 0.05 {state}")


def test_terminal_takes_no_markup_and_no_control_codes() -> None:
    page = shown(everywhere("[red]x[/red] [/] :smile: \x1b[31mred\x07"))
    words = " ".join(page.split())
    for place, pages in PLACES.items():
        assert (f"{place} [red]x[/red] [/] :smile: <U+001B>[31mred<U+0007>" in words) == ("terminal" in pages), place
    assert "\x1b" not in page


def test_terminal_survives_a_stream_that_knows_only_ascii() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    print_results(everywhere("Bild_\u732b.png"), stream)
    stream.flush()
    written = stream.buffer.getvalue()  # type: ignore[attr-defined]
    assert written.count(b"Bild_\\u732b.png") == sum("terminal" in pages for pages in PLACES.values())


def test_a_closed_pipe_ends_no_command_with_the_code_of_a_verdict() -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        print_results(make_results(), Closed())


def test_console_of_rich_would_have_read_the_markup() -> None:
    """The test above is worth something: rich's default does swallow it."""
    stream = io.StringIO()
    Console(file=stream).print("[red]x[/red]")
    assert stream.getvalue() == "x\n"


# The command that makes the page again


def folder_with(tmp_path: Path, images: list[str], config: dict[str, Any]) -> Path:
    """A results.json whose samples show these images."""
    scored = [ScoredSample(row=i, image=name, caption="a", label_tokens=1, losses={}) for i, name in enumerate(images)]
    results = results_of(None, None, scored=scored, config=config)
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
    assert capsys.readouterr().err == "warning: 2 of 3 images not found below pictures; set --image_root\n"
    monkeypatch.chdir(tmp_path.parent)
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().err == "warning: 3 of 3 images not found below pictures; set --image_root\n"
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
        "warning: 1 images were not looked for: the results do not record their folder; set --image_root\n"
    )


def test_report_leaves_a_page_alone_where_the_given_image_root_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_with(tmp_path, ["a.png"], {})
    (folder / "report.html").write_text("a good page", encoding="utf-8")
    assert main(["report", str(folder), "--image_root", str(tmp_path / "none")]) == 2
    said = capsys.readouterr().err
    expected = "error: --image_root: expected the folder that the images are in, "
    assert said == f"{expected}{tmp_path / 'none'} is not a folder\n"
    assert (folder / "report.html").read_text(encoding="utf-8") == "a good page"


@pytest.mark.parametrize(
    "content",
    [
        '{"a"',
        '{"verdict": "PASS"}',
        '{"schema": 2, "verdict": 1, "x": 2}',
        '{"schema": "2"}',
        "[]",
        "",
    ],
)
def test_report_names_no_website_where_results_are_broken(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results.json").write_text(content, encoding="utf-8")
    assert main(["report", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path / 'results.json'}: not a results file of schema 2: ")
    assert "://" not in said and "For further" not in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("schema", "advice"), [(1, "score again with this version"), (3, "use the version that wrote them")]
)
def test_report_refuses_results_of_another_schema_and_says_what_to_do(
    tmp_path: Path, schema: int, advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = {**json.loads(to_json(make_results())), "schema": schema, "reasons": ["of an older version"]}
    (tmp_path / "results.json").write_text(json.dumps(tree), encoding="utf-8")
    assert main(["report", str(tmp_path)]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: {tmp_path / 'results.json'}: results of schema {schema}, ")
    assert "reads schema 2; " in said and advice in said
    assert not (tmp_path / "report.html").exists()
