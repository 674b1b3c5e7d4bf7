"""Numbers as the page writes them."""

from __future__ import annotations

from eyechart.results import Estimated


def capital(text: str) -> str:
    """With a capital letter at the start."""
    return text[:1].upper() + text[1:]


def number(count: int, word: str) -> str:
    """A count with its noun: `1 sample`, `2 samples`."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def plain(value: float) -> str:
    """Two decimals, more for small values, with a real minus sign."""
    digits = 2 if abs(value) >= 0.1 or value == 0 else 3 if abs(value) >= 0.01 else 4
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "\u2212")


def signed(value: float) -> str:
    """As `plain`, with a plus sign too."""
    text = plain(value)
    return text if text.startswith("\u2212") else f"+{text}"


def between(ends: tuple[float, float] | None) -> str:
    """A 95% interval in words, or nothing."""
    return "" if ends is None else f" (95% interval {signed(ends[0])} to {signed(ends[1])})"


def estimated(figure: Estimated) -> str:
    """Value and interval, or `not measured`."""
    return "not measured" if figure.value is None else signed(figure.value) + between(figure.ci95)


def percent(value: float) -> str:
    """A share as a percentage; exactly 1 gives 100%, and values close to 0 keep one decimal."""
    text = f"{100 * value:.0f}"
    if (text == "100" and value < 1) or (text in ("0", "-0") and value != 0):
        text = f"{min(100 * value, 99.9):.1f}"
    text = text.lstrip("-") if float(text) == 0 else text.replace("-", "\u2212")
    return f"{text}%"
