"""The runbook of one run: the original document of the project, filled in with this run's spec, commands and figures.

The order of lines is the same in every run, so that `diff a/runbook.md b/runbook.md` shows what differs. The template
only arranges and formats; figures come from `Results`, sentences from `conclusions`, `reasons` and `remarks`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import jinja2
from markupsafe import Markup

from eyechart.plain import one_line
from eyechart.reporting import text
from eyechart.reporting.conclusions import said
from eyechart.reporting.explanation import consequence
from eyechart.reporting.reasons import counted, reasons_of
from eyechart.reporting.remarks import made
from eyechart.reporting.tiles import source
from eyechart.results import Ablation, Condition, Coverage, Results
from eyechart.settings import setting

_RUNBOOK_CONDITIONS = ("correct", "shuffled", "zero", "noise")
_SAMPLES = 8
"""Number of written captions that are shown; results.json has all of them."""


def render_runbook(results: Results) -> str:
    """Return the document as Markdown, without any absolute path."""
    folder = (results.checkpoint or "none").replace("\\", "/").rpartition("/")[0] or "."
    # A transformers model scored by `eyechart score` has no connector, no config file and no qwen3-vlm checkpoint.
    trained_here = "connector" in results.config
    config_file = f"{folder}/config.yaml" if trained_here else "none"
    scored = results.ablation.conditions if results.ablation else {}
    requested = results.ablation.requested if results.ablation else _setting(results.config, "ablation.num_samples")
    return (
        _environment()
        .get_template("runbook.md.j2")
        .render(
            results=results,
            training=results.training,
            ablation=results.ablation,
            coverage=results.coverage,
            setting=lambda key: _setting(results.config, key),
            settings=_block(list(_settings(results.config)) or ["not recorded"]),
            subset=_subset(results.config),
            held_out=_held_out(results.config),
            config_file=config_file,
            trained_here=trained_here,
            ablation_command=(
                f"python -m qwen3_vlm.eval_ablation --config {config_file} --num_samples {requested} "
                f"--checkpoint {results.checkpoint or 'none'}"
                if trained_here
                else results.command
            ),
            audit_command=f"qwen3-vlm audit --config {config_file}" if trained_here else results.command,
            conditions=[*_RUNBOOK_CONDITIONS, *(name for name in scored if name not in _RUNBOOK_CONDITIONS)],
            shown_samples=results.samples[:_SAMPLES],
            headline=said(results, "headline"),
            consequence=consequence,
            pattern=said(results, "pattern"),
            order=said(results, "order"),
            coverage_conclusion=said(results, "coverage"),
            ablation_reasons=_reasons(results.ablation),
            coverage_reasons=_reasons(results.coverage),
            made=made(results.ablation) if results.ablation else [],
            counted_in=source(results.coverage) if results.coverage else "not counted",
        )
    )


def _environment() -> jinja2.Environment:
    # Every value is escaped unless a filter has explicitly made it Markdown (Markup), so a forgotten filter is safe.
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("eyechart.reporting"),
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        finalize=lambda value: value if isinstance(value, Markup) else text.markdown(str(value)),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "portable": lambda value: text.without_folders(str(value)),
        "code": lambda value: Markup(text.code(str(value))),
        "block": _block,
        "raw": lambda value: Markup(one_line(str(value)).replace("`", "'")),
        "count": lambda value: Markup(f"{value:,}"),
        "fixed": lambda value, digits: Markup(f"{value:.{digits}f}"),
        "loss": _loss,
        "delta": _delta,
        "tally": _tally,
    }
    return environment


def _block(lines: list[str]) -> Markup:
    return Markup(text.code_block([text.without_folders(line) for line in lines], "bash"))


def _loss(value: float | None, absent: str = "not finite") -> Markup:
    return Markup(absent if value is None else f"{value:.4f}")


def _delta(condition: Condition) -> Markup:
    if condition.gap is None:
        return Markup("none, a loss is not finite")
    interval = "none" if condition.ci95 is None else f"[{condition.ci95[0]:+.4f}, {condition.ci95[1]:+.4f}]"
    lower = "none" if condition.lower99 is None else f"{condition.lower99:+.4f}"
    role = f"gate, must exceed {condition.margin:g}" if condition.gate else "reported for context"
    return Markup(f"{condition.gap:+.4f} (95% {interval}; lower99 {lower}; {role})")


def _tally(counts: Mapping[str, int]) -> str:
    return counted(dict(counts)) or "none"


def _reasons(check: Ablation | Coverage | None) -> list[str]:
    return [sentence for _, sentence in reasons_of(check)] if check else []


def _setting(config: Mapping[str, Any], key: str) -> Any:
    """Return a field of the recorded config; there is no default, because the run may not have used that value."""
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return "not recorded"
        node = node[part]
    return node


def _settings(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield every field as a separate line, written as on the command line."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}: {json.dumps(value, ensure_ascii=False)}"


def _subset(config: Mapping[str, Any]) -> str:
    rows = _setting(config, "data.max_samples")
    return "all rows" if rows is None else f"{rows:,}" if isinstance(rows, int) else str(rows)


def _held_out(config: Mapping[str, Any]) -> str:
    file, ratio = setting(config, "data", "eval_json"), _setting(config, "data.eval_ratio")
    if file is not None:
        return f"all rows of {file}"
    return f"eval ratio {100 * ratio:g}%" if isinstance(ratio, int | float) else str(ratio)
