"""Draws charts with matplotlib as inline SVG for the page.

Text in the SVG is not converted to paths, and equal charts give equal bytes. matplotlib draws with placeholder colours,
which this module replaces by CSS variables. One drawing can therefore be used in light mode, in dark mode and in print.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# The placeholder colours. The page's style sheet defines `--blue`, `--orange` and so on, for light and dark mode.
INK, FAINT, GRID = "#010203", "#020304", "#030405"
BLUE, ORANGE, GREEN = "#040506", "#050607", "#060708"
_VARIABLES = {INK: "ink", FAINT: "faint", GRID: "grid", BLUE: "blue", ORANGE: "orange", GREEN: "green"}

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "qwen3-vlm",
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": FAINT,
    "axes.edgecolor": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": FAINT,
    "ytick.labelcolor": INK,
    "figure.constrained_layout.use": True,
    "legend.frameon": False,
    "legend.labelcolor": INK,
}
# The defaults are set explicitly, so that the user's matplotlibrc does not change the page.
_SETTINGS: Any = {k: v for k, v in matplotlib.rcParamsDefault.items() if not k.startswith("backend")} | _STYLE
_WIDTH = 4.6
"""The width of a drawing in inches, at which its text is readable on the screen of a phone."""


@contextmanager
def drawing(height: float) -> Iterator[tuple[Figure, Axes]]:
    """Create a matplotlib figure of the page's width and `height` inches, in the style of the page."""
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(_WIDTH, height))
        axes = figure.add_subplot()
        for side in ("left", "bottom"):
            axes.spines[side].set_linewidth(0.8)
        yield figure, axes


def as_svg(figure: Figure, alt: str, name: str) -> Markup:
    """Return the figure as SVG for the page; `alt` describes it in words, and `name` makes its ids unique."""
    buffer = io.StringIO()
    quiet: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(buffer, format="svg", transparent=True, metadata=quiet)
    drawn = buffer.getvalue()
    box = re.search(r'viewBox="([^"]+)"', drawn)
    assert box is not None, "matplotlib writes a viewBox"
    body = drawn[drawn.index(">", drawn.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    # Ids that nothing refers to are removed. The others get the figure's name, so that they are unique on the page.
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', body))
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", body).replace("xlink:href", "href")
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var(--{variable})")
    body = re.sub(r"font-family: [^;\"]+", "font-family: var(--sans)", body)
    body = re.sub(r"font: ((?:\w+ )*[\d.]+px) [^;\"]+", r"font: \1 var(--sans)", body)  # the format of matplotlib 3.9
    # Coordinates are truncated to a hundredth of a point; text between the tags is not changed.
    body = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\.\d{2})\d+", r"\1", tag[0]), body)
    body = re.sub(r"\n\s*", "\n", body).strip()
    return Markup(f'<svg viewBox="{box[1]}" role="img" aria-label="{escape(alt)}">{body}')
