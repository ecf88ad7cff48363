# SPDX-License-Identifier: Apache-2.0
"""Plots of results as SVG that takes its colours from the page it stands in, so one drawing serves light and dark.

Drawn with matplotlib, imported inside the functions since it takes about a second. Colours are drawn as placeholders
and then replaced by CSS variables; texts stay texts, so they can be read aloud, found and translated.
"""

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from shieldwall.lab.extras import missing
from shieldwall.lab.league import plain
from shieldwall.lab.result import Result, Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["COLOURS", "bars", "curves", "latency"]

COLOURS = 8
"""Distinct series colours; further results begin again with another line style."""

_INK, _GRID = "#010101", "#020202"
_SERIES = tuple(f"#0300{number:02x}" for number in range(1, COLOURS + 1))
_VARIABLES = {_INK: "var(--ink)", _GRID: "var(--grid)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(_SERIES, 1)
}
_STYLES = ("-", "--", ":")
_LOWEST_RATE = 1e-4
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "shieldwall",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _GRID,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _GRID,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


def _scored(results: Sequence[Result]) -> list[tuple[str, Scores]]:
    """Names with their numbers in the table, and figures."""
    numbered = [(result, result.scores) for result in results if result.scores is not None]
    return [(f"{place} {plain(result.defence.name, 30)}", scores) for place, (result, scores) in enumerate(numbered, 1)]


def curves(results: Sequence[Result], name: str) -> str:
    """ROC curves with a logarithmic axis of false positives: what happens below 1 % is what counts."""

    def draw(axes: "Axes") -> None:
        for place, (label, scores) in enumerate(_scored(results)):
            if scores.curve:
                rates = [max(rate, _LOWEST_RATE) for rate, _ in scores.curve]
                recalls = [recall for _, recall in scores.curve]
                style = _STYLES[place // COLOURS % len(_STYLES)]
                axes.step(rates, recalls, style, where="post", color=_SERIES[place % COLOURS], label=label)
        axes.axvline(0.01, color=_INK, linewidth=0.8, linestyle=":")
        axes.set(xscale="log", xlim=(_LOWEST_RATE, 1), ylim=(0, 1.02), xlabel="false positive rate", ylabel="recall")
        _plain_ticks(axes)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(loc="upper left", fontsize=9)

    return _svg(draw, name, (7.0, 4.4))


def bars(results: Sequence[Result], name: str) -> str:
    """Recall by label at the point of work, with intervals."""

    def draw(axes: "Axes") -> None:
        scored = _scored(results)
        labels = sorted({label for _, scores in scored for label in scores.recall_by.get("label", {})})
        width = 0.8 / max(len(scored), 1)
        for place, (title, scores) in enumerate(scored):
            found = scores.recall_by.get("label", {})
            known = [
                (at, each)
                for at, each in enumerate(found.get(label) for label in labels)
                if each and each.value is not None
            ]
            heights = [each.value or 0.0 for _, each in known]
            below = [max(height - (each.low or 0.0), 0.0) for height, (_, each) in zip(heights, known, strict=True)]
            above = [max((each.high or 0.0) - height, 0.0) for height, (_, each) in zip(heights, known, strict=True)]
            places = [at + (place - (len(scored) - 1) / 2) * width for at, _ in known]
            axes.bar(places, heights, width * 0.92, color=_SERIES[place % COLOURS], label=title)
            axes.errorbar(places, heights, yerr=[below, above], fmt="none", ecolor=_INK, elinewidth=0.9, capsize=2)
        axes.set(ylim=(0, 1.02), ylabel="recall")
        axes.set_xticks(range(len(labels)), [plain(label, 20) for label in labels])
        axes.grid(visible=False, axis="x")
        if scored:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3, fontsize=9)

    return _svg(draw, name, (7.0, 4.0))


def latency(results: Sequence[Result], name: str) -> str:
    """Median time per text against recall: up and to the left is better."""

    def draw(axes: "Axes") -> None:
        for place, (label, scores) in enumerate(_scored(results)):
            p50, recall = scores.costs.wall_us.get("p50"), scores.point.recall
            if p50 is None or p50.value is None or p50.value <= 0 or recall.value is None:
                continue
            axes.plot([p50.value], [recall.value], "o", markersize=8, color=_SERIES[place % COLOURS])
            if recall.low is not None and recall.high is not None:
                axes.vlines(p50.value, recall.low, recall.high, color=_SERIES[place % COLOURS])
            axes.annotate(label, (p50.value, recall.value), (7, 4), textcoords="offset points", fontsize=9)
        axes.set(xscale="log", ylim=(0, 1.02), xlabel="median time per text, microseconds", ylabel="recall")
        axes.margins(x=0.3)
        _plain_ticks(axes)

    return _svg(draw, name, (7.0, 4.0))


def _plain_ticks(axes: "Axes") -> None:
    """Powers of ten as plain numbers: the usual ones need mathematical layout, which is off for names' sake."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.xaxis.set_major_locator(LogLocator(10, (1.0, 3.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _svg(draw: Any, name: str, size: tuple[float, float]) -> str:  # noqa: ANN401  a function on axes
    """Draw with placeholders, then make the SVG part of a page: its own ids, the page's colours, no file head."""
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing("drawing plots", error) from None
    with rc_context(_STYLE):
        figure = Figure(figsize=size)
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{name}-", svg)
    # The width follows the page; the view box keeps the proportions.
    return re.sub(
        r'<svg [^>]*?(viewBox="[^"]*")[^>]*>',
        r'<svg \1 role="img" xmlns:xlink="http://www.w3.org/1999/xlink">',
        svg,
        count=1,
    )
