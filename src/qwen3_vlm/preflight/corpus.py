"""The data file as a whole: captions, ids, image files and the split, without opening an image."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from qwen3_vlm.build import Prepared
from qwen3_vlm.faults import agree, finding
from qwen3_vlm.preflight.rows import SHOWN, RawRow, by_share
from qwen3_vlm.results import Finding

_READ = 1 << 18
"""Bytes of an image file that tell it from another of the same size."""
_TOP_SHARE = 0.2
"""Of the rows: one caption under more of them is degenerate. Ten digits in varied words stay below 2%."""
_FEWEST = 5
"""Distinct captions below which a data set of at least `_ENOUGH` rows is degenerate, too."""
_ENOUGH = 20
_TOP_IMAGE = 0.05
_CAPTIONS = 5
_DISTINCT_IMAGES = 0.1
"""Several captions per image are sound (COCO has five), more than ten under every image are not."""


@dataclass(frozen=True)
class Corpus:
    """Rows of both sides of the split, read plainly; large sides thinned evenly."""

    train: list[RawRow]
    eval: list[RawRow]
    train_files: dict[int, str]
    """Identity of the image file by row: equal identity means equal bytes. Rows without a file are missing."""
    eval_files: dict[int, str]
    missing: dict[str, list[int]]
    """Rows whose image is not there or empty, by side."""


def read_corpus(train: Sequence[RawRow], held_out: Sequence[RawRow], root: Path) -> Corpus:
    """Look at the image files of all these rows: size first, content only where sizes are equal."""
    stats: dict[str, tuple[int, int, int] | None] = {}
    for row in (*train, *held_out):
        if row.image not in stats:
            stats[row.image] = _stat(root / row.image)
    sizes = Counter(stat[0] for stat in stats.values() if stat)
    identity: dict[str, str] = {}
    for image, stat in stats.items():
        if stat:
            size, device, inode = stat
            alike = sizes[size] > 1
            identity[image] = f"{size}:{_hash(root / image)}" if alike else f"{device}:{inode}"
    missing = {
        side: [row.row for row in rows if stats[row.image] is None]
        for side, rows in (("train", train), ("eval", held_out))
    }
    files = [{r.row: identity[r.image] for r in rows if r.image in identity} for rows in (train, held_out)]
    return Corpus(list(train), list(held_out), files[0], files[1], missing)


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        facts = path.stat()
    except (OSError, ValueError):
        return None
    return (facts.st_size, facts.st_dev, facts.st_ino) if facts.st_size else None


def _hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.blake2b(file.read(_READ), digest_size=16).hexdigest()
    except OSError:
        return f"unreadable {path}"


def corpus_findings(corpus: Corpus, prepared: Prepared) -> list[Finding]:
    """All of the data file's own faults."""
    return [
        *_missing(corpus, prepared),
        *_split(corpus, prepared),
        *_captions(corpus),
        *_images(corpus),
        *_ids(corpus),
    ]


def _missing(corpus: Corpus, prepared: Prepared) -> list[Finding]:
    found = []
    for side, rows in corpus.missing.items():
        total = len(corpus.train if side == "train" else corpus.eval)
        if rows:
            found.append(
                finding(
                    "images-unreadable",
                    f"{len(rows)} of {total} {_name(side)} rows {agree(len(rows), 'names', 'name')} an image file that "
                    "is missing or empty below "
                    f"{prepared.config.data.image_root}, first row {rows[0]}",
                    "restore these files, set data.image_root to the folder that the paths start from, or take the "
                    "rows out",
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
    """Held-out rows and images that are trained on."""
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
                "draw the split so that no row is on both sides, or delete split.json and draw it again",
                rows=len(shared),
                held_out=len(split.eval),
                first_rows=shared[:SHOWN],
            )
        ]
    paths = {str(PurePosixPath(row.image)) for row in corpus.train}
    contents = set(corpus.train_files.values())
    by_path = [row.row for row in corpus.eval if str(PurePosixPath(row.image)) in paths]
    by_content = [row for row, file in corpus.eval_files.items() if file in contents]
    leaked = sorted({*by_path, *by_content})
    if not leaked:
        return []
    captions = {row.caption for row in corpus.train}
    total = len(corpus.eval)
    return [
        finding(
            "split-leak",
            f"the images of {len(leaked)} of {total} held-out rows are also trained on ({len(by_path)} under the same "
            f"path, {len(by_content)} with the same bytes), first held-out row {leaked[0]}",
            "take these rows out of one side, or hold out whole images: all rows of an image on one side",
            by_share(len(leaked), total, prepared.config.data.max_rejected),
            rows=len(leaked),
            of=total,
            same_path=len(by_path),
            same_bytes=len(by_content),
            equal_captions_share=round(sum(row.caption in captions for row in corpus.eval) / total, 4),
            first_rows=leaked[:SHOWN],
        )
    ]


