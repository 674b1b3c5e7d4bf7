"""The house: no circle of files, and the whole config only where it is needed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {"qwen3_vlm": ROOT / "src" / "qwen3_vlm", "eyechart": ROOT / "eyechart" / "src" / "eyechart"}
WHOLE = {
    "build.py",  # the assembler
    *(f"commands/{name}.py" for name in ("ablate", "audit", "diagnosis", "loaded", "trial")),  # what programs call
    "hf/configuration.py",
    "preflight/rows.py",
    *(f"train/{name}.py" for name in ("evidence/record", "resuming", "run", "stage1")),
}
"""Modules that receive all of `Config`; the others get a section of it, or plain values."""


def files(package: str) -> list[Path]:
    return sorted(ROOMS[package].rglob("*.py"))


def module_of(path: Path, package: str) -> str:
    parts = path.relative_to(ROOMS[package]).with_suffix("").parts
    return ".".join((package, *(part for part in parts if part != "__init__")))


def imports(tree: ast.Module, known: set[str]) -> Iterator[str]:
    """Modules of the package that a file imports, inside functions and for type checkers too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in known else node.module for name in inner if {name, node.module} & known)


@pytest.mark.parametrize("package", ROOMS)
def test_no_file_imports_itself_by_way_of_others(package: str) -> None:
    by_module = {module_of(path, package): path for path in files(package)}
    graph = {m: set(imports(ast.parse(p.read_text("utf-8")), set(by_module))) - {m} for m, p in by_module.items()}
    while free := [module for module, others in graph.items() if not others & set(graph)]:
        for module in free:
            del graph[module]
    assert not graph, f"in a circle, or above one: {', '.join(sorted(graph))}"


def receives_config(tree: ast.Module) -> bool:
    """Whether a parameter or an attribute is annotated with the whole `Config`."""
    annotations = [n.annotation for n in ast.walk(tree) if isinstance(n, ast.AnnAssign | ast.arg) and n.annotation]
    return any(isinstance(part, ast.Name) and part.id == "Config" for a in annotations for part in ast.walk(a))


def test_the_whole_config_goes_to_few() -> None:
    root = ROOMS["qwen3_vlm"]
    found = {p.relative_to(root).as_posix() for p in files("qwen3_vlm") if receives_config(ast.parse(p.read_text()))}
    assert found - {"config.py"} == WHOLE
    assert not any(receives_config(ast.parse(path.read_text("utf-8"))) for path in files("eyechart"))
