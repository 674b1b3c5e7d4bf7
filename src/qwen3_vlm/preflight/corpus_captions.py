"""Checks of the data file as a whole: its captions and ids."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any

from eyechart.faults.table import agree, finding
from eyechart.results import Finding
from qwen3_vlm.build import Prepared
from qwen3_vlm.data.repeats import ENOUGH
from qwen3_vlm.preflight.corpus import Corpus
from qwen3_vlm.preflight.rows import SHOWN, by_share

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


def caption_findings(corpus: Corpus, prepared: Prepared) -> list[Finding]:
    """Report captions that need no picture, are of another kind or are in their own request, and ids of other rows."""
    return [*_captions(corpus), *_unheard(corpus), *_answers(corpus, prepared), *_ids(corpus)]


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
    few = len(counts) < _FEWEST and total >= ENOUGH
    if not few and (top[0][1] <= _TOP_SHARE * total or total < ENOUGH):
        return []
    return [
        finding(
            "captions-degenerate",
            f"{_how_few(counts)}: a model can predict them without an image",
            "check how captions were made or joined to images; train on captions that describe the picture",
            **evidence,
        )
    ]


def _unheard(corpus: Corpus) -> list[Finding]:
    """Report held-out captions whose words occur in no training caption.

    They come from another data set or are in another language.
    """
    known = {word for row in corpus.train for word in _words(row.caption).split()}
    held_out = [word for row in corpus.eval for word in _words(row.caption).split()]
    new = Counter(word for word in held_out if word not in known)
    if len(held_out) < _WORDS or new.total() <= _UNHEARD * len(held_out):
        return _in_another_case(corpus)
    most = ", ".join(repr(word) for word, _ in new.most_common(SHOWN))
    return [
        finding(
            "held-out-differs",
            f"{new.total()} of the {len(held_out)} words of held-out captions occur in no training caption, most often "
            f"{most}: the held-out rows come from another data set, or their captions from another source",
            "hold out rows of the data that is trained on (data.eval_ratio), or use a data.eval_json of the same kind",
            words=len(held_out),
            unheard=new.total(),
        )
    ]


def _in_another_case(corpus: Corpus) -> list[Finding]:
    """Report held-out captions whose words occur in training captions, but not in this case."""
    known = {word for row in corpus.train for word in _WORD.findall(row.caption)}
    folded = {word.casefold() for word in known}
    held_out = [word for row in corpus.eval for word in _WORD.findall(row.caption)]
    new = Counter(word for word in held_out if word not in known and word.casefold() in folded)
    if len(held_out) < _WORDS or new.total() <= _UNHEARD * len(held_out):
        return []
    most = ", ".join(repr(word) for word, _ in new.most_common(SHOWN))
    return [
        finding(
            "held-out-differs",
            f"{new.total()} of the {len(held_out)} words of held-out captions occur in training captions only in "
            f"another case (upper or lower), most often {most}: to the language model these are other words",
            "write training and held-out captions in the same case, the one that the language model was trained on",
            words=len(held_out),
            in_another_case=new.total(),
        )
    ]


def _how_few(counts: Counter[str]) -> str:
    total, ((caption, most),) = counts.total(), counts.most_common(1)
    if len(counts) == 1:
        return f"all {total} training rows have the same caption, {caption[:80]!r}"
    return f"{total} training rows have {len(counts)} different captions, and {most} rows have {caption[:80]!r}"


def _answers(corpus: Corpus, prepared: Prepared) -> list[Finding]:
    """Report captions that occur in their own human turn but not in that of the next row.

    This is checked only if the human turn is part of the prompt.
    """
    if "{human}" not in prepared.config.prompt.template:
        return []
    rows = [*corpus.train, *corpus.eval]
    texts = [(_words(row.caption), _words(row.human)) for row in rows]
    own = [
        i
        for i, (caption, human) in enumerate(texts)
        if len(caption) > _PHRASE and caption in human and caption not in texts[i - 1][1]
    ]
    if not own:
        return []
    row = rows[own[0]]
    return [
        finding(
            "leak",
            f"the caption of {len(own)} of {len(rows)} rows is in {agree(len(own), 'its', 'their')} own human "
            f"turn, so it can be copied without looking at the picture: row {row.row} asks {row.human[:160]!r}",
            "remove the answer from the human turns of these rows, or set prompt.template to one without {human}",
            by_share(len(own), len(rows), prepared.config.data.max_rejected),
            rows=len(own),
            of=len(rows),
            first_rows=[rows[i].row for i in own[:SHOWN]],
        )
    ]


def _words(text: str) -> str:
    """Return only the words of a text, in lower case, with one space before and after each."""
    words = _WORD.findall(text.casefold())
    return f" {' '.join(words)} "


def _ids(corpus: Corpus) -> list[Finding]:
    found = []
    counts = Counter(row.id for row in corpus.train)
    repeated = [identity for identity, count in counts.items() if count > 1]
    if repeated:
        rows = sum(counts[i] for i in repeated)
        found.append(
            finding(
                "duplicate-ids",
                f"{len(repeated)} {agree(len(repeated), 'id is', 'ids are')} used by more than one training row (id "
                f"{repeated[0]!r} by {counts[repeated[0]]} rows): two files may have been joined, or rows copied",
                "remove copied rows, and give every row its own id (training does not need it, but lists and joins do)",
                ids=len(repeated),
                rows=rows,
            )
        )
    # If ids are names of image files, as in LLaVA-Pretrain, they show which image belongs to each row.
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
                "join captions and images by id again; most likely one column was shifted relative to the other",
                rows=len(elsewhere),
                of=len(named),
            )
        )
    return found


def _mostly(part: Sequence[object], whole: Iterable[object]) -> bool:
    total = len(list(whole))
    return total >= ENOUGH and len(part) > 0.5 * total
