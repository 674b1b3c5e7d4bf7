"""What the wheels promise, checked on the source tree; `.ci/wheels` installs them and runs the trial."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import qwen3_vlm
from qwen3_vlm.build import load_config_only
from qwen3_vlm.cli import main
from qwen3_vlm.config import load_config
from qwen3_vlm.shipped import locate

ROOT = Path(__file__).parents[1]
TREES = {"eyechart": ROOT / "eyechart", "qwen3-vlm": ROOT}
BROUGHT = {
    "markupsafe": "jinja2",
    "pydantic-core": "pydantic",
    **dict.fromkeys(("huggingface-hub", "safetensors", "tokenizers"), "transformers"),
    **dict.fromkeys(("jinja2", "msgspec", "pillow", "rich", "scipy", "tqdm"), "eyechart"),
}
"""Imported, and brought along by a dependency that cannot do without."""
NAMES = {"PIL": "pillow", "yaml": "pyyaml", "sklearn": "scikit-learn"}


def project(name: str) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((TREES[name] / "pyproject.toml").read_text(encoding="utf-8"))
    return found["project"]


def distribution(requirement: str) -> str:
    return re.match(r"[\w-]+", requirement)[0]


def imported(package: Path) -> set[str]:
    """Distributions other than the two and the standard library's that the files of a package import."""
    modules = set()
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules.add(str(node.module).split(".")[0])
    ours = {"eyechart", "qwen3_vlm"}
    return {NAMES.get(name, name.replace("_", "-")) for name in modules - set(sys.stdlib_module_names) - ours}


def test_both_distributions_carry_the_same_version_and_say_it(capsys: pytest.CaptureFixture[str]) -> None:
    version = project("qwen3-vlm")["version"]
    assert project("eyechart")["version"] == version
    assert qwen3_vlm.__version__ == importlib.metadata.version("qwen3-vlm") == version
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"qwen3-vlm {version}\n"


def test_citation_and_changelog_know_the_version() -> None:
    version = project("qwen3-vlm")["version"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    newest = re.search(r"^## \[([\d.]+)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest and (newest[1], newest[2]) == (version, str(cited["date-released"]))
    assert (cited["version"], cited["license"]) == (version, project("qwen3-vlm")["license"])


@pytest.mark.parametrize("name", TREES)
def test_no_dependency_has_an_upper_bound_and_each_has_a_lower_one(name: str) -> None:
    stated = project(name)
    assert all(re.fullmatch(r"[\w-]+>=[\d.]+", requirement) for requirement in stated["dependencies"])
    assert re.fullmatch(r">=[\d.]+", stated["requires-python"])


@pytest.mark.parametrize(("file", "name"), [("lowest-eyechart", "eyechart"), ("lowest-stage1", "qwen3-vlm")])
def test_the_versions_that_ci_calls_the_lowest_are_the_lower_bounds(file: str, name: str) -> None:
    tested = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / f".ci/{file}.txt").read_text("utf-8"), re.MULTILINE))
    bounds = dict(requirement.split(">=") for requirement in project(name)["dependencies"])
    assert "transformers" in tested
    for item in tested.keys() & bounds.keys():
        assert re.fullmatch(rf"{re.escape(bounds[item])}(\.0)*", tested[item]), item
    if name == "eyechart":
        assert bounds.keys() - tested.keys() == {"torch"}  # older releases have no small build for CPUs


@pytest.mark.parametrize(("name", "package"), [("eyechart", "eyechart/src/eyechart"), ("qwen3-vlm", "src/qwen3_vlm")])
def test_everything_that_is_imported_is_a_dependency(name: str, package: str) -> None:
    stated = project(name)
    declared = {distribution(requirement) for requirement in stated["dependencies"]}
    extras = {distribution(text) for group in stated.get("optional-dependencies", {}).values() for text in group}
    assert {item for item in imported(ROOT / package) if not {item, BROUGHT.get(item)} & declared} <= extras


def test_both_wheels_carry_the_license() -> None:
    texts = [(tree / "LICENSE").read_text(encoding="utf-8") for tree in TREES.values()]
    assert texts[0] == texts[1]
    assert "Apache License" in texts[0]
    assert all(project(name)["license-files"] == ["LICENSE"] for name in TREES)


def test_every_file_of_the_packages_that_is_no_code_is_named_as_package_data() -> None:
    for name, package in (("eyechart", "eyechart/src/eyechart"), ("qwen3-vlm", "src/qwen3_vlm")):
        settings = tomllib.loads((TREES[name] / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
        (patterns,) = settings["package-data"].values()
        named = {
            path
            for pattern in patterns
            for path in (ROOT / package).glob(f"{pattern}/*" if "**" in pattern else pattern)
        }
        there = {path for path in (ROOT / package).rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
        assert there <= named


def test_a_packaged_config_and_its_backbones_are_found_from_an_empty_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(Path("configs/stage1_align_tiny.yaml"))
    assert config.model.vision == "assets/tiny/vision"
    assert load_config_only(config.model.vision)["model_type"] == "siglip_vision_model"
    assert load_config_only(config.model.llm)["model_type"] == "qwen3"


def test_what_is_here_goes_before_what_came_with_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = tmp_path / "configs" / "stage1_align_tiny.yaml"
    assert locate("configs/stage1_align_tiny.yaml") != "configs/stage1_align_tiny.yaml"
    here.parent.mkdir()
    here.write_text("seed: 7\n", encoding="utf-8")
    assert locate("configs/stage1_align_tiny.yaml") == "configs/stage1_align_tiny.yaml"
    assert load_config(Path("configs/stage1_align_tiny.yaml")).seed == 7


@pytest.mark.parametrize("name", ["Qwen/Qwen3-8B-Base", "assets/none", "assets/../../cli.py", "__init__.py", "."])
def test_nothing_else_is_taken_from_the_package(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate(name) == name


@pytest.mark.parametrize("folder", ["configs", "assets"])
def test_the_folders_at_the_root_are_the_packaged_ones(folder: str) -> None:
    assert (ROOT / folder).resolve() == ROOT / "src/qwen3_vlm/shipped" / folder
