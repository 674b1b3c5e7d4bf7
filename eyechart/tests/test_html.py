"""report.html says what was measured, in one file that asks nothing of anyone."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

import html_data
from eyechart.cli import main
from eyechart.data.choice import even_choice
from eyechart.reporting import plots
from eyechart.reporting.definitions import DEFINITIONS
from eyechart.reporting.html import docs_link, render_html
from eyechart.reporting.looks import read_onset
from eyechart.reporting.output import command_line
from eyechart.reporting.readings import GATES
from eyechart.reporting.tiles import tiles
from eyechart.reporting.wording import percent, plain
from eyechart.results import END, LossPoint, Piece, Results, ScoredSample, to_json
from eyechart.verdict.verdict import Missing
from html_data import HOSTILE, look, make_full_results, save_pictures, sees, style_only, undecided, without_shuffled
from report_data import GAPS, INJECTIONS, PLACES, everywhere, make_ablation, make_coverage, make_results
from standings import checked, covered, results_of

ROOT = Path(__file__).parents[2]
VOID = {"meta", "link", "img", "br", "hr", "input", "use", "path"}
HIDDEN = "\x00\x07\x1b\u2028\u202e"


class Page(HTMLParser):
    """What a page consists of; fails on tags that do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    save_pictures(folder, 40)
    return folder


@pytest.fixture(scope="module")
def full(pictures: Path) -> str:
    return render_html(make_full_results(pictures), docs="../docs")


@pytest.fixture(scope="module")
def page(full: str) -> Page:
    return Page(full)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the figures empty: drawing takes nearly all of the time, and not every test looks at them."""
    monkeypatch.setattr(plots, "as_svg", lambda figure, alt, name: Markup("<svg></svg>"))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Collects what is drawn, by name, as matplotlib has it."""
    figures: dict[str, Figure] = {}
    monkeypatch.setattr(plots, "as_svg", lambda figure, alt, name: figures.setdefault(name, figure) and Markup())
    return figures


def first_screen(html: str) -> str:
    """The text above the list of sections."""
    return Page(html[html.index("<header") : html.index("<nav")]).text


def test_the_page_has_no_script_and_a_policy_that_forbids_everything_but_itself(page: Page) -> None:
    assert page.all("script") == []
    (policy,) = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    assert [name for _, attributes in page.tags for name in attributes if name.startswith("on")] == []


def test_nothing_on_the_page_is_loaded_from_elsewhere(page: Page) -> None:
    loaded = [str(v) for _, a in page.tags for k, v in a.items() if k in ("src", "srcset", "data", "poster")]
    loaded += [str(link["href"]) for link in page.all("link")]
    assert loaded and all(address.startswith("data:") for address in loaded)
    links = {str(a["href"]) for tag, a in page.tags if tag in ("a", "use")}
    assert all(address.startswith(("#", "../docs/faults/")) for address in links)


def test_styles_load_nothing(full: str) -> None:
    assert set(re.findall(r"url\(([^)]*)\)", full)) <= {f"#{i}" for i in re.findall(r'id="([^"]+)"', full)}
    assert "@import" not in full


