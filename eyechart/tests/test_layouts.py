"""Every layout of docs/data.md: recognised, read to the same rows, and with a true reason where it cannot be."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from eyechart.data.images import ImageSpec, content_hash, load_image
from eyechart.data.reader import content_digest, count_rows, open_rows, read_rows
from eyechart.rows import Turn
from layout_files import CAPTIONS_ONLY, QUESTION, WITH_QUESTIONS, Pair, make_pairs

PAIRS = make_pairs(40)
SPEC = ImageSpec(24, 24, (0.5,) * 3, (0.5,) * 3, 2, 1 / 255)


def hash_of(pair: Pair, folder: Path) -> str:
    path = folder / f"reference-{pair.name}"
    path.write_bytes(pair.data)
    return content_hash(load_image(path, SPEC, 10**6))


@pytest.fixture(scope="module")
def hashes(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [hash_of(pair, tmp_path_factory.mktemp("reference")) for pair in PAIRS]


@pytest.mark.parametrize("layout", [*WITH_QUESTIONS, *CAPTIONS_ONLY])
def test_the_same_40_rows_in_each_layout_are_the_same_rows(tmp_path: Path, hashes: list[str], layout: str) -> None:
    write, asks = (WITH_QUESTIONS | CAPTIONS_ONLY)[layout], layout in WITH_QUESTIONS
    folder = tmp_path / "set"
    folder.mkdir()
    path = write(folder, PAIRS)
    rows, rejects = read_rows(path, image_root=folder)
    assert (count_rows(path), len(rows), rejects) == (40, 40, [])
    question = (0, QUESTION) if asks else (0,)
    assert [row.turns for row in rows] == [(Turn("user", question), Turn("assistant", (p.caption,))) for p in PAIRS]
    assert [len(row.images) for row in rows] == [1] * 40
    assert [content_hash(load_image(row.path, SPEC, 10**6)) for row in rows] == hashes
    with Image.open(rows[3].file) as image:
        assert image.size == (24, 24)
    assert len(content_digest(path)) == 64


@pytest.mark.parametrize("layout", ["Parquet", "WebDataset, gzipped", "content parts with base64", "side files"])
def test_data_outside_the_image_root_and_without_one_is_read_the_same(
    tmp_path: Path, hashes: list[str], layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, elsewhere = tmp_path / "set", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    path = (WITH_QUESTIONS | CAPTIONS_ONLY)[layout](folder, PAIRS)
    monkeypatch.chdir(tmp_path)
    for given, root in ((path, elsewhere), (path.relative_to(tmp_path), "")):
        rows, rejects = read_rows(given, image_root=root)
        assert not rejects
        assert [content_hash(load_image(Path(row.image_root) / row.image, SPEC, 10**6)) for row in rows] == hashes


def test_only_the_rows_asked_for_are_read(tmp_path: Path) -> None:
    for layout in ("Parquet", "WebDataset, gzipped"):
        folder = tmp_path / layout
        folder.mkdir()
        rows = open_rows(WITH_QUESTIONS[layout](folder, PAIRS)).read([39, 17])[0]
        assert [(row.row, row.caption) for row in rows] == [(n, PAIRS[n].caption) for n in (17, 39)]
        assert isinstance(rows[0].file, io.BytesIO)
