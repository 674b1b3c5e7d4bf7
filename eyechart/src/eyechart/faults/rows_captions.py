"""Checks of the texts and ids of a data set. They need no image and no model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from eyechart.faults.rows_shares import ENOUGH, SHOWN, severity_by_share
from eyechart.faults.table import agree, finding
from eyechart.results import Finding
from eyechart.rows import Row

# measured: benchmarks/thresholds.py on scenes, digits and columns: 0 of 3
_TOP_SHARE = 0.2
"""Largest share of rows that may have the same caption. For captions of ten digits in varied words it is below 2%."""
# measured: benchmarks/thresholds.py on scenes, digits and columns: 0 of 3
_FEWEST = 5
"""Smallest number of distinct captions in a data set of at least `ENOUGH` rows."""
# measured: benchmarks/thresholds.py on scenes, digits and columns: 0 of 3
_UNHEARD = 0.5
"""Largest share of held-out words that may be missing from all training captions. Among captions from the web, 500
captions contain most words of another 500."""
# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_WORDS = 50
"""Minimum number of held-out words for judging their share."""
_WORD = re.compile(r"[^\W_]+")
# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_PHRASE = 12
"""Only captions with more letters than this are searched for in their request. Shorter ones can occur by chance."""


def diagnose_captions(captions: Sequence[str]) -> Iterator[Finding]:
    """Yield a finding if captions repeat so often that a model can predict them without a picture."""
    counts, total = Counter(captions), len(captions)
    if total < ENOUGH:
        return
    top = counts.most_common(SHOWN)
    caption, most = top[0]
    if len(counts) >= _FEWEST and most <= _TOP_SHARE * total:
        return
    few = (
        f"all {total} rows have the same caption, {caption[:80]!r}"
        if len(counts) == 1
        else f"{total} rows have {len(counts)} different captions, and {most} rows have {caption[:80]!r}"
    )
    yield finding(
        "captions-degenerate",
        f"{few}: a model can predict them without an image",
        "check how captions were made or joined to images; train on captions that describe the picture",
        distinct=len(counts),
        of=total,
        distinct_share=round(len(counts) / total, 4),
        top={caption[:80]: count for caption, count in top},
    )


def diagnose_held_out(train: Sequence[str], held_out: Sequence[str]) -> Iterator[Finding]:
    """Yield a finding if held-out captions are of another kind than training captions.

    Most of their words are in no training caption (another data set or another language), or only in another case.
    """
    known = {word for caption in train for word in _WORD.findall(caption)}
    folded = {word.casefold() for word in known}
    words = [word for caption in held_out for word in _WORD.findall(caption)]
    new = Counter(word.casefold() for word in words if word.casefold() not in folded)
    recased = Counter(word for word in words if word not in known and word.casefold() in folded)

    def most_of(counts: Counter[str]) -> bool:
        return len(words) >= _WORDS and counts.total() > _UNHEARD * len(words)

    def often(counts: Counter[str]) -> str:
        return ", ".join(repr(word) for word, _ in counts.most_common(SHOWN))

    if most_of(new):
        yield finding(
            "held-out-differs",
            f"{new.total()} of the {len(words)} words of held-out captions occur in no training caption, most often "
            f"{often(new)}: the held-out rows come from another data set, or their captions from another source",
            "hold out rows of the data that is trained on, or use a held-out file of the same kind",
            words=len(words),
            unheard=new.total(),
        )
    elif most_of(recased):
        yield finding(
            "held-out-differs",
            f"{recased.total()} of the {len(words)} words of held-out captions occur in training captions only in "
            f"another case (upper or lower), most often {often(recased)}: to the language model these are other words",
            "write training and held-out captions in the same case, the one that the language model was trained on",
            words=len(words),
            in_another_case=recased.total(),
        )


def diagnose_requests(rows: Sequence[Row], allowed: float) -> Iterator[Finding]:
    """Yield a finding about captions that occur in their own human turn but not in that of the row before.

    Args:
        rows: rows whose human turn is part of the prompt.
        allowed: largest share of rows for which this is only a warning, 0 to 1.
    """
    texts = [(_phrase(row.caption), _phrase(row.human)) for row in rows]
    own = [
        i
        for i, (caption, human) in enumerate(texts)
        if len(caption) > _PHRASE and caption in human and caption not in texts[i - 1][1]
    ]
    if not own:
        return
    row = rows[own[0]]
    yield finding(
        "leak",
        f"the caption of {len(own)} of {len(rows)} rows is in {agree(len(own), 'its', 'their')} own human "
        f"turn, so it can be copied without looking at the picture: row {row.row} asks {row.human[:160]!r}",
        "remove the answer from the human turns of these rows, or use one request that is the same for all rows",
        severity_by_share(len(own), len(rows), allowed),
        rows=len(own),
        of=len(rows),
        first_rows=[rows[i].row for i in own[:SHOWN]],
    )


def _phrase(text: str) -> str:
    """Return only the words of a text, in lower case, with one space before and after each."""
    return f" {' '.join(_WORD.findall(text.casefold()))} "


def diagnose_ids(rows: Sequence[Row]) -> Iterator[Finding]:
    """Yield findings about ids that several rows have, and about ids that are the names of other rows' images."""
    counts = Counter(row.id for row in rows)
    repeated = [identity for identity, count in counts.items() if count > 1]
    if repeated:
        yield finding(
            "duplicate-ids",
            f"{len(repeated)} {agree(len(repeated), 'id is', 'ids are')} used by more than one row (id "
            f"{repeated[0]!r} by {counts[repeated[0]]} rows): two files may have been joined, or rows copied",
            "remove copied rows, and give every row its own id (training does not need it, but lists and joins do)",
            ids=len(repeated),
            rows=sum(counts[i] for i in repeated),
        )
    # If ids are names of image files, as in LLaVA-Pretrain, they show which image belongs to each row.
    names = {PurePosixPath(row.image).stem for row in rows}
    named = [row for row in rows if row.id in names]
    elsewhere = [row for row in named if row.id != PurePosixPath(row.image).stem]
    different = len({row.id for row in named}) >= ENOUGH  # one id for all rows can be the name of a file by chance
    if different and len(named) > 0.5 * len(rows) and len(elsewhere) > 0.5 * len(named):
        row = elsewhere[0]
        yield finding(
            "pairs-mismatched",
            f"in {len(elsewhere)} of {len(named)} rows the id is the name of another row's image file: row "
            f"{row.row} has id {row.id} and image {row.image}",
            "join captions and images by id again; most likely one column was shifted relative to the other",
            rows=len(elsewhere),
            of=len(named),
        )
