"""Does this vision-language model use its images? If so, what does it see in them? If not, why not?

    import eyechart

    rows, rejects = eyechart.read_rows("rows.json", image_root="images")
    results = eyechart.score(my_scorer, rows)  # or the name of a transformers model
    print(eyechart.explain(results))
    eyechart.write_results(results, "outputs/mine")

Submodules are imported on first use. Importing this package therefore changes nothing in the user's process and does
not load PyTorch.
"""

import random
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eyechart.api.assert_sees import assert_sees
    from eyechart.api.check_batch import check_batch
    from eyechart.api.check_model import check_model
    from eyechart.api.score import score
    from eyechart.data.reader import read_rows
    from eyechart.reporting.explanation import explain
    from eyechart.reporting.output import write_results
    from eyechart.results import Results
    from eyechart.scoring.batching import collate
    from eyechart.seam import Batch, Description, Reject, Row, Sample, Scorer, TokenNLL, VisualTokens, Vocabulary
    from eyechart.settings import AblationSettings, ScoreSettings
    from eyechart.trainers.attach import attach
    from eyechart.trainers.callback import Callback, Watching
    from eyechart.trainers.watch import watch

    __version__: str

_HOMES = {
    "score": "api.score",
    "assert_sees": "api.assert_sees",
    "check_batch": "api.check_batch",
    "check_model": "api.check_model",
    "read_rows": "data.reader",
    "explain": "reporting.explanation",
    "write_results": "reporting.output",
    "Results": "results",
    "collate": "scoring.batching",
    "attach": "trainers.attach",
    **dict.fromkeys(("Callback", "Watching"), "trainers.callback"),
    "watch": "trainers.watch",
    **dict.fromkeys(("AblationSettings", "ScoreSettings"), "settings"),
    **dict.fromkeys(
        ("Batch", "Description", "Reject", "Row", "Sample", "Scorer", "TokenNLL", "VisualTokens", "Vocabulary"), "seam"
    ),
}
__all__ = [
    "AblationSettings",
    "Batch",
    "Callback",
    "Description",
    "Reject",
    "Results",
    "Row",
    "Sample",
    "ScoreSettings",
    "Scorer",
    "TokenNLL",
    "VisualTokens",
    "Vocabulary",
    "Watching",
    "__version__",
    "assert_sees",
    "attach",
    "check_batch",
    "check_model",
    "collate",
    "explain",
    "read_rows",
    "score",
    "watch",
    "write_results",
]


def __getattr__(name: str) -> Any:
    """Import and return a public name when it is first used."""
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("eyechart")
        except PackageNotFoundError:
            return "unknown"
    if name in _HOMES:
        before = random.getstate()
        try:
            return getattr(import_module(f"eyechart.{_HOMES[name]}"), name)
        finally:
            random.setstate(before)  # imports may draw random numbers, and this process may be training
    raise AttributeError(f"module eyechart has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, for completion in interactive use."""
    return sorted(__all__)
