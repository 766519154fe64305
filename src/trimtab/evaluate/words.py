"""A comparison in words and rows: labels, percentages, the headline. No markup, no files."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean, stdev

from trimtab.evaluate.comparison import (
    AI_JUDGE,
    BEAM_SEARCH,
    BEST_OF_N,
    IMPORTANCE_VOTE,
    MAJORITY,
    OF,
    ORACLE,
    SINGLE,
    STOPPED,
    WEIGHTED_VOTE,
    Category,
    Comparison,
    Cost,
    Stopping,
)
from trimtab.evaluate.intervals import Difference, Estimate

_LABELS = {
    SINGLE: "single draw",
    MAJORITY: "majority vote",
    BEST_OF_N: "best of n by score",
    WEIGHTED_VOTE: "score-weighted vote",
    IMPORTANCE_VOTE: "importance vote",
    BEAM_SEARCH: "beam search",
    STOPPED: "stopped when sure",
    AI_JUDGE: "best of n by AI judge",
    ORACLE: "any draw right",
}

CATEGORIES_SHOWN = 20
SEED_HEADER = ("method", "mean", "spread", "each seed")
ACCURACY_HEADER = ("method", "right", "95 % interval")
COST_HEADER = ("method", "draws a question", "training $", "$ per 1,000 questions", "right")
DIFFERENCE_HEADER = ("difference", "points", "95 % interval", "p")


def label(method: str) -> str:
    """What a method is called where people read it."""
    kind, _, whose = method.partition(OF)
    words = _LABELS.get(kind, kind.replace("_", " "))
    return f"{words}, {whose}" if whose else words


def shown_label(method: str) -> str:
    """What one answer of a method is called; the oracle's is a right one that was drawn and passed over."""
    return "also drawn" if method == ORACLE else label(method)


def is_learned(method: str) -> bool:
    """True for a method that uses the adapter's scores."""
    return method.partition(OF)[0] not in (SINGLE, MAJORITY, ORACLE, AI_JUDGE)


def cost_rows(comparison: Comparison, training_usd: float | None) -> list[tuple[str, ...]]:
    """One row a method under `COST_HEADER`, as the paper's cost table has them."""
    return [
        (
            label(name),
            *_cost_cells(cost, _training(comparison, name, training_usd)),
            percent(reached.value, 1),
        )
        for name, reached in comparison.accuracy.items()
        if (cost := comparison.costs.get(name)) is not None
    ]


def _training(comparison: Comparison, method: str, usd: float | None) -> float | None:
    """What training the method was paid: nothing without an adapter; what others cost is not known here."""
    if OF in method:
        return None
    decider = comparison.decided_by if method == STOPPED else method
    return usd if is_learned(decider) else 0.0


def _cost_cells(cost: Cost, training_usd: float | None) -> tuple[str, str, str]:
    return (f"{cost.draws:.3g}" if cost.draws else "—", usd(training_usd), usd(cost.usd_per_thousand))


def usd(dollars: float | None) -> str:
    """An amount to the cent, or to two digits below ten cents; a dash where it is not known."""
    if dollars is None:
        return "—"
    return f"{dollars:.2f}" if dollars >= 0.1 or dollars == 0 else f"{dollars:.2g}"


def category_header(comparison: Comparison) -> tuple[str, ...]:
    """The columns of `category_rows`."""
    return ("category", "questions", *map(label, _of_categories(comparison)))


def category_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """One row a category: its questions and how the main methods do on them."""
    return [
        (
            name,
            str(each.asked),
            *(estimate_words(each.accuracy[method]) for method in _of_categories(comparison)),
        )
        for name, each in _shown_categories(comparison.categories)
    ]


def _of_categories(comparison: Comparison) -> list[str]:
    return list(dict.fromkeys((SINGLE, MAJORITY, comparison.decided_by)))


def _shown_categories(categories: Mapping[str, Category]) -> list[tuple[str, Category]]:
    return list(categories.items())[:CATEGORIES_SHOWN]


def seed_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """One row a method: its mean over seeds, its spread, and each seed's own figure."""
    if comparison.seeds is None:
        return []
    return [
        (
            label(name),
            percent(fmean(each), 1),
            f"± {100 * stdev(each):.1f}",
            " ".join(percent(v, 1) for v in each),
        )
        for name, each in comparison.seeds.accuracy.items()
    ]


def accuracy_rows(comparison: Comparison) -> list[tuple[str, str, str]]:
    """One row a method under `ACCURACY_HEADER`, in the order in which methods are shown."""
    return [
        (label(name), percent(e.value, 1), f"{percent(e.low, 1)} to {percent(e.high, 1)}")
        for name, e in comparison.accuracy.items()
    ]


