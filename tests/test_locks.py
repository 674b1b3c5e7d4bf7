"""Every package that CI installs is pinned, with the hashes of its files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCKS = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "locks").glob("*.txt") if path.stem != "apart"}
VERSIONS = {path.stem: path for path in (ROOT / ".ci").glob("*.txt")}
_INSTALLS = re.compile(r"pip install|\$\(PIP\)|\$\{install")


def pins(text: str) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==([^\s;]+)", text, flags=re.MULTILINE))


CONSTRAINTS = pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))


def test_there_is_a_lock_for_each_environment() -> None:
    assert LOCKS.keys() == {"run", "dev", *VERSIONS}


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_of_a_lock_has_the_hash_of_at_least_one_file(name: str) -> None:
    entries = re.split(r"^(?=[\w.-]+==)", LOCKS[name], flags=re.MULTILINE)[1:]
    assert len(entries) == len(pins(LOCKS[name])) > 0
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry) for entry in entries)


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_no_address_and_no_path(name: str) -> None:
    assert not re.search(r"://|/", re.sub(r"--hash=\S+", "", LOCKS[name]))


@pytest.mark.parametrize("name", VERSIONS)
def test_a_lock_has_the_versions_that_were_written_by_hand(name: str) -> None:
    assert pins(LOCKS[name]) == pins(VERSIONS[name].read_text(encoding="utf-8"))


def test_the_locks_have_the_versions_of_the_constraints_and_all_of_them() -> None:
    run, dev = pins(LOCKS["run"]), pins(LOCKS["dev"])
    assert run.items() <= dev.items()
    assert {**dev, "torch": CONSTRAINTS["torch"]} == CONSTRAINTS


def installs(path: Path) -> list[str]:
    """Return the commands in a file that install packages, each as one line."""
    joined = path.read_text(encoding="utf-8").replace("\\\n", " ")
    parts = [part for line in joined.splitlines() for part in re.split(r"&&|\|\|", line)]
    definition = re.compile(r"\s*#|\w+ := |install=")
    return [part for part in parts if _INSTALLS.search(part) and not definition.match(part)]


@pytest.mark.parametrize(
    "path", [ROOT / "Makefile", ROOT / "Dockerfile", ROOT / ".ci/run", ROOT / ".ci/wheels"], ids=str
)
def test_ci_installs_by_hash_but_for_torch_and_our_own_packages(path: Path) -> None:
    found = installs(path)
    assert found
    for command in found:
        by_hash = "--require-hashes" in command and "--no-deps" in command
        torch_alone = command.rstrip().endswith("torch") and "constraints.txt" in command
        ours = "--no-deps" in command and re.search(r"-e eyechart -e \.|dist/eyechart-\*\.whl", command)
        benchmark = "torchvision timm" in command or "transformers==$$older" in command
        assert by_hash or torch_alone or ours or benchmark or "$(OURS)" in command, command
