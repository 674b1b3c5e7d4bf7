"""Formatting of numbers for the page."""

from __future__ import annotations

from eyechart.results import Estimated


def capital(text: str) -> str:
    """Return the text with a capital first letter."""
    return text[:1].upper() + text[1:]


def number(count: int, word: str) -> str:
    """Return a count with its noun, such as `1 sample` or `2 samples`."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def plain(value: float) -> str:
    """Format with two decimals, or more for small values, and with a typographic minus sign."""
    digits = 2 if abs(value) >= 0.1 or value == 0 else 3 if abs(value) >= 0.01 else 4
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "\u2212")


def signed(value: float) -> str:
    """Format as `plain` does, and also write a plus sign."""
    text = plain(value)
    return text if text.startswith("\u2212") else f"+{text}"


def between(ends: tuple[float, float] | None) -> str:
    """Return a 95% interval in words; empty if there is none."""
    return "" if ends is None else f" (95% interval {signed(ends[0])} to {signed(ends[1])})"


def estimated(figure: Estimated) -> str:
    """Return value and interval in words, or `not measured`."""
    return "not measured" if figure.value is None else signed(figure.value) + between(figure.ci95)


def percent(value: float) -> str:
    """Format a share as a percentage; only exactly 1 gives 100%, and values close to 0 keep one decimal."""
    text = f"{100 * value:.0f}"
    if (text == "100" and value < 1) or (text in ("0", "-0") and value != 0):
        text = f"{min(100 * value, 99.9):.1f}"
    text = text.lstrip("-") if float(text) == 0 else text.replace("-", "\u2212")
    return f"{text}%"
