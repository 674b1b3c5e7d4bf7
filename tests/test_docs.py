"""The documents say what the code does, and their links lead somewhere."""

import re
from pathlib import Path

import pytest

import command_docs
from qwen3_vlm.cli import main
from qwen3_vlm.commands.config_docs import config_docs

ROOT = Path(__file__).parents[1]
OUTER = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "eyechart/README.md")]
FOLDERS = [ROOT / name for name in ("docs", "eyechart/docs", "src/qwen3_vlm/shipped/assets")]
PAGES = [*OUTER, *(page for folder in FOLDERS for page in sorted(folder.rglob("*.md")))]
OF_THE_HOUSE = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "docs/architecture.md")]
PLACES = [
    ROOT / name
    for name in (
        *("", "docs", "src", "src/qwen3_vlm", "tests"),
        *("eyechart", "eyechart/src", "eyechart/src/eyechart", "eyechart/tests"),
    )
]
"""Where a file may lie that a page of the house names in short."""
GONE_OR_MADE = {"report.html", "runbook.md", "results.json", "docs/faults/CODE.md"}
"""Named there, and made by a run or by a contributor."""
LINK = re.compile(r"\[[^\]]*\]\(<?([^)\s>]+)")


def broken_links(page: Path) -> list[str]:
    """Relative links (files and headings) that lead nowhere."""
    broken = []
    for target in LINK.findall(without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, heading = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or (heading and heading not in headings(file)):
            broken.append(target)
    return broken


def names_of_files(text: str) -> set[str]:
    """Files, folders and modules that a page names: in backticks, or at the left of a drawing."""
    quoted = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    drawn = re.findall(r"^([a-z]+[./][a-z]*) {3,}", text, flags=re.MULTILINE)
    files = [name for name in quoted if re.fullmatch(r"[\w./-]+(?:\.(?:py|md|yaml|txt|toml|css|j2)|/)", name)]
    modules = [name.replace(".", "/") for name in quoted if re.fullmatch(r"(?:qwen3_vlm|eyechart)(?:\.\w+)+", name)]
    return {*files, *modules, *(name.replace(".", "/") for name in drawn)}


def exists(name: str) -> bool:
    """Whether a file, folder, module, or something that a module defines, has this name in one of PLACES."""
    parent, last = Path(name).parent, Path(name).name
    return any(
        (place / name).exists()
        or (place / f"{name}.py").is_file()
        or (
            (place / f"{parent}.py").is_file()
            and re.search(rf"\b{last}\b", (place / f"{parent}.py").read_text("utf-8"))
        )
        for place in PLACES
    )


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def headings(page: Path) -> set[str]:
    """Anchors as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_config_page_is_what_the_config_says() -> None:
    stale = "run `python -m qwen3_vlm.commands.config_docs > docs/config.md`"
    assert (ROOT / "docs" / "config.md").read_text(encoding="utf-8") == config_docs(), stale


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page) == []


def test_a_link_to_nothing_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One Two\n[a](page.md#one-two) [b](https://x.y) `[c](d)` [gone](gone.md) [no](#three)\n")
    assert broken_links(page) == ["gone.md", "#three"]


@pytest.mark.parametrize("page", OF_THE_HOUSE, ids=lambda page: page.name)
def test_every_file_and_module_that_a_page_of_the_house_names_exists(page: Path) -> None:
    named = names_of_files(page.read_text(encoding="utf-8")) - GONE_OR_MADE
    assert [name for name in sorted(named) if not exists(name)] == []


def test_a_file_that_is_gone_is_found() -> None:
    named = names_of_files("`scoring/donors.py` `gone/there.py` `eyechart.seam.Batch` `eyechart.nothing` `--flag`\n")
    assert named == {"scoring/donors.py", "gone/there.py", "eyechart/seam/Batch", "eyechart/nothing"}
    assert {name for name in named if not exists(name)} == {"gone/there.py", "eyechart/nothing"}


def test_every_room_is_in_the_table_of_the_house_and_on_one_page() -> None:
    house, page = (path.read_text(encoding="utf-8") for path in (OF_THE_HOUSE[2], OF_THE_HOUSE[1]))
    for package in (ROOT / "eyechart/src/eyechart", ROOT / "src/qwen3_vlm"):
        rooms = {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
        (arrows,) = re.findall(rf"^{package.name} +([a-z_]+ >[^`]+?)(?:\nqwen3_vlm|\n```)", page, flags=re.MULTILINE)
        for room in rooms - {"__init__", "__main__"}:
            assert re.search(rf"^\|.*`{room}/?`", house, flags=re.MULTILINE), f"architecture.md: {package.name}.{room}"
            assert re.search(rf"\b{room}\b", arrows), f"CONTRIBUTING.md: {package.name}.{room}"


def test_make_targets_in_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {"trial", "test"} <= set(targets)
    assert [name for name in targets if not re.search(rf"^{name}:", makefile, flags=re.MULTILINE)] == []


def test_command_page_is_what_the_commands_say() -> None:
    stale = "run `python tests/command_docs.py > docs/commands.md`"
    assert (ROOT / "docs" / "commands.md").read_text(encoding="utf-8") == command_docs.page(), stale


@pytest.mark.parametrize("name", command_docs.commands())
def test_every_command_has_help_with_its_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert f"Example: qwen3-vlm {name}" in capsys.readouterr().out
