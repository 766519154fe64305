"""The report's plots, as SVG that takes its colours and its font from the page around it.

Drawn in stand-in colours, each of which becomes a CSS variable, so that one drawing serves light and dark.
The same values give the same bytes. What the plots show stands in `comparison`.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trimtab.evaluate.comparison import ORACLE, SINGLE, Budget, Calibration, Comparison, Risk, Scores
from trimtab.evaluate.intervals import Estimate
from trimtab.evaluate.words import is_learned, label, percent

_INK, _MUTED, _GRID = "#000001", "#000002", "#000003"
_LEARNED, _PLAIN, _RIGHT, _WRONG, _SECOND = "#000005", "#000006", "#000007", "#000008", "#000009"
_VARIABLES = {
    _INK: "--ink",
    _MUTED: "--muted",
    _GRID: "--grid",
    _LEARNED: "--learned",
    _PLAIN: "--plain",
    _RIGHT: "--right",
    _WRONG: "--wrong",
    _SECOND: "--second",
}
_NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
_WIDTH = 4.3  # inches: about a phone's width, so that type keeps its size there
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it takes the page's font and can be searched
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _MUTED,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "text.color": _INK,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.solid_capstyle": "round",
}
# one look a method in every plot: colour and marker both, so that neither alone has to carry it
_LOOKS = {"majority": (_PLAIN, "s"), "best_of_n": (_SECOND, "^"), "weighted_vote": (_LEARNED, "o")}
_FURTHER_LOOK = (_RIGHT, "D")
_OWN_LOOKS = ((_RIGHT, "D"), (_WRONG, "P"), (_INK, "X"), (_SECOND, "v"), (_PLAIN, "*"))  # of other budgets

Draw = Callable[[Any], None]  # puts a plot on matplotlib axes


def accuracy_plot(accuracy: Mapping[str, Estimate], name: str = "accuracy") -> str:
    """Each method's accuracy as a dot with its interval, best-known order from top to bottom."""
    described = ", ".join(f"{label(method)} {percent(e.value)}" for method, e in accuracy.items())
    height = 0.55 + 0.36 * len(accuracy)
    return _svg(name, f"Accuracy by method: {described}", height, lambda axes: _accuracy(axes, accuracy))


def _accuracy(axes: Any, accuracy: Mapping[str, Estimate]) -> None:
    for row, (method, estimate) in enumerate(accuracy.items()):
        colour = _LEARNED if is_learned(method) else _PLAIN
        axes.plot([estimate.low, estimate.high], [row, row], color=colour, linewidth=3, alpha=0.45)
        axes.plot([estimate.value], [row], "o", color=colour, markersize=7)
        axes.annotate(
            percent(estimate.value),
            (1.02, row),
            xycoords=("axes fraction", "data"),
            va="center",
            color=colour if is_learned(method) else _INK,
            fontweight="bold" if is_learned(method) else "normal",
        )
    axes.set_yticks(range(len(accuracy)), [label(method) for method in accuracy], color=_INK)
    axes.set_ylim(len(accuracy) - 0.5, -0.5)
    axes.set_xlim(_floor(min(each.low for each in accuracy.values())), 1)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=5)
    _percent_axis(axes.xaxis)
    axes.grid(axis="x")


def _floor(low: float) -> float:
    """Where an axis of shares begins: at nothing, unless all lie in the upper half."""
    return max(0.0, math.floor(10 * low - 0.5) / 10) if low > 0.5 else 0.0


def budget_plot(budget: Budget) -> str:
    """Accuracy against the number of draws used, a line and a band of its interval each method."""
    return _svg(
        "budget",
        "Accuracy against the number of draws",
        3.0,
        lambda axes: _lines(axes, budget.draws, budget.accuracy, "draws used", doubling=True),
    )


def has_prices(comparison: Comparison) -> bool:
    """True where the decided method's dollars are known, and more than nothing."""
    cost = comparison.costs.get(comparison.decided_by)
    return cost is not None and bool(cost.usd_per_thousand)


