"""Draws the charts of the report page (report.html) as SVG, each from the results that it shows.

A *condition* is what the language model receives in place of the picture. Its *gap* is its loss minus the loss with the
correct picture. A *look* is a quick measurement on a few samples during training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter

from eyechart.reporting.drawing import BLUE, FAINT, GREEN, INK, ORANGE, as_svg, drawing
from eyechart.reporting.wording import plain, signed
from eyechart.results import Condition, Coverage, Decile, Look, LossPoint

_LEGEND_ROW = 0.19
"""The height of one row of the legend, in inches."""
_STEP = "{x:,.0f}"
_CHARACTER = 0.026
"""The width of a digit in the tick labels below the axis, as a fraction of the axis length."""
_DOT_BINS = 44
_FAR = 2
"""If max_seq_len exceeds the longest sequence by more than this factor, the legend states it and no line is drawn."""


class Bar(NamedTuple):
    """One row of an interval chart: a value with its confidence interval."""

    label: str
    value: float | None
    interval: tuple[float, float] | None = None
    mark: float | None = None
    """A reference value for comparison, such as the margin of a gap or the chance level."""


def intervals(bars: Sequence[Bar], label: str, mark: str, alt: str, name: str, signs: bool = True) -> Markup:
    """Draw one row per bar: a dot with its 95% confidence interval, a line at zero, and a mark at the reference value.

    Args:
        bars: the rows from top to bottom; a bar without a value is labelled `none`.
        label: the label of the x-axis, with its unit.
        mark: the meaning of the marks, for the legend; an empty string if no bar has a mark.
        alt: the alternative text of the chart, for screen readers.
        name: the name of the chart, unique on the page.
        signs: whether positive values are written with a plus sign.
    """
    with drawing(0.62 + 0.34 * len(bars)) as (figure, axes):
        marked = False
        for y, bar in enumerate(reversed(bars)):
            if bar.mark is not None:
                axes.plot([bar.mark] * 2, [y - 0.36, y + 0.36], color=ORANGE, lw=2.4, label="" if marked else mark)
                marked = True
            if bar.interval:
                axes.plot(bar.interval, [y, y], color=BLUE, lw=2, solid_capstyle="butt")
            if bar.value is not None:
                axes.plot([bar.value], [y], "o", color=BLUE, ms=6)
            figures = "none" if bar.value is None else signed(bar.value) if signs else plain(bar.value)
            axes.text(1.02, y, figures, transform=axes.get_yaxis_transform(), va="center", color=INK)
        axes.axvline(0, color=FAINT, lw=0.8)
        axes.set_yticks(range(len(bars)), [bar.label for bar in reversed(bars)])
        axes.set_ylim(-0.6, len(bars) - 0.4)
        axes.set_xlabel(label)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        if marked:
            _legend(axes)
        return as_svg(figure, alt, name)


def losses(conditions: Mapping[str, Condition], order: Sequence[str], alt: str, name: str) -> Markup:
    """Draw the loss of each condition as a bar, lowest at the top, with the 95% confidence interval of its gap."""
    base = conditions["correct"].loss
    with drawing(0.55 + 0.22 * len(order)) as (figure, axes):
        for y, condition in enumerate(conditions[key] for key in reversed(order)):
            assert condition.loss is not None, "only finite losses have an order"
            axes.barh(y, condition.loss, height=0.6, color=GREEN if condition.gap is None else BLUE, alpha=0.55)
            edge = condition.loss
            if condition.ci95 and base is not None:
                ends = [base + end for end in condition.ci95]
                axes.plot(ends, [y, y], color=INK, lw=1.4)
                edge = max(edge, *ends)
            axes.annotate(
                f"{condition.loss:.3f}", (edge, y), (5, 0), textcoords="offset points", va="center", color=INK
            )
        axes.set_yticks(range(len(order)), list(reversed(order)))
        axes.set_xlim(left=0)
        axes.margins(x=0.16)
        axes.set_xlabel("loss, nats per label token")
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        return as_svg(figure, alt, name)


def dots(gaps: Sequence[float], margin: float | None, alt: str, name: str) -> Markup:
    """Draw each sample as a dot at its gap, in nats per label token, and stack the dots that would overlap.

    The bins begin at 0 in both directions, so that every dot is on the correct side of the zero line.
    """
    low, high = min(*gaps, 0.0), max(*gaps, 0.0, margin or 0.0)
    width = (high - low) / _DOT_BINS or 1.0
    stacks: dict[int, int] = {}
    with drawing(1.9) as (figure, axes):
        for colour, side in ((BLUE, 1), (ORANGE, -1)):
            xs, ys = [], []
            for gap in gaps:
                if (gap > 0) != (side > 0):
                    continue
                place = math.ceil(gap / width) - 1
                stacks[place] = stacks.get(place, 0) + 1
                xs.append((place + 0.5) * width)
                ys.append(stacks[place])
            if xs:
                what = "own picture better" if side > 0 else "wrong picture as good or better"
                axes.plot(xs, ys, "o", color=colour, ms=4.4, label=f"{what} ({len(xs)})")
        axes.axvline(0, color=FAINT, lw=0.8)
        if margin:
            axes.axvline(margin, color=ORANGE, lw=1.6, label=f"margin {margin:g}")
        axes.set_ylim(0, max(stacks.values(), default=1) + 1)
        axes.set_xlabel("gap(shuffled) of the sample, nats per label token")
        axes.set_ylabel("samples")
        axes.margins(x=0.03)
        _legend(axes)
        return as_svg(figure, alt, name)


def training_loss(curve: Sequence[LossPoint], looks: Sequence[Look], alt: str, name: str) -> Markup:
    """Draw the training loss, the held-out loss, and the loss of the looks with the correct picture over the steps."""
    with drawing(2.1) as (figure, axes):
        steps = [point.step for point in curve]
        axes.plot(steps, [point.train for point in curve], "o-", color=BLUE, ms=4, label="training, epoch")
        held_out = [(point.step, point.eval) for point in curve if point.eval is not None]
        if held_out:
            axes.plot(*zip(*held_out, strict=True), "s--", color=ORANGE, ms=4, label="held out")
        if looks:
            axes.plot(
                [x.step for x in looks], [x.correct for x in looks], "^:", color=GREEN, ms=4, label="looks, correct"
            )
        _over_steps(axes, looks)
        axes.margins(y=0.15)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("loss, nats per token")
        return as_svg(figure, alt, name)


def training_gaps(looks: Sequence[Look], alt: str, name: str) -> Markup:
    """Draw the looks' gaps of `shuffled` and `zero` over the steps.

    A vertical line shows the lower and upper confidence bounds of `shuffled`.
    """
    with drawing(2.1) as (figure, axes):
        steps = [look.step for look in looks]
        axes.axhline(0, color=FAINT, lw=0.8)
        for look in looks:
            if look.lower_shuffled is not None and look.upper_shuffled is not None:
                axes.plot([look.step] * 2, [look.lower_shuffled, look.upper_shuffled], color=BLUE, lw=1.6, alpha=0.5)
        axes.plot(steps, [look.gap_shuffled for look in looks], "o-", color=BLUE, ms=4, label="shuffled")
        zeros = [look.gap_zero for look in looks if look.gap_zero is not None]
        if len(zeros) == len(looks):
            axes.plot(steps, zeros, "s--", color=ORANGE, ms=4, label="zero")
        _over_steps(axes, looks)
        axes.set_ylabel("gap, nats per token")
        return as_svg(figure, alt, name)


def lengths(coverage: Coverage, alt: str, name: str) -> Markup:
    """Draw a histogram of sequence lengths, with a line at max_seq_len.

    If max_seq_len is far to the right of the longest sequence, only the legend shows it.
    """
    with drawing(1.9) as (figure, axes):
        longest, limit = max(coverage.lengths), coverage.max_seq_len
        far = limit > _FAR * longest
        width = max(1, -(-(longest if far else max(longest, limit)) // 120))
        counts: dict[int, int] = {}
        for length, count in coverage.lengths.items():
            counts[length // width] = counts.get(length // width, 0) + count
        for cut, colour, what in ((False, BLUE, "complete"), (True, ORANGE, "truncated")):
            places = [place for place in counts if (place * width > limit) == cut]
            if places:
                xs = [(place + 0.5) * width - 0.5 for place in places]
                axes.bar(xs, [counts[place] for place in places], width=0.85 * width, color=colour, label=what)
        line: dict[str, Any] = {"color": ORANGE, "lw": 2, "ls": "--"}
        if far:
            axes.plot([], [], **line, label=f"max_seq_len {limit}, beyond the right edge")
        else:
            axes.axvline(limit + 0.5, **line, label=f"max_seq_len {limit}")
            axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(f"tokens before truncation{f', in steps of {width}' if width > 1 else ''}")
        axes.set_ylabel("samples")
        _legend(axes)
        return as_svg(figure, alt, name)


def deciles(groups: Sequence[Decile], alt: str, name: str) -> Markup:
    """Draw the gap of `shuffled` for each tenth of the wrong pictures, by similarity to the sample's own picture."""
    with drawing(2.0) as (figure, axes):
        axes.axhline(0, color=FAINT, lw=0.8)
        for group in groups:
            x, gap = sum(group.similarity) / 2, group.gap
            if gap.ci95:
                axes.plot([x, x], gap.ci95, color=BLUE, lw=1.6)
            if gap.value is not None:
                axes.plot([x], [gap.value], "o", color=BLUE, ms=5)
        axes.set_xlabel("similarity of the wrong picture, cosine")
        axes.set_ylabel("gap, nats per token")
        return as_svg(figure, alt, name)