def _captions(corpus: Corpus) -> list[Finding]:
    counts = Counter(row.caption for row in corpus.train)
    total = counts.total()
    if not total:
        return []
    top = counts.most_common(SHOWN)
    evidence: dict[str, Any] = {
        "distinct": len(counts),
        "of": total,
        "distinct_share": round(len(counts) / total, 4),
        "top": {caption[:80]: count for caption, count in top},
    }
    few = len(counts) < _FEWEST and total >= _ENOUGH
    if not few and (top[0][1] <= _TOP_SHARE * total or total < _ENOUGH):
        return []
    return [
        finding(
            "captions-degenerate",
            f"{_how_few(counts)}: a model can know them without an image",
            "look at how captions were made or joined to images; train on captions that say what is in the picture",
            **evidence,
        )
    ]


def _how_few(counts: Counter[str]) -> str:
    total, ((caption, most),) = counts.total(), counts.most_common(1)
    if len(counts) == 1:
        return f"all {total} training rows have the same caption, {caption[:80]!r}"
    return f"{total} training rows have {len(counts)} different captions, and {most} rows have {caption[:80]!r}"


def _images(corpus: Corpus) -> list[Finding]:
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, file in corpus.train_files.items():
        rows_of[file].append(row)
    total = len(corpus.train_files)
    if total < _ENOUGH:
        return []
    most = max(rows_of.values(), key=len)
    if len(most) <= max(_TOP_IMAGE * total, _CAPTIONS) and len(rows_of) >= _DISTINCT_IMAGES * total:
        return []
    return [
        finding(
            "images-degenerate",
            f"{total} training rows show {len(rows_of)} different {agree(len(rows_of), 'image', 'images')}, and one "
            f"image is used by {len(most)} rows (such as rows {', '.join(map(str, most[:SHOWN]))})",
            "look at how image paths were written: a placeholder image or a wrong join puts one image under many "
            "captions; nothing is wrong if these captions are meant for that image",
            "error" if len(most) > 0.5 * total else "warning",
            distinct=len(rows_of),
            of=total,
            most_repeated=len(most),
            first_rows=most[:SHOWN],
        )
    ]


def _ids(corpus: Corpus) -> list[Finding]:
    found = []
    counts = Counter(row.id for row in corpus.train)
    repeated = [identity for identity, count in counts.items() if count > 1]
    if repeated:
        rows = sum(counts[i] for i in repeated)
        found.append(
            finding(
                "duplicate-ids",
                f"{len(repeated)} {agree(len(repeated), 'id is', 'ids are')} used by more than one training row, such "
                f"as {repeated[0]!r} by {counts[repeated[0]]}: two files may have been joined, or rows copied",
                "remove copied rows, and give every row its own id (training does not need it, but lists and joins do)",
                ids=len(repeated),
                rows=rows,
            )
        )
    # Ids that name image files are a reference for the pairing: LLaVA-Pretrain's id is its image's file name.
    stems = {row.row: PurePosixPath(row.image).stem for row in corpus.train}
    names = set(stems.values())
    named = [row for row in corpus.train if row.id in names]
    elsewhere = [row for row in named if row.id != stems[row.row]]
    if _mostly(named, corpus.train) and _mostly(elsewhere, named):
        row = elsewhere[0]
        found.append(
            finding(
                "pairs-mismatched",
                f"in {len(elsewhere)} of {len(named)} rows the id is the name of another row's image file: row "
                f"{row.row} has id {row.id} and image {row.image}",
                "join captions and images by id again; most likely one column was moved against the other",
                rows=len(elsewhere),
                of=len(named),
            )
        )
    return found


def _mostly(part: Sequence[object], whole: Iterable[object]) -> bool:
    total = len(list(whole))
    return total >= _ENOUGH and len(part) > 0.5 * total
