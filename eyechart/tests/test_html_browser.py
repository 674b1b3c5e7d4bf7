"""report.html in a real browser: quiet, whole at any width, light and dark, and deaf to hostile captions."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from browser import CHROMIUM, Browser, started
from eyechart.reporting.html import render_html
from html_data import HOSTILE, RIGHT_TO_LEFT, make_full_results, save_pictures, sees, style_only

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)"),
]
WIDTHS = {1280: 900, 390: 844}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with started(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    save_pictures(folder / "pictures", 40)
    path = folder / "report.html"
    path.write_text(render_html(make_full_results(folder / "pictures"), docs="../docs"), encoding="utf-8")
    return path


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("L"), dtype=np.float64)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_is_quiet_and_asks_for_nothing_but_itself(
    browser: Browser, page: Path, width: int, dark: bool
) -> None:
    browser.open(page, width, WIDTHS[width], dark)
    browser.screenshot(whole=True)
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [page.resolve().as_uri()]


def test_the_policy_stops_what_a_page_would_load(browser: Browser, page: Path, tmp_path: Path) -> None:
    """The two checks above see a request and a complaint where there is one."""
    html = page.read_text(encoding="utf-8")
    tampered = tmp_path / "tampered.html"
    tampered.write_text(html.replace("<main", "<script>document.title = 'ran'</script><main", 1), encoding="utf-8")
    browser.open(tampered)
    assert browser.evaluate("document.title") != "ran"
    assert any("Content Security Policy" in complaint for complaint in browser.complaints)
    fetching = tmp_path / "fetching.html"
    html = html.replace("default-src 'none'; img-src data:", "img-src file:")
    fetching.write_text(html.replace("<main", "<img src='x.png' alt=''><main"), encoding="utf-8")
    browser.open(fetching)
    assert any(url.endswith("x.png") for url in browser.requests)


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_sticks_out_at_the_side(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width, WIDTHS[width])
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    outside = browser.evaluate(
        "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, .skip, svg') &&"
        " e.getBoundingClientRect().right > innerWidth + 1).map(e => e.className || e.tagName)"
    )
    assert outside == []


@pytest.mark.parametrize("width", WIDTHS)
def test_drawings_hold_their_texts(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width, WIDTHS[width])
    outside = browser.evaluate(
        "[...document.querySelectorAll('svg text')].filter(e => {"
        " const text = e.getBoundingClientRect(), box = e.closest('svg').getBoundingClientRect();"
        " return text.right > box.right + 1 || text.left < box.left - 1 || text.top < box.top - 2; })"
        ".map(e => e.textContent.trim())"
    )
    assert outside == []


@pytest.mark.parametrize("width", WIDTHS)
def test_a_long_word_leaves_its_figures_in_sight(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width, WIDTHS[width])
    tables = browser.evaluate(
        "[...document.querySelectorAll('.three .scroll')].map(e => [e.scrollWidth - e.clientWidth,"
        " Math.max(...[...e.querySelectorAll('tbody th')].map(t => t.textContent.length))])"
    )
    assert max(length for _, length in tables) == 150
    assert [over for over, _ in tables] == [0, 0, 0]


def test_right_to_left_words_do_not_reorder_what_stands_beside_them(browser: Browser, page: Path) -> None:
    browser.open(page)
    starts = browser.evaluate("""(() => {
      const line = [...document.querySelectorAll('.reading')].find(p => p.textContent.includes('(+4.00, 60 times)'));
      return ['4.00', '60 times', '3.30', '53 times'].map(words => {
        const nodes = document.createTreeWalker(line, NodeFilter.SHOW_TEXT), range = document.createRange();
        let node;
        while ((node = nodes.nextNode()) && !node.data.includes(words));
        range.setStart(node, node.data.indexOf(words));
        range.setEnd(node, node.data.indexOf(words) + words.length);
        const box = range.getBoundingClientRect();
        return [Math.round(box.top), box.left]; }); })()""")
    assert starts == sorted(starts) and len({tuple(start) for start in starts}) == 4, "line by line, left to right"
    last, end = browser.evaluate("""(() => {
      const card = [...document.querySelectorAll('.card')].find(c => c.innerText.includes('4 bars'));
      return [...card.querySelectorAll('.true span')].slice(-2).map(e => {
        const box = e.getBoundingClientRect();
        return [e.textContent, box.left, box.right, e.getClientRects().length]; }); })()""")
    assert (last[0], end[0]) == ("bars", "<end>")
    assert end[2] < last[1] and end[3] == 1, "the end mark follows the last word, to its left"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_pictures_and_boxes_that_scroll_have_an_edge(browser: Browser, page: Path, dark: bool) -> None:
    browser.open(page, dark=dark)
    edge = (
        "(() => { const s = getComputedStyle(document.querySelector('%s')); return [s.borderTopWidth, s.borderTopColor,"
    )
    edge += " s.backgroundImage]; })()"
    card = browser.evaluate("getComputedStyle(document.querySelector('.card')).backgroundColor")
    for what in (".card img", ".true.long"):
        width, colour, _ = browser.evaluate(edge % what)
        assert width == "1px" and colour != card
    assert browser.evaluate(edge % ".true.long")[2].count("gradient") == 4, "shadows show that there is more"


@pytest.mark.parametrize("width", WIDTHS)
def test_light_and_dark_are_two_and_neither_is_blank(browser: Browser, page: Path, width: int) -> None:
    shades = []
    for dark in (False, True):
        browser.open(page, width, WIDTHS[width], dark)
        shot = pixels(browser.screenshot())
        assert shot.shape == (WIDTHS[width], width)
        assert shot.std() > 15, "blank"
        shades.append(np.median(shot))
    assert shades[0] > 230 and shades[1] < 40


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_stands_out_from_its_ground(browser: Browser, page: Path, dark: bool) -> None:
    """WCAG AA: a contrast of at least 4.5 for text, on the page and on cards, with its own colour."""
    browser.open(page, dark=dark)
    contrast = """(() => {
      const probe = document.createElement('p'); document.body.append(probe);
      const rgb = name => { probe.style.color = `var(--${name})`;
        return getComputedStyle(probe).color.match(/[0-9.]+/g).slice(0, 3).map(Number); };
      const light = c => c.map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
      const pairs = {};
      for (const ground of ['page', 'card']) for (const text of ['ink', 'faint', 'link', 'blue', 'orange']) {
        const [a, b] = [light(rgb(ground)), light(rgb(text))].sort((x, y) => y - x);
        pairs[`${text} on ${ground}`] = (a + .05) / (b + .05); }
      return pairs; })()"""
    found = browser.evaluate(contrast)
    assert len(found) == 10
    assert {pair: value for pair, value in found.items() if value < 4.5} == {}


def test_hostile_captions_do_not_run_and_can_be_read(browser: Browser, page: Path) -> None:
    browser.open(page, 390, 844)
    assert browser.evaluate("document.title").startswith("INCONCLUSIVE")
    for row, caption in enumerate(HOSTILE):
        seen = browser.evaluate(
            f"(() => {{ const card = [...document.querySelectorAll('.card')][{row}], p = card.querySelector('.true');"
            " const box = p.getBoundingClientRect(), style = getComputedStyle(p);"
            " return {text: p.innerText, width: box.width, height: box.height, direction: style.direction,"
            " scrolls: p.scrollHeight > p.clientHeight, across: p.scrollWidth > p.clientWidth + 1}; })()"
        )
        first = next(word for word in caption.split() if word.isprintable())
        assert first in seen["text"]
        assert seen["width"] > 150 and seen["height"] > 15
        assert not seen["across"], f"caption {row} sticks out"
        assert seen["direction"] == ("rtl" if row in RIGHT_TO_LEFT else "ltr")
        if len(caption) > 1500:
            assert seen["scrolls"] and seen["height"] < 300, "a very long caption scrolls in a box of its own"


def test_the_keyboard_reaches_links_folds_and_tables_in_order(browser: Browser, page: Path) -> None:
    browser.open(page)
    seen = []
    for _ in range(40):
        browser.press("Tab")
        seen.append(browser.evaluate("document.activeElement.className || document.activeElement.tagName"))
    assert seen[0] == "skip"
    assert {"A", "SUMMARY", "scroll"} <= set(seen)
    outline = browser.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_in_print_everything_is_unfolded_and_light(browser: Browser, page: Path) -> None:
    browser.open(page, dark=True, media="print")
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    heights = browser.evaluate(
        "[...document.querySelectorAll('main > section > details')].map("
        "d => d.lastElementChild.getBoundingClientRect().height)"
    )
    assert heights and min(heights) > 20
    assert browser.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"


def test_two_connectors_are_told_apart_without_scrolling(browser: Browser, page: Path, tmp_path: Path) -> None:
    for name, results in (("sees", sees(page.parent / "pictures")), ("style", style_only(page.parent / "pictures"))):
        path = tmp_path / f"{name}.html"
        path.write_text(render_html(results), encoding="utf-8")
        for width, height in WIDTHS.items():
            browser.open(path, width, height)
            bottom = browser.evaluate("document.querySelector('.tile.primary .state').getBoundingClientRect().bottom")
            assert bottom <= height
        wide = browser.evaluate("document.querySelector('.verdict').innerText")
        assert ("The picture is used" in wide) == (name == "sees")