def test_every_link_inside_the_page_leads_somewhere_and_no_id_is_there_twice(page: Page) -> None:
    ids = [str(a["id"]) for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    inside = {str(a["href"])[1:] for _, a in page.tags if str(a.get("href", "")).startswith("#")}
    assert inside <= set(ids)
    assert {f"def-{key}" for key in DEFINITIONS} <= inside, "a definition that nothing links to"


def test_headings_are_in_order_and_there_is_one_title(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(later - earlier <= 1 for earlier, later in zip(levels, levels[1:], strict=False))


def test_every_drawing_says_what_it_shows_and_every_picture_has_an_alt_text(page: Page) -> None:
    drawings = page.all("svg")
    assert len(drawings) == 10
    assert all(d["role"] == "img" and d["aria-label"] for d in drawings)
    assert len({d["aria-label"] for d in drawings}) == len(drawings)
    assert page.all("img") and all(i["alt"] for i in page.all("img"))


def test_a_picture_that_is_not_seen_is_told_by_its_caption(page: Page) -> None:
    told = {str(image["alt"]) for image in page.all("img")}
    assert f"Held-out image of row 8: {HOSTILE[8]}" in told
    (long,) = [text for text in told if text.startswith("Held-out image of row 5: unbroken")]
    assert long.endswith("\u2026") and len(long) < 160


def test_table_headings_have_a_scope_and_what_scrolls_can_be_reached_by_keyboard(page: Page) -> None:
    assert page.all("th") and all(h.get("scope") in ("row", "col") for h in page.all("th"))
    boxes = [a for _, a in page.tags if set(str(a.get("class", "")).split()) & {"scroll", "long"}]
    assert boxes and all(b.get("tabindex") == "0" and b.get("aria-label") for b in boxes)


def test_equal_results_give_equal_pages(pictures: Path) -> None:
    results = make_results(scored=html_data.make_scored(3), training=None)
    assert render_html(results, pictures) == render_html(results, pictures)


def test_colours_come_from_the_style_sheet_alone(full: str) -> None:
    drawn = "".join(re.findall(r"<svg.*?</svg>", full, flags=re.DOTALL))
    assert re.findall(r"#[0-9a-f]{6}", drawn) == []
    assert set(re.findall(r"var\(--([a-z]+)\)", drawn)) >= {"ink", "faint", "grid", "blue", "orange", "sans"}
    assert "DejaVu" not in drawn


@pytest.mark.parametrize("name", ["ink", "faint", "grid", "blue", "orange", "green", "link"])
def test_every_colour_is_set_for_light_dark_and_print(full: str, name: str) -> None:
    assert len(re.findall(rf"--{name}: #", full)) == 3


@pytest.mark.parametrize("caption", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_caption_stays_text(page: Page, caption: str) -> None:
    shown = "".join(page.words)
    for word in caption.split():
        printable = "".join(
            c if c.isprintable() and c != "\u202e" or c == "\u200d" else f"<U+{ord(c):04X}>" for c in word
        )
        assert printable in shown


@pytest.mark.parametrize("text", INJECTIONS)
@pytest.mark.usefixtures("undrawn")
def test_text_from_anywhere_in_the_results_is_escaped(text: str) -> None:
    page = Page(render_html(everywhere(text)))
    assert page.all("script") == [] and page.all("b") == []
    first = text.split()[0].partition("/")[0]
    for place, pages in PLACES.items():
        assert (f"{place} {first}" in page.text) == ("html" in pages), place


def test_right_to_left_captions_choose_their_own_direction(full: str) -> None:
    assert full.count('dir="auto"') >= 2 * len(HOSTILE) - 2


@pytest.mark.usefixtures("undrawn")
def test_words_are_coloured_by_reliance_and_marked_where_the_picture_is_against_them() -> None:
    pieces = [
        Piece(text="a", gap=0.0),
        Piece(text=" red", gap=6.0),
        Piece(text=" cat", gap=-1.5),
        Piece(text=END, gap=0),
    ]
    sample = ScoredSample(
        row=1, image="1.png", caption="a red cat", label_tokens=4, losses={"correct": 1, "shuffled": 9}, pieces=pieces
    )
    html = render_html(make_results(scored=[sample]))
    assert re.findall(r"<li><bdi>(.*?)</bdi> (.*?)</li>", html) == [
        ("a", "+0.00"),
        ("red", "+6.00"),
        ("cat", "\u22121.50"),
        ("&lt;end&gt;", "+0.00"),
    ], "what a title says must be there for the keyboard too"
    assert '<span title="+0.00 nats">a</span> <span class="b10" title="+6.00 nats">red</span>' in html
    assert '<span class="o5 against" title="\u22121.50 nats">cat</span>' in html
    assert '<span class="end" title="+0.00 nats">&lt;end&gt;</span>' in html


@pytest.mark.usefixtures("undrawn")
def test_words_that_the_model_made_up_are_marked() -> None:
    sample = ScoredSample(
        row=1, image="1.png", caption="a red cat", label_tokens=4, losses={"correct": 1}, written="a blue cat"
    )
    assert 'a <span class="missing">blue</span> cat' in render_html(make_results(scored=[sample]))


def test_a_missing_image_is_said_on_its_card_and_above_the_gallery(page: Page) -> None:
    assert "No picture: image missing" in page.text
    assert "No picture: not an image" in page.text
    assert "2 images cannot be shown" in page.text


@pytest.mark.usefixtures("undrawn")
def test_the_worst_samples_are_not_folded_away(pictures: Path) -> None:
    html = render_html(make_full_results(pictures, count=40))
    lists = [[int(row) for row in re.findall(r'class="label">row (\d+)', part)] for part in html.split("<ol ")[1:]]
    assert lists == [[*range(12)], [*range(12, 28)], [*range(28, 40)]]
    folded = html[html.index("<summary>Show the other 16 cards") :]
    assert folded.index("</ol>") < folded.index("row 28")
    assert html.count('<details class="more">') == 1


@pytest.mark.usefixtures("undrawn")
def test_if_there_are_more_samples_than_cards_the_page_shows_evenly_spaced_ones_and_says_so(pictures: Path) -> None:
    results = make_full_results(pictures, count=40)
    results.config["ablation"]["gallery"] = 5
    html = render_html(results)
    assert re.findall(r'class="label">row (\d+)', html) == ["0", "10", "20", "29", "39"]
    assert "5 of 100 scored samples, evenly spaced" in html


@pytest.mark.usefixtures("undrawn")
def test_a_hundred_photographs_stay_below_three_megabytes(tmp_path: Path, full: str) -> None:
    rng = np.random.default_rng(0)
    for number in range(10):
        noise_HWC = rng.integers(0, 256, (300, 300, 3), dtype=np.uint8)
        Image.fromarray(noise_HWC).save(tmp_path / f"{number}.jpg", quality=95)
    samples = [
        html_data.sample(n, "two thousand " + "characters " * 181, 1.0).model_copy(update={"image": f"{n % 10}.jpg"})
        for n in range(100)
    ]
    html = render_html(make_full_results(tmp_path, scored=samples))
    thumbnails = re.findall(r"data:image/\w+;base64,([^\"]+)", html)
    assert len(thumbnails) == 100
    assert max(map(len, thumbnails)) <= 16_000, "12 kB, in base64"
    drawings = sum(map(len, re.findall(r"<svg.*?</svg>", full, flags=re.DOTALL)))
    assert len(html.encode()) + drawings < 3_000_000


@pytest.mark.usefixtures("undrawn")
def test_two_connectors_are_told_apart_on_the_first_screen(pictures: Path) -> None:
    good, bad = first_screen(render_html(sees(pictures))), first_screen(render_html(style_only(pictures)))
    for name in ("zero", "noise"):
        assert re.search(rf"\({name}\) \+[^✗]*✓ exceeds its margin", good)
        assert re.search(rf"\({name}\) \+[^✗]*✓ exceeds its margin", bad), "zero and noise do not tell"
    assert "(shuffled) +2.25 nats per token lost; 99% lower bound +2.18, must exceed 0.05 ✓ exceeds its margin" in good
    assert "(shuffled) \u22120.0010 nats per token lost; 99% lower bound \u22120.0034, must exceed 0.05 ✗" in bad
    assert "97% of 100 captions are likeliest with their own among 12 images; chance 8% ✓ above chance" in good
    assert "8% of 100 captions are likeliest with their own among 12 images; chance 8% ? not decided" in bad
    assert "The picture is used" in good and "PASS" in good and "FAIL" not in good
    assert "the content of the picture makes no difference above the margin" in bad
    assert "FAIL" in bad and "PASS" not in bad
    assert "the presence of visual tokens matters, but it does not matter from which picture" in bad


@pytest.mark.usefixtures("undrawn")
def test_a_gate_whose_margin_lies_within_its_bounds_is_not_decided(pictures: Path) -> None:
    results = make_full_results(pictures, 2, ablation=undecided(matching=None))
    assert results.verdict == "INCONCLUSIVE"
    text = first_screen(render_html(results))
    assert text.count("? not decided") == 3
    assert "\u2717" not in text and "exceed its margin" not in text and "does not exceed its margin" not in text


@given(st.integers(-999, 999), st.floats(0, 1), st.integers(2, 300), st.integers(1, len(GATES)))
def test_a_gate_stands_on_the_page_where_it_stands_in_the_verdict(
    thousandths: int, se: float, clusters: int, gates: int
) -> None:
    """The reason that the verdict gives and the tile say the same."""
    ablation = checked(dict.fromkeys(GATES[:gates], (thousandths / 1000, se)), clusters=clusters, missing=Missing())
    shown = {tile.label.split("(")[1][:-1]: tile.state for tile in tiles(results_of(ablation))}
    effects = {"passes": "good", "fails": "bad", "undecided": "open"}
    assert shown == {reason.about: effects[reason.effect] for reason in ablation.reasons}


def test_a_gate_without_a_standard_error_is_not_decided() -> None:
    (tile,) = tiles(results_of(checked({"shuffled": (0.4, None)}, clusters=1)))
    assert (tile.state, tile.state_text) == ("open", "not decided")
    assert tile.note == "nats per token lost; must exceed 0.05"


@pytest.mark.parametrize(
    ("found", "state", "words"),
    [(0.97, "good", "above chance"), (0.09, "open", "not decided"), (0.02, "bad", "not above chance")],
)
def test_matching_stands_on_its_tile_where_it_stands_in_the_results(found: float, state: str, words: str) -> None:
    ablation = make_ablation(matching=html_data.matching(found))
    (tile,) = (tile for tile in tiles(results_of(ablation)) if tile.definition == "matching")
    assert (tile.state, tile.state_text) == (state, words)


@pytest.mark.parametrize(
    ("changes", "state", "words"),
    [
        ({"lengths": {64: 100}}, "good", "within the limits"),
        ({"lengths": {64: 50, 600: 50}}, "bad", "too many"),
        ({"lengths": {64: 100}, "zero_label": 50}, "bad", "check 2 fails for another reason"),
        ({"lengths": {}}, "open", "not decided"),
    ],
)
def test_cut_captions_are_too_many_only_where_they_are_what_fails(
    changes: dict[str, Any], state: str, words: str
) -> None:
    (tile,) = tiles(results_of(None, covered(**changes)))
    assert (tile.state, tile.state_text) == (state, words)


@pytest.mark.usefixtures("undrawn")
def test_without_shuffled_the_gallery_is_in_the_order_of_rows_and_says_why(pictures: Path) -> None:
    html = render_html(without_shuffled(pictures))
    text = Page(html).text
    assert re.findall(r'class="label">row (\d+)(.*?)</p>', html) == [("2", ""), ("5", ""), ("7", ""), ("9", "")]
    assert "Shuffled was not scored, so there is no gap to order them by, and no word is coloured." in text
    assert "no finite gap" not in text and "image-driven" not in text and "ordered by the gap" not in text
    assert "A word the picture makes likelier" not in text
    assert "underlined words are not in the true one" in text


def test_gaps_that_were_not_scored_are_not_said_to_be_split(pictures: Path, drawn: dict[str, Figure]) -> None:
    html = render_html(without_shuffled(pictures))
    section = html[html.index('<h2 id="decomposition">') : html.index('<h2 id="connector">')]
    assert "What the gaps of zero and of shuffled are made of" not in section
    assert "Zero and shuffled were not scored: their gaps are not split." in section
    assert [label.get_text() for label in drawn["decomposition"].axes[0].get_yticklabels()] == ["information"]


@pytest.mark.parametrize(
    ("counted", "title", "source"),
    [
        ({"source": "training", "split": "train", "epoch": 3}, "training samples", "training epoch 3"),
        (
            {"source": "audit", "split": "train", "images_opened": False},
            "training samples",
            "audit of the training rows, images not opened",
        ),
        ({"source": "audit", "split": "eval"}, "held-out samples", "audit of the held-out rows"),
        ({"source": "score"}, "samples", "the requested rows"),
    ],
)
@pytest.mark.usefixtures("undrawn")
def test_samples_are_called_after_where_they_were_counted(counted: dict[str, Any], title: str, source: str) -> None:
    html = render_html(make_results(coverage=covered({20: 4900}, **counted)))
    assert f"<h3>Lengths of the {title}</h3>" in html
    assert f"Counted in: {source}" in Page(html).text
    assert f"of 4,900 {title.removesuffix('samples')}captions at max_seq_len" in first_screen(html)


@pytest.mark.parametrize("verdict", ["FAIL", "INCONCLUSIVE"])
@pytest.mark.usefixtures("undrawn")
def test_what_did_not_pass_never_reads_like_a_pass(verdict: str) -> None:
    results = make_results(verdict)
    text = first_screen(render_html(results))
    assert "The picture is used" not in text and "PASS" not in text and "\u2713 PASS" not in text
    assert verdict in text
    assert ("Check 1 fails" in text) == (verdict == "FAIL") and ("ndecided" in text) == (verdict == "INCONCLUSIVE")


@pytest.mark.usefixtures("undrawn")
def test_a_failed_second_check_is_the_headline_of_a_run_that_sees() -> None:
    text = first_screen(render_html(make_results(coverage=make_coverage("FAIL"))))
    sentence = "The picture is used, and its content matters. Check 2 does not pass: At max_seq_len 512, truncation"
    assert sentence in text
    assert "\u2717FAIL" in text and "PASS" not in text


@pytest.mark.parametrize("verdict", GAPS)
@pytest.mark.usefixtures("undrawn")
def test_no_sentence_stands_on_the_page_twice(verdict: str, pictures: Path) -> None:
    results = make_full_results(pictures, 0, ablation=make_ablation(verdict), diagnosis=[])
    html = render_html(results)
    blocks = re.findall(r"<(?:h1|p|li|figcaption)\b[^>]*>(.*?)</(?:h1|p|li|figcaption)>", html, flags=re.DOTALL)
    told = [Markup(block).striptags().partition(" Defined below:")[0] for block in blocks]
    sentences = [part for text in told for part in re.split(r"(?<=[.:;]) ", text) if len(part.split()) > 4]
    assert len(sentences) > 15 and sorted(sentences) == sorted(set(sentences))


@pytest.mark.usefixtures("undrawn")
def test_only_a_gate_has_something_to_exceed() -> None:
    html = render_html(make_results())
    rows = re.findall(r'<tr><th scope="row">([\w-]+)</th>((?:<td[^>]*>[^<]*</td>){9})</tr>', html)
    exceed = {name: re.findall(r"<td[^>]*>([^<]*)</td>", cells)[4] for name, cells in rows}
    assert exceed == {"correct": "\u2013", "shuffled": "0.05", "zero": "0", "noise": "0", "no-image": "\u2013"}


SECTIONS = ["training", "ablation", "coverage"]
PARTS = ["decomposition", "matching", "words", "connector"]


@pytest.mark.parametrize("absent", SECTIONS)
@pytest.mark.usefixtures("undrawn")
def test_a_section_that_was_not_measured_is_left_out(pictures: Path, absent: str) -> None:
    page = Page(render_html(make_full_results(pictures, 4, **{absent: None})))
    ids = {a["id"] for _, a in page.tags if "id" in a}
    assert ("conditions" if absent == "ablation" else absent) not in ids
    assert "run" in ids and "gallery" in ids


@pytest.mark.parametrize("absent", PARTS)
@pytest.mark.usefixtures("undrawn")
def test_a_part_of_check_1_that_was_not_measured_is_left_out(pictures: Path, absent: str) -> None:
    ablation = html_data.make_full_ablation(**{absent: None})
    page = Page(render_html(make_full_results(pictures, 4, ablation=ablation)))
    ids = {a["id"] for _, a in page.tags if "id" in a}
    assert absent not in ids
    assert {part for part in PARTS if part != absent} <= ids


@pytest.mark.usefixtures("undrawn")
def test_a_decomposition_without_figures_is_said_and_not_drawn(pictures: Path) -> None:
    gaps = {**html_data.GAPS, "no-image": (0.2, 0.03)}
    ablation = html_data.make_full_ablation(gaps)
    assert ablation.decomposition is not None and ablation.decomposition.blind_under_trained
    html = render_html(make_full_results(pictures, 2, ablation=ablation))
    section = html[html.index('<h2 id="decomposition">') : html.index('<h2 id="connector">')]
    assert "The gaps are not split: the blind prompt is under-trained." in section and "<svg" not in section
    assert "per token worse than no image" in section and "information +" not in section


def test_results_without_any_measurement_make_a_page() -> None:
    text = Page(render_html(Results(verdict="INCONCLUSIVE"))).text
    assert "INCONCLUSIVE" in text and "No reason was recorded" in text
    named = Page(render_html(results_of())).text
    assert "Check 1 was not run" in named and "Check 2 was not run" in named


@pytest.mark.usefixtures("undrawn")
def test_losses_that_are_not_finite_are_said() -> None:
    text = Page(render_html(make_results(ablation=make_ablation(not_finite=["shuffled"])))).text
    assert "no gap a loss is not finite" in text and "Check 1 fails: a loss is not finite." in text


def test_a_correct_loss_that_is_not_finite_leaves_out_the_drawing() -> None:
    page = Page(render_html(make_results(ablation=make_ablation(not_finite=["correct", "shuffled", "zero", "noise"]))))
    assert "Loss per condition" not in page.text


def test_findings_come_by_severity_with_evidence_fix_and_their_page(full: str, page: Page) -> None:
    codes = re.findall(r'<span class="severity">(\w+)</span> <code>([\w-]+)</code>', full)
    assert codes == [
        ("error", "scale-mismatch"),
        ("warning", "slots-dead"),
        ("note", "under-trained"),
        ("note", "made-up"),
    ]
    assert "<dt>rms_ratio</dt><dd>14.23</dd>" in full and "<dt>range</dt><dd>0.1, 10</dd>" in full
    assert "Fix: set connector.output_norm to true and train again" in page.text
    assert {"../docs/faults/scale-mismatch.md"} <= {a["href"] for a in page.all("a")}
    assert "../docs/faults/made-up.md" not in {a["href"] for a in page.all("a")}


MODULE, SCRIPT = SimpleNamespace(name="qwen3_vlm.eval_ablation"), None


@pytest.mark.parametrize(
    ("spec", "argv", "command"),
    [
        (MODULE, ["/x/qwen3_vlm/eval_ablation.py", "-a"], "python -m qwen3_vlm.eval_ablation -a"),
        (SimpleNamespace(name="pytest.__main__"), ["/x/pytest/__main__.py"], "python -m pytest"),
        (SCRIPT, ["/x/.venv/bin/qwen3-vlm", "trial", "--a", "b c"], "qwen3-vlm trial --a 'b c'"),
        (SCRIPT, ["benchmarks/two connectors.py"], "python 'benchmarks/two connectors.py'"),
        (SCRIPT, ["-c", "1"], ""),
        (SCRIPT, [""], ""),
    ],
)
def test_the_recorded_command_can_be_typed_again(
    spec: SimpleNamespace | None, argv: list[str], command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", spec)
    monkeypatch.setattr(sys, "argv", argv)
    assert command_line() == command


@pytest.mark.usefixtures("undrawn")
def test_the_shown_command_has_relative_paths_as_they_were_given() -> None:
    command = (
        "python -m qwen3_vlm.eval_ablation --config configs/x.yaml --checkpoint 'outputs/run (2)/checkpoint_1.pt' "
        "--data ../rows/lr-/a.json --output "
    )
    html = render_html(make_results(command=f"{command}/home/someone/out"))
    assert Page(html[html.index("<pre") : html.index("</pre>") + 6]).text == f"{command}.../out"


def test_no_folder_of_anybody_is_on_the_page(full: str, pictures: Path) -> None:
    assert "someone" not in full
    assert str(pictures) not in full


@pytest.mark.usefixtures("undrawn")
def test_no_folder_of_anybody_comes_with_a_reason_or_a_remark() -> None:
    sections = render_html(everywhere("at /home/someone/a.png")).split("<section ")
    for name, places in {
        "why": ["unscored", "carrier", "rejected"],
        "conditions": ["errortype", "errormessage", "notename", "notetext"],
        "coverage": ["rejected"],
    }.items():
        (section,) = (part for part in sections if part.startswith(f'aria-labelledby="{name}"'))
        assert "someone" not in section
        assert all(f"{place} at .../a.png" in section for place in places)


def test_links_to_documents_only_where_page_and_documents_are_in_one_tree(tmp_path: Path) -> None:
    assert docs_link(tmp_path) is None
    if (ROOT / "docs" / "faults").is_dir():
        assert docs_link(ROOT / "outputs" / "run") == "../../docs"
        assert docs_link(ROOT / "docs") == "."


def test_the_definitions_are_those_of_the_documentation() -> None:
    document = " ".join((ROOT / "docs" / "report.md").read_text(encoding="utf-8").split())
    for definition in DEFINITIONS.values():
        assert f"### {definition.title} {definition.text}" in document


def test_tiles_and_columns_of_conditions_lead_to_their_definitions(full: str) -> None:
    tiles = re.findall(r'<p class="label"><a href="#def-([\w-]+)">', full)
    assert tiles == ["gap", "matching", "gap", "gap", "coverage"]
    columns = dict(re.findall(r'<th scope="col"><a href="#def-([\w-]+)">([^<]+)</a>', full))
    assert columns["own-better"] == "own better" and {"loss", "gap", "interval", "verdict"} <= set(columns)


@pytest.mark.usefixtures("undrawn")
def test_a_figure_after_plus_and_minus_is_called_a_standard_error() -> None:
    def why(results: Results) -> str:
        return Page(render_html(results).split('<main id="main">')[1].split("</section>")[0] + "</section>").text

    assert "The figure after +- is the standard error" in why(make_results())
    assert "standard error" not in why(make_results(ablation=checked({}, samples=0)))


def test_no_dot_stands_on_the_wrong_side_of_zero(drawn: dict[str, Figure]) -> None:
    gaps = [-0.05, -1e-9, 0.0, 1e-9, 0.0301, 0.5]
    plots.dots(gaps, 0.05, "", "dots")
    better, worse, *_ = drawn["dots"].axes[0].lines
    assert len(better.get_xdata()) == 3 and min(better.get_xdata()) > 0
    assert len(worse.get_xdata()) == 3 and max(worse.get_xdata()) < 0
    plots.dots([0.0, 0.0], None, "", "ties")
    assert max(drawn["ties"].axes[0].lines[0].get_xdata()) < 0


@pytest.mark.parametrize("first", [0, 5])
def test_steps_are_labelled_plainly_at_looks(drawn: dict[str, Figure], first: int) -> None:
    steps = [first, 19, 38, 75, 150, 300, 600, 1200]
    looks = [look(step, 0.1, 0.2, len(steps)) for step in steps]
    plots.training_loss([LossPoint(step=1225, train=1.0, eval=None)], looks, "", "loss")
    (axes,) = drawn["loss"].axes
    drawn["loss"].canvas.draw()
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels[0] == "1,225" and set(labels[1:]) < {f"{step:,}" for step in steps} and len(labels) > 3
    boxes = sorted(label.get_window_extent().extents[[0, 2]].tolist() for label in axes.get_xticklabels())
    assert all(left[1] < right[0] for left, right in zip(boxes, boxes[1:], strict=False)), "labels touch"
    assert [label.get_text() for label in axes.get_xticklabels(minor=True) if label.get_text()] == []
    marked = {*axes.get_xticks(), *axes.get_xticks(minor=True)}
    assert {float(step) for step in steps} <= marked


def test_the_gaps_at_looks_are_drawn_with_the_bounds_that_they_are_judged_by(drawn: dict[str, Figure]) -> None:
    bare = look(10, 0.1, 0.2).model_copy(update={"lower_shuffled": None, "upper_shuffled": None})
    bounded = bare.model_copy(update={"step": 20, "lower_shuffled": 0.06, "upper_shuffled": 0.14})
    plots.training_gaps([bare, bounded], "", "gaps")
    zero_line, bounds, *gaps = drawn["gaps"].axes[0].lines
    assert len(gaps) == 2 and list(bounds.get_xdata()) == [20, 20] and list(bounds.get_ydata()) == [0.06, 0.14]


def test_the_page_says_of_the_looks_what_the_terminal_says(pictures: Path, page: Page) -> None:
    training = make_full_results(pictures).training
    assert training is not None
    said = read_onset(training.looks)
    assert "began to use the picture by step 80;" in said and said in page.text


def test_a_far_limit_does_not_squash_the_lengths(drawn: dict[str, Figure]) -> None:
    for limit in (130, 4096):
        coverage = covered({64: 3, 80: 5, 126: 1}, limit)
        plots.lengths(coverage, "", f"to {limit}")
    (near,), (far,) = drawn["to 130"].axes, drawn["to 4096"].axes
    assert near.get_xlim()[0] == 0 and near.get_xlim()[1] > 130
    assert far.get_xlim()[0] > 50 and far.get_xlim()[1] < 140
    assert "max_seq_len 4096, beyond the right edge" in far.get_legend_handles_labels()[1]


def test_a_legend_is_not_wider_than_its_figure(drawn: dict[str, Figure]) -> None:
    plots.dots([-0.2] * 12_000 + [0.4] * 34_000, 0.05, "", "dots")
    plots.training_loss([LossPoint(step=9, train=1.0, eval=1.0)], [], "", "one row")
    (wrapped,) = drawn["dots"].legends
    assert wrapped.get_window_extent().width <= drawn["dots"].bbox.width
    assert drawn["dots"].get_figheight() > 1.9 and drawn["one row"].get_figheight() == 2.1


@pytest.mark.usefixtures("undrawn")
def test_report_command_makes_the_page_again(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = make_full_results(pictures, 6)
    (tmp_path / "results.json").write_text(to_json(results), encoding="utf-8")
    assert main(["report", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render_html(results)
    assert capsys.readouterr().out == f"written: {tmp_path / 'report.html'}\n"


@pytest.mark.usefixtures("undrawn")
def test_report_command_finds_images_that_have_moved(tmp_path: Path, pictures: Path) -> None:
    results = make_full_results(tmp_path / "gone", 3)
    (tmp_path / "results.json").write_text(to_json(results), encoding="utf-8")
    out = tmp_path / "elsewhere" / "page.html"
    assert main(["report", str(tmp_path), "--output", str(out), "--image_root", str(pictures)]) == 0
    assert out.read_text(encoding="utf-8").count("data:image/") == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot read results"), ("{", "not a results file"), ('{"schema": 9}', "use the version that wrote them")],
)
def test_report_command_refuses_what_is_not_a_result(
    tmp_path: Path, content: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content, encoding="utf-8")
    assert main(["report", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


@given(st.integers(0, 300), st.integers(0, 60))
def test_an_even_choice_has_both_ends_and_equal_steps(total: int, limit: int) -> None:
    chosen = even_choice(total, limit)
    assert len(chosen) == min(total, limit)
    assert chosen == sorted(set(chosen)) and all(0 <= place < total for place in chosen)
    steps = [b - a for a, b in zip(chosen, chosen[1:], strict=False)]
    assert not steps or max(steps) - min(steps) <= 1
    if len(chosen) > 1:
        assert (chosen[0], chosen[-1]) == (0, total - 1)


@given(st.floats(-1, 1))
def test_only_all_is_written_as_100_percent_and_only_none_as_0(share: float) -> None:
    text = percent(share)
    assert (text == "100%") == (share == 1)
    assert (text == "0%") == (share == 0)
    assert text.startswith("\u2212") == (share <= -0.0005)
    assert "100.0" not in text


@pytest.mark.parametrize(
    ("value", "text"), [(3.244, "3.24"), (0.032, "0.032"), (-0.001, "\u22120.0010"), (0.0, "0.00"), (-0.0, "0.00")]
)
def test_small_figures_keep_their_digits(value: float, text: str) -> None:
    assert plain(value) == text
