"""Formats numbers and intervals as text for the reports."""

from __future__ import annotations

from eyechart.results import Estimated


def capital(text: str) -> str:
    """Return the text with its first letter capitalised."""
    return text[:1].upper() + text[1:]


def number(count: int, word: str) -> str:
    """Return a count with its noun, such as `1 sample` or `2 samples`."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def plain(value: float) -> str:
    """Format a value with two decimals (three or four if the value is small) and a typographic minus sign."""
    digits = 2 if abs(value) >= 0.1 or value == 0 else 3 if abs(value) >= 0.01 else 4
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "\u2212")


def signed(value: float) -> str:
    """Format a value as `plain` does, but with a plus sign if it is not negative."""
    text = plain(value)
    return text if text.startswith("\u2212") else f"+{text}"


def between(ends: tuple[float, float] | None) -> str:
    """Return a 95% confidence interval as text in brackets; empty if there is none."""
    return "" if ends is None else f" (95% interval {signed(ends[0])} to {signed(ends[1])})"


def estimated(figure: Estimated) -> str:
    """Return an estimate and its interval as text, or `not measured`."""
    return "not measured" if figure.value is None else signed(figure.value) + between(figure.ci95)


def percent(value: float) -> str:
    """Format a share as a percentage without decimals.

    If rounding would turn another share into 0% or 100%, the percentage has one decimal.
    """
    text = f"{100 * value:.0f}"
    if (text == "100" and value < 1) or (text in ("0", "-0") and value != 0):
        text = f"{min(100 * value, 99.9):.1f}"
    text = text.lstrip("-") if float(text) == 0 else text.replace("-", "\u2212")
    return f"{text}%"
