"""Checks of the data file as a whole: its image files and the split. No image is decoded."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from eyechart.faults.table import agree, finding
from eyechart.results import Finding
from eyechart.stored import file_of, image_bytes, image_size, in_order, place_of
from qwen3_vlm.build import Prepared
from qwen3_vlm.data.repeats import ENOUGH, is_placeholder
from qwen3_vlm.data.splits import Split
from qwen3_vlm.preflight.rows import SHOWN, RawRow, by_share

# size: bytes read at once
_READ = 1 << 18
"""Number of bytes that are compared to distinguish image files of the same size."""
# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_DISTINCT_IMAGES = 0.1
"""Smallest normal ratio of distinct images to rows. Several captions per image are normal (COCO has five), but more
than ten are not."""


@dataclass(frozen=True)
class Corpus:
    """Rows of both sides of the split, read by the independent reader. A large side is sampled evenly."""

    train: list[RawRow]
    eval: list[RawRow]
    train_files: dict[int, str]
    """Identity of the image file of each row. Equal identities mean equal bytes. Rows without a file are left out."""
    eval_files: dict[int, str]
    missing: dict[str, list[int]]
    """Rows whose image file is missing or empty, by side of the split."""


def read_corpus(train: Sequence[RawRow], held_out: Sequence[RawRow], root: Path) -> Corpus:
    """Check the image files of all these rows. Contents are compared only if file sizes are equal."""
    stats: dict[str, tuple[int, str] | None] = {}
    for image in in_order({row.image for row in (*train, *held_out)}):
        stats[image] = _stat(root / image)
    sizes = Counter(stat[0] for stat in stats.values() if stat)
    identity: dict[str, str] = {}
    for image, stat in stats.items():  # in the order in which files are read fastest
        if stat:
            size, file = stat
            alike = sizes[size] > 1
            identity[image] = f"{size}:{_hash(root / image)}" if alike else file
    missing = {
        side: [row.row for row in rows if stats[row.image] is None]
        for side, rows in (("train", train), ("eval", held_out))
    }
    files = [{r.row: identity[r.image] for r in rows if r.image in identity} for rows in (train, held_out)]
    return Corpus(list(train), list(held_out), files[0], files[1], missing)


def _stat(path: Path) -> tuple[int, str] | None:
    """Return the size in bytes, and what identifies the file or the place in a file; None if missing or empty."""
    try:
        facts, size = file_of(path).stat(), image_size(path)
    except (OSError, ValueError):
        return None
    where = f"{facts.st_dev}:{facts.st_ino}" if place_of(path) is None else str(path)
    return (size, where) if size else None


def _hash(path: Path) -> str:
    try:
        return hashlib.blake2b(image_bytes(path, _READ), digest_size=16).hexdigest()
    except OSError:
        return f"unreadable {path}"


def corpus_findings(corpus: Corpus, prepared: Prepared) -> list[Finding]:
    """Check the image files and the split."""
    return [
        *_missing(corpus, prepared),
        *_split(corpus, prepared),
        *_images(corpus),
    ]


def _missing(corpus: Corpus, prepared: Prepared) -> list[Finding]:
    found = []
    for side, rows in corpus.missing.items():
        looked_at = corpus.train if side == "train" else corpus.eval
        total, images = len(looked_at), {row.row: row.image for row in looked_at}
        if rows:
            found.append(
                finding(
                    "images-unreadable",
                    f"{len(rows)} of {total} {_name(side)} rows {agree(len(rows), 'names', 'name')} an image file that "
                    "is missing or empty below "
                    f"{prepared.config.data.image_root}, first row {rows[0]} ({images[rows[0]]})",
                    "restore these files, set data.image_root to the folder that the paths are relative to, or remove "
                    "the rows",
                    by_share(len(rows), total, prepared.config.data.max_rejected),
                    rows=len(rows),
                    of=total,
                    first_rows=rows[:SHOWN],
                    allowed_share=prepared.config.data.max_rejected,
                )
            )
    return found


def _name(side: str) -> str:
    return "training" if side == "train" else "held-out"


def _split(corpus: Corpus, prepared: Prepared) -> list[Finding]:
    """Report held-out rows and images that are also trained on."""
    split, own_file = prepared.split, prepared.files[1] is not None
    shared = [] if own_file else sorted(set(split.train) & set(split.eval))
    used = set(prepared.train.rows) & set(prepared.eval.rows) if not own_file else set()
    shared = sorted({*shared, *used})
    if shared:
        return [
            finding(
                "split-leak",
                f"{len(shared)} of {len(split.eval)} held-out rows {agree(len(shared), 'is', 'are')} also trained on, "
                f"first row {shared[0]}",
                "delete split.json in output_dir and train again: a new split is drawn, with every row on one side",
                rows=len(shared),
                held_out=len(split.eval),
                first_rows=shared[:SHOWN],
            )
        ]
    paths = {str(PurePosixPath(row.image)) for row in corpus.train}
    contents, plain = set(corpus.train_files.values()), shown_by_many(corpus.train_files.values())
    own = [row for row in corpus.eval if corpus.eval_files.get(row.row) not in plain]
    by_path = [row.row for row in own if str(PurePosixPath(row.image)) in paths]
    by_content = [row.row for row in own if corpus.eval_files.get(row.row) in contents]
    leaked = sorted({*by_path, *by_content})
    if not leaked:
        return []
    captions = {row.caption for row in corpus.train}
    total = len(corpus.eval)
    first = next(row for row in corpus.eval if row.row == leaked[0])
    file = corpus.eval_files.get(first.row)
    twin = next(
        row.row
        for row in corpus.train
        if PurePosixPath(row.image) == PurePosixPath(first.image)
        or (file is not None and corpus.train_files.get(row.row) == file)
    )
    return [
        finding(
            "split-leak",
            f"the images of {len(leaked)} of {total} held-out rows are also trained on ({len(by_path)} under the same "
            f"path, {len(by_content)} with the same bytes), such as held-out row {leaked[0]} and training row {twin}",
            "remove the copies from training, or hold out whole images (all rows of an image on one side of the split)",
            by_share(len(leaked), total, prepared.config.data.max_rejected),
            rows=len(leaked),
            of=total,
            same_path=len(by_path),
            same_bytes=len(by_content),
            equal_captions_share=round(sum(row.caption in captions for row in corpus.eval) / total, 4),
            first_rows=leaked[:SHOWN],
        )
    ]


def shown_by_many(images: Iterable[str]) -> set[str]:
    """Return the images that are used by so many training rows that they must be placeholders.

    Such an image is not a leak if held-out rows show it, too.

    Args:
        images: an identity of the image (from its file or its pixels) for each training row.
    """
    counts = Counter(images)
    total = counts.total()
    return {image for image, count in counts.items() if is_placeholder(count, total)}


def left_findings(split: Split) -> list[Finding]:
    """Report rows that were removed from training because they show a held-out picture. No action is needed."""
    if not split.repeats:
        return []
    rows = len(split.repeats)
    shown = ", ".join(f"row {row} (the picture of held-out row {other})" for row, other in split.repeats[:SHOWN])
    return [
        finding(
            "split-leak",
            f"{rows} training {agree(rows, 'row shows', 'rows show')} the picture of a held-out row, byte for byte, "
            f"and {agree(rows, 'was', 'were')} removed from training: {shown}{', ...' if rows > SHOWN else ''}",
            "nothing has to be done: held-out pictures are not trained on",
            "note",
            left_training=rows,
            drawn=len(split.train) + rows,
            held_out_rows=len({other for _, other in split.repeats}),
            first_rows=[row for row, _ in split.repeats[:SHOWN]],
        )
    ]


def leak_named(found: Iterable[Finding]) -> bool:
    """Whether there is already a finding about pictures on both sides of the split, so that no search is needed.

    Such a finding reports either a leak or pictures that are similar by nature.
    """
    return any(f.code == "split-leak" and "left_training" not in f.evidence for f in found)


def _images(corpus: Corpus) -> list[Finding]:
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, file in corpus.train_files.items():
        rows_of[file].append(row)
    total = len(corpus.train_files)
    if total < ENOUGH:
        return []
    most = max(rows_of.values(), key=len)
    if not shown_by_many(corpus.train_files.values()) and len(rows_of) >= _DISTINCT_IMAGES * total:
        return []
    return [
        finding(
            "images-degenerate",
            f"{total} training rows show {len(rows_of)} different {agree(len(rows_of), 'image', 'images')}, and one "
            f"image is used by {len(most)} rows (such as rows {', '.join(map(str, most[:SHOWN]))})",
            "check how image paths were written: a placeholder image or a wrong join gives many captions the same "
            "image; nothing is wrong if these captions are meant for that image",
            "error" if len(most) > 0.5 * total else "warning",
            distinct=len(rows_of),
            of=total,
            most_repeated=len(most),
            first_rows=most[:SHOWN],
        )
    ]
