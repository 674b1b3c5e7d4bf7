"""What `check_batch` prints: one screen, one row as the model sees it, and a page that is escaped."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import eyechart
from batch_sabotages import SABOTAGES, healthy
from batches import ANSWER, FAMILIES, QUESTION, Item, item, made, picture
from eyechart.faults.batch_evidence import Check, Unchecked, Why, gather
from eyechart.processors.pixel_images import entry_pixels, normalisation_of
from eyechart.processors.pixel_images import picture as shown_picture
from eyechart.reporting.batch_row import thumbnails
from eyechart.reporting.batch_text import CHECKS, REASONS, not_checked
from saved_models import Saved, saved

__all__ = ["saved"]


class Page(HTMLParser):
    """The classes and texts of all spans, and the tags of a page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.spans: list[tuple[str, str]] = []
        self.tags: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "span":
            self.spans.append((dict(attrs).get("class") or "", ""))

    def handle_data(self, data: str) -> None:
        if self.spans and self.tags[-1] == "span":
            kind, text = self.spans[-1]
            self.spans[-1] = (kind, text + data)


@pytest.mark.parametrize("sabotage", SABOTAGES[::5], ids=lambda one: one.name)
def test_the_printed_form_fits_a_screen_and_begins_with_the_findings(sabotage: object, saved: Saved) -> None:
    one = made(saved, sabotage.family)  # type: ignore[attr-defined]
    result = eyechart.check_batch(sabotage.make(one), one.processor, one.config)  # type: ignore[attr-defined]
    lines = str(result).splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 100
    assert re.match(r"batch: \d+ (error|warning)", lines[0])
    assert lines[1].startswith(f"{result.findings[0].severity} {result.findings[0].code}: ")
    assert any(line.startswith("Checked: ") for line in lines)


def test_a_sound_batch_prints_what_was_looked_at(saved: Saved) -> None:
    one = made(saved, "gemma3")
    said = " ".join(str(eyechart.check_batch(healthy(one), one.processor, one.config)).split())
    assert said.startswith("batch: no fault found Checked: 4 rows of ")
    assert "16 image positions (id 7, from the model's config) in 4 rows" in said
    assert "answer tokens found by the chat template" in said and "100% of them on answers" in said


def test_a_batch_of_text_prints_that_it_has_no_images(saved: Saved) -> None:
    one = made(saved, "gemma3")
    result = eyechart.check_batch(one.batch([item(1, 0)], labels="none"), one.processor, one.config)
    assert "; no images;" in str(result).replace("\n ", "") and "no labels" in str(result)


def test_every_check_and_reason_has_words() -> None:
    assert set(CHECKS) == set(Check) and set(REASONS) == set(Why)
    (sentence,) = not_checked([Unchecked(Check.PIXELS, Why.NO_MODEL), Unchecked(Check.IDS, Why.NO_MODEL)])
    assert sentence.startswith("Not checked: whether the model accepts the pixels, ids against")


def test_a_row_shows_images_prompt_and_labels(saved: Saved) -> None:
    one = made(saved, "qwen2_5_vl")
    batch = one.batch([item(1), item(2, 0, f"{QUESTION} And that is a longer text than the other?", ANSWER)])
    result = eyechart.check_batch(batch, one.processor, one.config)
    first = result.row(0)
    assert "image 0: 16 x 24 pixels, 6 visual tokens" in first and "[6 image positions]" in first
    assert f"\u27e6{ANSWER}<|im_end|>\u27e7" in first and "padding tokens]" in first
    assert "image" not in result.row(1).replace("this?", "")


def test_without_a_tokenizer_a_row_shows_ids(saved: Saved) -> None:
    batch = healthy(made(saved, "qwen2_5_vl"))
    assert " ".join(map(str, batch["input_ids"][0, :3].tolist())) in eyechart.check_batch(batch).row()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_thumbnail_is_the_picture_that_the_batch_holds(name: str, saved: Saved) -> None:
    one = made(saved, name)
    sides = {"llava": (28, 28), "qwen2_5_vl": (16, 24), "qwen3_vl": (16, 24)}.get(name, (32, 32))
    drawn = picture(5, sides)
    evidence = gather(one.batch([Item((drawn,))]), one.processor, one.config, None)
    entry = evidence.geometry.entries_of(0)[-1]  # of tiles, the last is the whole image
    pixels_CHW = entry_pixels(evidence.batch, evidence.geometry, entry, one.processor)
    assert pixels_CHW is not None
    again = np.asarray(shown_picture(pixels_CHW, normalisation_of(one.processor)))
    if name in ("idefics3", "smolvlm"):  # they resize in any case
        assert np.corrcoef(again.reshape(-1), np.asarray(drawn).reshape(-1))[0, 1] > 0.5
    else:
        assert np.array_equal(again, np.asarray(drawn))


def test_many_images_are_counted_and_unknown_forms_are_named(saved: Saved) -> None:
    one = made(saved, "idefics3")
    evidence = gather(one.batch([item(1, 4)]), one.processor, one.config, None)
    shown = thumbnails(evidence, 0)
    assert len(shown) == 13 and shown[-1].caption == "and 8 more" and not shown[-1].source
    qwen = made(saved, "qwen2_5_vl")
    (unknown,) = thumbnails(gather(healthy(qwen), None, qwen.config, None), 0)
    assert not unknown.source and "unknown form" in unknown.caption


def test_the_page_shows_thumbnails_and_labels_in_colours(saved: Saved, tmp_path: Path) -> None:
    one = made(saved, "gemma3")
    result = eyechart.check_batch(healthy(one, labels="all"), one.processor, one.config)
    result.save(tmp_path / "batch.html")
    source = (tmp_path / "batch.html").read_text(encoding="utf-8")
    page = Page(source)
    assert any(kind == "text label answer" and text.startswith(ANSWER) for kind, text in page.spans)
    assert any(kind == "image label beside" and "4 image positions" in text for kind, text in page.spans)
    (encoded,) = re.findall(r'src="data:image/png;base64,([^"]+)"', source)
    assert Image.open(io.BytesIO(base64.b64decode(encoded))).size == (32, 32)
    assert "script" not in page.tags and "http" not in source


def test_text_of_a_row_is_escaped_on_the_page(saved: Saved) -> None:
    one = made(saved, "qwen2_5_vl")
    batch = one.batch([item(1, 1, "<script>alert(1)</script> <b>what</b>?", ANSWER)])
    source = eyechart.check_batch(batch, one.processor, one.config).html()
    assert "<script>" not in source and "&lt;script&gt;" in source and "<b>" not in source


def test_the_code_of_the_documentation_runs(
    saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "batch.md").read_text(encoding="utf-8")
    one = made(saved, "qwen2_5_vl")
    names = {"loader": [healthy(one)], "processor": one.processor, "model": one.config}
    monkeypatch.chdir(tmp_path)
    for code in re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL):
        exec(compile(code, "docs/batch.md", "exec"), names)
    assert "batch: no fault found" in capsys.readouterr().out and (tmp_path / "batch.html").is_file()


def test_the_example_of_the_documentation_is_what_is_printed(saved: Saved) -> None:
    page = (Path(__file__).parents[2] / "docs" / "batch.md").read_text(encoding="utf-8")
    one = made(saved, "qwen2_5_vl")
    batch = {key: value for key, value in healthy(one).items() if not key.startswith(("pixel", "image"))}
    printed = str(eyechart.check_batch(batch, one.processor)).partition("\nNot checked")[0]
    assert f"```\n{printed}\n```" in page
