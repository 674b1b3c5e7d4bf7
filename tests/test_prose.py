"""No sentence that one room writes is parsed in another."""

from __future__ import annotations

import ast
from functools import cache

import pytest

from prose import constants, find_parsing
from test_house import ROOMS, files

ALLOWED = {
    # Another library only gives it as text.
    ("qwen3_vlm/config.py", "item['msg'].removeprefix('Value error, ')"): "pydantic's words before a validator's own",
    ("eyechart/settings.py", "first['msg'].removeprefix('Value error, ')"): "pydantic's words before a validator's own",
    ("eyechart/exits.py", '"can\'t start new thread" in text'): "Python's words",
    ("eyechart/exits.py", "part in text"): "words of PyTorch and the system for a lack of memory",
    ("eyechart/outside/yaml_text.py", "text in _WORDS"): "the words of YAML",
    ("qwen3_vlm/train/guards.py", '"can\'t allocate memory" not in str(error)'): "PyTorch's CPU allocator",
    ("qwen3_vlm/train/guards.py", "word in str(error).lower()"): "torch.distributed and its backends",
    ("eyechart/data/images.py", "'truncated' in summary.lower()"): "Pillow's decoders",
    ("eyechart/data/json_rows.py", "'truncated' in str(error)"): "msgspec",
    ("eyechart/data/llava.py", "f'$.{key}' in str(error)"): "msgspec: the place of the error",
    ("eyechart/data/json_rows.py", "str(error).removeprefix('JSON is malformed: ')"): "msgspec",
    ("eyechart/hub.py", "'flash' in first.lower()"): "transformers: an attention that is not installed",
    (
        "eyechart/results.py",
        "' '.join(str(error).splitlines()[:3]).partition(' For further information visit ')",
    ): "pydantic's link after its message",
    # A file format.
    (
        "eyechart/reporting/drawing.py",
        "re.sub('font-family: [^;\\\\\"]+', 'font-family: var(--sans)', body)",
    ): "CSS in matplotlib's SVG",
    (
        "eyechart/reporting/drawing.py",
        "re.sub('font: ((?:\\\\w+ )*[\\\\d.]+px) [^;\\\\\"]+', 'font: \\\\1 var(--sans)', body)",
    ): "CSS in matplotlib's SVG",
    # What a model writes.
    (
        "qwen3_vlm/demo/worlds/scene_words.py",
        "re.compile('\\\\b(?:(?:top|bottom) (?:left|right)|top|bottom|left|right|middle)\\\\b')",
    ): "captions of drawn scenes, which are data",
}
"""Expressions that may read a sentence, by file, and whose words they are."""


@cache
def parsing() -> dict[str, list[tuple[str, int, str]]]:
    """File, line and expression by room."""
    trees = {
        f"{package}/{path.relative_to(root).as_posix()}": ast.parse(path.read_text("utf-8"))
        for package, root in ROOMS.items()
        for path in files(package)
    }
    known: dict[str, list[str]] = {}
    for tree in trees.values():
        for name, texts in constants(tree).items():
            known.setdefault(name, []).extend(texts)
    found: dict[str, list[tuple[str, int, str]]] = {}
    for file, tree in trees.items():
        room = "/".join(file.removesuffix(".py").split("/")[:2])
        found.setdefault(room, []).extend((file, place.line, place.code) for place in find_parsing(tree, known))
    return found


@pytest.mark.parametrize("room", sorted(parsing()))
def test_no_sentence_is_taken_apart(room: str) -> None:
    found = [place for place in parsing()[room] if (place[0], place[2]) not in ALLOWED]
    assert not found, "\n".join(f"{file}:{line}: {code}" for file, line, code in found)


def test_every_exemption_is_in_use() -> None:
    seen = {(file, code) for places in parsing().values() for file, _, code in places}
    assert not ALLOWED.keys() - seen


def test_every_reject_of_ours_says_its_kind() -> None:
    silent = {
        f"{package}/{path.relative_to(root).as_posix()}"
        for package, root in ROOMS.items()
        for path in files(package)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Reject"
        if len(node.args) < 4 and not any(isinstance(arg, ast.Starred) for arg in node.args)
    }
    assert not silent


@pytest.mark.parametrize(
    "code",
    [
        "message, _, fix = str(error).rpartition('; ')",  # every form that stood here once
        "message, _, fix = str(error).partition('The optimizer was not called; ')",
        "found = reject.reason.startswith(('image ', 'not an image'))",
        "found = _OF_REASON.get(reject.reason, 'no-labels')",
        "found = _OF_REASON[reject.reason]",
        "found = reject.reason == _NOT_SUPPORTED",
        "rest = [r for r in unread if r.reason not in ('image missing', 'image empty')]",
        "SETTING = 'MODEL'\nfound = str(error).startswith(SETTING)",
        "_FEATURES = 'tower features'\nfound = first.startswith(_FEATURES)",
        "found = 'does not give' in state",
        "WARNING = 'warning: '\nfound = [line for line in lines if line.startswith(WARNING)]",
        "found = any('+-' in reason for reason in reasons)",
        "found = re.search(r'loss is (\\w+)', line)",
        "found = re.search(r'\\d+', message)",
        "try:\n    go()\nexcept ValueError as problem:\n    first = first_line(problem)\n    found = 'flash' in first",
        "found = 'flash' in str(error).strip().lower()",
    ],
)
def test_code_that_reads_a_sentence_is_found(code: str) -> None:
    assert list(find_parsing(ast.parse(code), {"_NOT_SUPPORTED": ["several exchanges"]}))


@pytest.mark.parametrize(
    "code",
    [
        "line = ' '.join(str(error).split())",
        "first = str(error).splitlines()[0]",
        "shown = '; '.join(reasons)",
        "end = '' if reason.endswith(('.', '!', '?')) else '.'",
        "key, _, value = flag.partition('=')",
        "found = name.startswith('model.')",
        "counts = Counter(reject.reason for reject in rejects)",
        "firsts = {reject.reason: reject for reject in rejects}\nother = firsts[reject.reason]",
        "known = error.code in FAULTS",
        "found = reject.kind is RejectKind.NO_FILE",
    ],
)
def test_code_that_reads_data_or_lays_out_a_line_is_left_alone(code: str) -> None:
    assert not list(find_parsing(ast.parse(code), {}))
