"""Findings from the experiments on the images of a batch, and helpers that the findings about losses also use.

Each finding is about a path from an input to an output that must exist in the model, or must not exist. Findings do not
depend on how low the losses are. *Routes* list, for each changed row of a batch, the rows whose outputs change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from eyechart.faults.experiments import RESTLESS, ImageRoutes, Routes
from eyechart.faults.table import agree, finding
from eyechart.results import Finding

VISUAL = "visual tokens"


def diagnose_repeats(differences: Mapping[str, float]) -> list[Finding]:
    """Return a finding if some outputs differ between two identical calls; the finding names these outputs.

    Args:
        differences: the relative difference between the two calls, by the name of the output.
    """
    restless = {name: difference for name, difference in differences.items() if difference > RESTLESS}
    if not restless:
        return []
    where = "in the language model or the loss" if [*restless] == ["losses"] else "between the pixels and these outputs"
    return [
        finding(
            "loss-not-reproduced",
            f"two identical calls give different {' and '.join(restless)} (relative difference up to "
            f"{max(restless.values()):.2g}): something random is still active, so no score can be reproduced",
            "look for dropout that `eval()` does not turn off (a functional call, a module that was never registered, "
            f"a rate that is passed as a number), and for noise or augmentation, {where}",
            restless=list(restless),
            relative_difference=max(restless.values()),
        )
    ]


def diagnose_images(routes: ImageRoutes, made: str = VISUAL) -> list[Finding]:
    """Return findings about the path from the images of a batch to the values computed from them.

    Args:
        routes: the results of the experiments.
        made: what these values are called in messages.
    """
    if not routes.finite:
        return [
            finding(
                "non-finite",
                f"the {made} of held-out images{_rows(routes.rows)} contain NaN or infinity, so losses computed from "
                "them are meaningless",
                "look for NaN or infinity in the checkpoint's weights, then in the tower's features; if both are "
                "finite, score with model.precision fp32",
                rows=list(routes.rows),
            )
        ]  # with NaN, no effect can be measured
    return diagnose_repeats({made: routes.repeated}) or [*_images(routes, made)]


def _images(routes: ImageRoutes, made: str) -> Iterator[Finding]:
    if routes.misplaced:
        yield finding(
            "image-order",
            f"at {len(routes.misplaced)} of {len(routes.rows)} positions of a batch, the pixels are not those of the "
            "sample at that position: captions are scored with other samples' images",
            "build the batch's pixels and its texts from the same list of samples, in one order (sort both or neither)",
            places=list(routes.misplaced),
        )
    by_image = routes.by_image
    if by_image is None:
        return
    if not any(by_image):
        yield finding(
            "pixels-unused",
            f"the {made} of {_all(len(by_image))} tried stay the same when the image is replaced with noise: they are "
            "not computed from the pixels",
            "check that the tower is called with this batch's pixel values, and that the connector receives its "
            "output (and not a constant, a cached or an empty tensor)",
            routes=plain(by_image),
        )
        return
    yield from shared(
        by_image,
        "image",
        made,
        "compute nothing over the batch dimension in tower and connector (batch statistics, a mean over samples), and "
        "limit their attention to one sample",
    )
    if pair := crossed(by_image):
        yield finding(
            "image-order",
            f"changing the image of sample {pair[0]} of a batch changes the {made} of {who(pair[1])}: "
            "samples get each other's images",
            "keep the order of the batch through tower and connector: look for a sort, a reversal, a reshape that "
            "mixes batch and patches, or indices of another batch",
            routes=plain(by_image),
        )


def crossed(routes: Routes) -> tuple[int, tuple[int, ...]] | None:
    """Return the first changed row that affects other rows, together with these other rows.

    Return None if every changed row affects at least itself, or if no changed row affects another row.
    """
    if all(row in changed for row, changed in enumerate(routes)):
        return None
    for row, changed in enumerate(routes):
        if others := tuple(other for other in changed if other != row):
            return row, others
    return None


def shared(routes: Routes, changed: str, reached: str, fix: str) -> Iterator[Finding]:
    """Yield a finding if every changed row affects itself, and some changed row also affects other rows."""
    wide = [row for row, to in enumerate(routes) if any(other != row for other in to)]
    if wide and all(row in to for row, to in enumerate(routes)):
        others = tuple(other for other in routes[wide[0]] if other != wide[0])
        yield finding(
            "batch-dependent",
            f"in a batch of {len(routes)}, changing the {changed} of sample {wide[0]} also changes the {reached} of "
            f"{who(others)}: samples influence each other",
            fix,
            routes=plain(routes),
        )


def who(others: tuple[int, ...]) -> str:
    """Return the samples in words, each named by its position in the batch."""
    return f"sample {others[0]}" if len(others) == 1 else f"samples {', '.join(map(str, others))}"


def plain(routes: Routes) -> list[list[int]]:
    """Convert routes to lists, the form in which the evidence of a finding contains them."""
    return [list(changed) for changed in routes]


def _rows(rows: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, rows))
    return f" ({agree(len(rows), 'row', 'rows')} {shown})" if shown else ""


def _all(count: int) -> str:
    return agree(count, "the one sample", f"all {count} samples")