def cost_plot(comparison: Comparison) -> str:
    """Accuracy against dollars where they are known, else against draws; methods of their own as marks."""
    unit = "dollars per 1,000 questions" if has_prices(comparison) else "draws a question"
    return _svg("cost", f"Accuracy against {unit}", 3.3, lambda axes: _against_cost(axes, comparison, unit))


def _against_cost(axes: Any, comparison: Comparison, unit: str) -> None:
    budget = comparison.budget
    one = _cost_of(comparison, SINGLE)
    at = [number * one for number in budget.used]
    _curves(axes, at, budget.accuracy)
    axes.set_xscale("log", base=2)
    _own_budgets(axes, comparison)
    ticks = at if len(at) < 7 else at[::2]
    axes.set_xticks(ticks, [f"{tick:.2g}" if tick < 10 else f"{tick:.0f}" for tick in ticks])
    axes.minorticks_off()
    _finished(axes, unit)


def _own_budgets(axes: Any, comparison: Comparison) -> None:
    """The methods that have a cost of their own, each a mark with its interval."""
    others = [
        name
        for name in comparison.accuracy
        if name not in (*comparison.budget.accuracy, SINGLE, ORACLE) and _cost_of(comparison, name)
    ]
    for name, (colour, marker) in zip(others, _OWN_LOOKS * len(others), strict=False):
        reached, x = comparison.accuracy[name], _cost_of(comparison, name)
        axes.plot([x, x], [reached.low, reached.high], color=colour, linewidth=1.5, alpha=0.5)
        axes.plot(
            [x], [reached.value], color=colour, marker=marker, markersize=7, linestyle="", label=label(name)
        )


def _cost_of(comparison: Comparison, name: str) -> float:
    cost = comparison.costs[name]
    return (cost.usd_per_thousand or 0.0) if has_prices(comparison) else cost.draws


def risk_plot(risk: Risk, decided_by: str) -> str:
    """Share right of what is answered against how much is answered."""
    return _svg(
        "risk",
        f"Share right against the share answered; area of risk {risk.area:.3f}",
        3.0,
        lambda axes: _risk(axes, risk, decided_by),
    )


def _risk(axes: Any, risk: Risk, decided_by: str) -> None:
    colour, _ = _LOOKS.get(decided_by, _FURTHER_LOOK)
    axes.plot(
        risk.coverage, risk.right, color=colour, linewidth=2, label=f"{label(decided_by)}, surest first"
    )
    axes.set(xlim=(0, 1.03), xlabel="share of questions answered", ylabel="share right of these")
    low = min(risk.right)
    axes.set_ylim(max(0.0, low - 0.15 * (1 - low) - 0.01), 1.005)
    _percent_axis(axes.xaxis)
    _percent_axis(axes.yaxis)
    axes.grid()
    _legend(axes)


def rounds_plot(rounds: Sequence[int], accuracy: Mapping[str, Sequence[Estimate]]) -> str:
    """Held-out accuracy after each round of adaptation."""
    return _svg(
        "rounds",
        "Held-out accuracy by round of adaptation",
        3.0,
        lambda axes: _lines(axes, rounds, accuracy, "round of adaptation", doubling=False),
    )


def _lines(
    axes: Any, at: Sequence[int], curves: Mapping[str, Sequence[Estimate]], xlabel: str, *, doubling: bool
) -> None:
    _curves(axes, at, curves)
    if doubling:
        axes.set_xscale("log", base=2)
    axes.set_xticks(list(at), [str(number) for number in at])
    axes.minorticks_off()
    _finished(axes, xlabel)