def difference_rows(comparison: Comparison) -> list[tuple[str, str, str, str]]:
    """One row a paired difference under `DIFFERENCE_HEADER`."""
    return [
        (_difference_label(name), points(d.value), f"{points(d.low)} to {points(d.high)}", p_value(d.p))
        for name, d in comparison.differences.items()
    ]


def _difference_label(name: str) -> str:
    ours, _, theirs = name.partition("_minus_")
    return f"{label(ours)} − {label(theirs)}"


def headline(comparison: Comparison) -> str:
    """What came out, in one sentence: the decided method beside the single draw and the vote."""
    reached = comparison.accuracy
    method = comparison.decided_by
    subject = "The adapted model" if is_learned(method) else label(method).capitalize()
    others = [f"a single draw {percent(reached[SINGLE].value)}"]
    if method != MAJORITY:
        others.append(f"a majority vote of the same draws {percent(reached[MAJORITY].value)}")
    asked = comparison.questions
    questions = "question" if asked == 1 else "questions"
    questions += f" under {len(comparison.seeds.seeds)} seeds" if comparison.seeds else ""
    right = percent(reached[method].value)
    return f"{subject} answers {right} of {asked:,} {questions} right; {', '.join(others)}."


def verdicts(comparison: Comparison) -> list[str]:
    """Whether the gain over a single draw and over the vote is clear of chance: a sentence each."""
    pairs = ((SINGLE, "a single draw"), (MAJORITY, "the majority vote of the same draws"))
    names = [(f"{comparison.decided_by}_minus_{base}", words) for base, words in pairs]
    known = comparison.differences
    return [_verdict(known[name], words) for name, words in names if name in known]


def _verdict(difference: Difference, base: str) -> str:
    if difference.questions and not difference.won + difference.lost:
        return f"Against {base}: the same on every question."
    clear = difference.low > 0 or difference.high < 0
    ending = (
        "clear of chance" if clear else f"not clear of chance on this many questions{power_words(difference)}"
    )
    interval = f"95 % interval {points(difference.low)} to {points(difference.high)}"
    return f"Against {base}: {_more_or_fewer(difference.value)} ({interval}), {ending}."


def _more_or_fewer(difference: float) -> str:
    size = f"{abs(100 * difference):.1f}"
    if size == "0.0":
        return "as many right"
    return f"{size} points {'more' if difference > 0 else 'fewer'}"


def power_words(difference: Difference) -> str:
    """How many questions more would tell a difference of this size from chance, four times in five."""
    more = (difference.needed or 0) - difference.questions
    return f"; a difference of this size needs about {_rounded(more):,} more" if more > 0 else ""


def _rounded(number: int) -> int:
    """To two digits, as it is a guide and no promise."""
    return int(float(f"{number:.2g}"))


def counts_sentence(comparison: Comparison) -> str:
    """How the asked questions ended; every one stays in the denominator."""
    c = comparison.counts
    return (
        f"{c.asked:,} asked = {c.answered:,} answered + {c.unreadable:,} unreadable + {c.failed:,} failed + "
        f"{c.abstained:,} abstained; {comparison.samples_per_question:.3g} draws a question."
    )


def usage_sentence(comparison: Comparison) -> str:
    """What the calls cost."""
    used = comparison.usage
    if not used.calls:
        return "No call was made: the answers were recorded."
    price = f", {used.usd:.2f} USD" if used.usd is not None else ""
    return f"{used.calls:,} calls, {used.input_tokens:,} tokens in, {used.output_tokens:,} tokens out{price}."


def percent(share: float, digits: int = 0) -> str:
    """A share as a percentage."""
    return f"{100 * share:.{digits}f} %"


def number(value: float) -> str:
    """A number to three digits."""
    return f"{value:.3g}".replace("-", "−")


def points(difference: float) -> str:
    """A difference of shares in signed percentage points."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def p_value(p: float) -> str:
    """A p, never as a bare zero."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def estimate_words(estimate: Estimate) -> str:
    """A mean with its interval, short."""
    return f"{percent(estimate.value)} ({percent(estimate.low)} to {percent(estimate.high)})"


def stopping_sentence(stopping: Stopping) -> str:
    """What stopping when sure spares, in a sentence."""
    return (
        f"stopped when sure (certainty {stopping.certainty:g}): {stopping.samples_per_question:.1f} draws a "
        f"question, {100 * stopping.samples_ratio:.0f} % of all"
    )