def shares(values: dict[str, float], label: str, alt: str, name: str) -> Markup:
    """Draw values between 0 and 1 as bars, one for each stage from the vision tower to the connector's output."""
    with drawing(0.6 + 0.32 * len(values)) as (figure, axes):
        for y, value in enumerate(reversed(list(values.values()))):
            axes.barh(y, value, height=0.6, color=BLUE, alpha=0.55)
            axes.annotate(f"{value:.2f}", (value, y), (5, 0), textcoords="offset points", va="center", color=INK)
        axes.set_yticks(range(len(values)), list(reversed(values)))
        axes.set_xlim(0, 1.12)
        axes.set_xlabel(label)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        return as_svg(figure, alt, name)


def _over_steps(axes: Axes, looks: Sequence[Look]) -> None:
    """Set up the x-axis of training steps.

    If there are looks, the axis is logarithmic, so that the looks are evenly spaced on it, and has a tick at each look.
    """
    axes.set_xlabel("step, batches")
    if looks:
        axes.set_xscale("symlog" if looks[0].step == 0 else "log")
        steps = sorted({*(look.step for look in looks), round(axes.dataLim.x1)})
        axes.set_xticks(_labelled(axes, steps))
        axes.set_xticks(steps, minor=True)
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter(_STEP))
    _legend(axes)


