"""The container, as far as it can be checked without an engine to build it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HADOLINT = Path(sys.executable).with_name("hadolint")
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


@pytest.mark.skipif(not HADOLINT.is_file(), reason="hadolint comes as a wheel for Linux on x86_64 only")
def test_the_linter_finds_nothing_in_the_dockerfile(tmp_path: Path) -> None:
    assert subprocess.run([HADOLINT, ROOT / "Dockerfile"], capture_output=True, text=True).stdout == ""
    broken = tmp_path / "Dockerfile"
    broken.write_text("FROM python\nRUN cd /tmp\n", encoding="utf-8")
    assert subprocess.run([HADOLINT, broken], capture_output=True).returncode == 1


def test_the_image_is_pinned_and_does_not_run_as_root() -> None:
    assert re.search(r"^FROM python:3\.12\.\d+-", DOCKERFILE, flags=re.MULTILINE)
    assert re.findall(r"^USER (.+)$", DOCKERFILE, flags=re.MULTILINE)[-1] == "1000:1000"
    assert "pip install --require-hashes --no-deps -r locks/run.txt" in DOCKERFILE
    assert "pip install -c constraints.txt torch" in DOCKERFILE


def test_everything_the_dockerfile_copies_before_the_code_exists() -> None:
    for line in re.findall(r"^COPY --chown=\S+ (.+)$", DOCKERFILE, flags=re.MULTILINE):
        *sources, _ = line.split()
        assert all((ROOT / source).exists() for source in sources)


def test_both_packages_are_installed() -> None:
    assert "pip install --no-deps --no-build-isolation -e eyechart -e ." in DOCKERFILE


def test_no_command_of_the_runbook_holds_a_password_or_a_path_of_one_host() -> None:
    runbook = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    commands = "\n".join(re.findall(r"```bash\n(.*?)```", runbook, flags=re.DOTALL))
    assert "docker run" in commands
    assert not re.search(r"passw|sudo -S|/media/|/home/(?!app/)", commands)