def _curves(axes: Any, at: Sequence[float], curves: Mapping[str, Sequence[Estimate]]) -> None:
    """A line and a band of its interval each method."""
    for method, curve in curves.items():
        colour, marker = _LOOKS.get(method, _FURTHER_LOOK)
        low, values, high = zip(*[(e.low, e.value, e.high) for e in curve], strict=True)
        axes.fill_between(at, low, high, color=colour, alpha=0.14, linewidth=0)
        axes.plot(at, values, color=colour, marker=marker, markersize=5, linewidth=2, label=label(method))


def _finished(axes: Any, xlabel: str) -> None:
    axes.set_xlabel(xlabel)
    axes.margins(x=0.04)
    _percent_axis(axes.yaxis)
    axes.grid(axis="y")
    _legend(axes)


def reliability_plot(calibration: Calibration) -> str:
    """Share right against confidence; the larger a dot, the more decisions lie in its bin."""
    return _svg(
        "reliability",
        f"Share right against confidence; expected calibration error {calibration.ece:.3f}",
        3.0,
        lambda axes: _reliability(axes, calibration),
    )


def _reliability(axes: Any, calibration: Calibration) -> None:
    held = [b for b in calibration.bins if b.count]
    most = max(b.count for b in held)
    sizes = [20 + 160 * b.count / most for b in held]
    axes.plot([0, 1], [0, 1], color=_MUTED, linewidth=1, linestyle=(0, (4, 3)), label="perfectly calibrated")
    confidence, right = [b.confidence for b in held], [b.right for b in held]
    axes.plot(confidence, right, color=_LEARNED, linewidth=1.2, alpha=0.6)
    axes.scatter(confidence, right, s=sizes, color=_LEARNED, linewidth=0)
    axes.set(
        xlim=(-0.03, 1.05), ylim=(-0.05, 1.07), xlabel="confidence of the decision", ylabel="share right"
    )
    _percent_axis(axes.xaxis)
    _percent_axis(axes.yaxis)
    axes.grid()
    _legend(axes)


def scores_plot(scores: Scores) -> str:
    """Where the scores of right and of wrong answers lie, each as a share of its kind."""
    return _svg("scores", "Scores of right and of wrong answers", 3.0, lambda axes: _scores(axes, scores))


def _scores(axes: Any, scores: Scores) -> None:
    for name, counts, colour, line in (
        ("right answers", scores.right, _RIGHT, "-"),
        ("wrong answers", scores.wrong, _WRONG, (0, (3, 2))),
    ):
        shares = [count / max(1, sum(counts)) for count in counts]
        axes.stairs(shares, scores.edges, color=colour, fill=True, alpha=0.22)
        axes.stairs(shares, scores.edges, color=colour, linewidth=1.8, linestyle=line, label=name)
    axes.set(xlabel="score (higher is better)", ylabel="share of its kind")
    axes.locator_params(axis="x", nbins=6)
    _percent_axis(axes.yaxis)
    axes.grid(axis="y")
    _legend(axes)


def _percent_axis(axis: Any) -> None:
    axis.set_major_formatter(lambda share, _: f"{100 * share:.3g} %")


def _legend(axes: Any) -> None:
    axes.figure.legend(
        loc="outside upper left", ncols=2, handlelength=1.6, columnspacing=1.2, borderaxespad=0.1
    )


# --------------------------------------------------------------------------- from axes to SVG


def _svg(name: str, described: str, height: float, draw: Draw) -> str:
    import matplotlib as mpl  # only here: not every start of the command line draws
    from matplotlib.figure import Figure

    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        draw(figure.subplots())
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    return _embedded(written.getvalue(), name, described)


def _embedded(svg: str, name: str, described: str) -> str:
    """The drawing as one element of a page: themed, its ids its own, as wide as there is room."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # it would hold for the whole page
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"'?DejaVu Sans'?", "inherit", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    box = re.search(r'viewBox="[^"]*"', svg)
    opening = f'<svg {_NAMESPACES} role="img" aria-label="{html.escape(described)}" {box[0] if box else ""}>'
    return opening + svg[svg.index(">") + 1 :].strip()