def _labelled(axes: Axes, steps: Sequence[int]) -> list[int]:
    """Return the steps whose tick labels do not overlap.

    The steps must be in increasing order. The last step is always included.
    """
    low, *places, high = axes.xaxis.get_transform().transform([axes.get_xlim()[0], *steps, axes.get_xlim()[1]])
    shown: list[int] = []
    free = math.inf
    for step, place in zip(reversed(steps), reversed(places), strict=True):
        middle, half = (place - low) / (high - low), _CHARACTER * (len(_STEP.format(x=step)) + 1) / 2
        if middle + half <= free:
            shown.append(step)
            free = middle - half
    return shown


def _legend(axes: Axes) -> None:
    """Draw the legend above the axes, in as many rows as its width requires.

    Each row after the first makes the chart taller.
    """
    handles, labels = axes.get_legend_handles_labels()
    figure = axes.figure
    assert isinstance(figure, Figure), "axes are drawn in a figure"
    for columns in range(len(labels), 0, -1):
        legend = figure.legend(
            handles, labels, loc="outside upper left", ncols=columns, fontsize=9, handlelength=1.4, columnspacing=1.2
        )
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            further = math.ceil(len(labels) / columns) - 1
            figure.set_figheight(figure.get_figheight() + further * _LEGEND_ROW)
            return
        legend.remove()
