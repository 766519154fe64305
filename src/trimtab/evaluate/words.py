"""A comparison in words and rows: labels, percentages, the headline. No markup, no files."""

from __future__ import annotations

from trimtab.evaluate.comparison import (
    BEAM_SEARCH,
    BEST_OF_N,
    IMPORTANCE_VOTE,
    MAJORITY,
    ORACLE,
    SINGLE,
    STOPPED,
    WEIGHTED_VOTE,
    Comparison,
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
    ORACLE: "any draw right",
}

ACCURACY_HEADER = ("method", "right", "95 % interval")
DIFFERENCE_HEADER = ("difference", "points", "95 % interval", "p")


def label(method: str) -> str:
    """What a method is called where people read it."""
    return _LABELS.get(method, method.replace("_", " "))


def shown_label(method: str) -> str:
    """What one answer of a method is called; the oracle's is a right one that was drawn and passed over."""
    return "also drawn" if method == ORACLE else label(method)


def is_learned(method: str) -> bool:
    """True for a method that uses the adapter's scores."""
    return method not in (SINGLE, MAJORITY, ORACLE)


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
    asked = comparison.counts.asked
    questions = "question" if asked == 1 else "questions"
    right = percent(reached[method].value)
    return f"{subject} answers {right} of {asked:,} {questions} right; {', '.join(others)}."


def verdicts(comparison: Comparison) -> list[str]:
    """Whether the gain over a single draw and over the vote is clear of chance: a sentence each."""
    pairs = ((SINGLE, "a single draw"), (MAJORITY, "the majority vote of the same draws"))
    names = [(f"{comparison.decided_by}_minus_{base}", words) for base, words in pairs]
    known = comparison.differences
    return [_verdict(known[name], words) for name, words in names if name in known]


def _verdict(difference: Difference, base: str) -> str:
    more = "more" if difference.value >= 0 else "fewer"
    clear = difference.low > 0 or difference.high < 0
    ending = "clear of chance" if clear else "not clear of chance on this many questions"
    return (
        f"Against {base}: {abs(100 * difference.value):.1f} points {more} "
        f"(95 % interval {points(difference.low)} to {points(difference.high)}), {ending}."
    )


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
