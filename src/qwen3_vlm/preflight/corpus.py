"""Checks of the data file as a whole: its texts, its image files and the split. No image is decoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from eyechart.data.same_files import pictures_of, sizes_of
from eyechart.faults.rows_captions import diagnose_captions, diagnose_held_out, diagnose_ids, diagnose_requests
from eyechart.faults.rows_pictures import diagnose_repeats, diagnose_shared
from eyechart.faults.rows_shares import SHOWN, severity_by_share
from eyechart.faults.table import agree, finding
from eyechart.results import Finding
from eyechart.rows import Row
from qwen3_vlm.build import Prepared
from qwen3_vlm.data.splits import Split


@dataclass(frozen=True)
class Corpus:
    """Rows of both sides of the split, read by the independent reader. A large side is sampled evenly."""

    train: list[Row]
    eval: list[Row]
    pictures: dict[str, str]
    """Identity of the picture of each image file: equal bytes, equal identity. Missing and empty files have none."""


def read_corpus(train: Sequence[Row], held_out: Sequence[Row], root: Path) -> Corpus:
    """Check the image files of all these rows. Contents are compared only if file sizes are equal."""
    sizes = sizes_of({row.image for row in (*train, *held_out)}, root)
    return Corpus(list(train), list(held_out), pictures_of(sizes, root))


def corpus_findings(corpus: Corpus, prepared: Prepared) -> list[Finding]:
    """Check image files, split, captions, requests and ids, in this order."""
    allowed, both = prepared.config.data.max_rejected, [*corpus.train, *corpus.eval]
    found = [
        *_missing(corpus, prepared),
        *(_on_both_sides(prepared) or diagnose_shared(corpus.train, corpus.eval, corpus.pictures, allowed)),
        *diagnose_repeats(corpus.train, corpus.pictures),
        *diagnose_captions([row.caption for row in corpus.train]),
        *diagnose_held_out([row.caption for row in corpus.train], [row.caption for row in corpus.eval]),
        *(diagnose_requests(both, allowed) if "{human}" in prepared.config.prompt.template else ()),
        *diagnose_ids(corpus.train),
    ]
    return [_with_settings(f) for f in found]


def _with_settings(found: Finding) -> Finding:
    """Name the settings of the config that are a way to fix a finding."""
    if found.code == "leak":
        way = "set prompt.template to one without {human}"
        fix = f"remove the answer from the human turns of these rows, or {way}"
    elif found.code == "held-out-differs" and "unheard" in found.evidence:
        way = "or use a data.eval_json of the same kind"
        fix = f"hold out rows of the data that is trained on (data.eval_ratio), {way}"
    else:
        return found
    return found.model_copy(update={"fix": fix})


def _missing(corpus: Corpus, prepared: Prepared) -> Iterator[Finding]:
    data = prepared.config.data
    for side, rows in (("training", corpus.train), ("held-out", corpus.eval)):
        missing = [row for row in rows if row.image not in corpus.pictures]
        if missing:
            yield finding(
                "images-unreadable",
                f"{len(missing)} of {len(rows)} {side} rows {agree(len(missing), 'names', 'name')} an image file that "
                f"is missing or empty below {data.image_root}, first row {missing[0].row} ({missing[0].image})",
                "restore these files, set data.image_root to the folder that the paths are relative to, or remove "
                "the rows",
                severity_by_share(len(missing), len(rows), data.max_rejected),
                rows=len(missing),
                of=len(rows),
                first_rows=[row.row for row in missing[:SHOWN]],
                allowed_share=data.max_rejected,
            )


def _on_both_sides(prepared: Prepared) -> list[Finding]:
    """Report rows that are on both sides of a split of one file."""
    split = prepared.split
    if prepared.files[1] is not None:
        return []
    used = set(prepared.train.rows) & set(prepared.eval.rows)
    shared = sorted({*(set(split.train) & set(split.eval)), *used})
    if not shared:
        return []
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
