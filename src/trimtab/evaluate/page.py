"""The report as one page that opens offline: its frame in page.html, its sections here, all text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template

from trimtab.evaluate import plots
from trimtab.evaluate.comparison import BEAM_SEARCH, MAJORITY, ORACLE, SINGLE, Comparison, Shown, SideBySide
from trimtab.evaluate.report import ReportData, RoundPoint, Transfer
from trimtab.evaluate.words import (
    ACCURACY_HEADER,
    COST_HEADER,
    DIFFERENCE_HEADER,
    SEED_HEADER,
    accuracy_rows,
    category_header,
    category_rows,
    cost_rows,
    counts_sentence,
    difference_rows,
    headline,
    label,
    number,
    percent,
    seed_rows,
    shown_label,
    usage_sentence,
    verdicts,
)
from trimtab.types import Verdict

COST_NOTE = (
    "Training $ is what the black box and the judge were paid for; the adapter itself trains on one machine. "
    "A dash: no price is known. Dollars of recorded answers are estimated from their length; a search draws "
    "as many complete answers as its tokens would make."
)
SEED_NOTE = "The spread is the standard deviation over seeds. Intervals above resample questions, not seeds."


def page(data: ReportData) -> str:
    """The whole page; the same data give the same bytes."""
    frame = Template(files("trimtab.evaluate").joinpath("page.html").read_text(encoding="utf-8"))
    comparison = data.comparison
    return frame.substitute(
        title=escape(data.title),
        headline=_words(headline(comparison)),
        verdicts=_list(verdicts(comparison)),
        tiles=_tiles(comparison),
        sections="\n".join(_sections(data)),
        counts=escape(counts_sentence(comparison)),
        usage=escape(usage_sentence(comparison)),
    )


def _sections(data: ReportData) -> Iterable[str]:
    comparison = data.comparison
    yield _section("What came out", f'<div class="plots">{"".join(_figures(comparison, data.rounds))}</div>')
    yield _section("The numbers", _tables(comparison))
    yield _titled("Accuracy and cost", COST_HEADER, cost_rows(comparison, data.training_usd), COST_NOTE)
    yield _titled("By category", category_header(comparison), category_rows(comparison))
    yield _titled("By seed", SEED_HEADER, seed_rows(comparison), SEED_NOTE)
    for index, transfer in enumerate(data.transfers):
        yield _section(f"The same adapter before {transfer.black_box}", _transfer(transfer, index))
    yield _examples("Mended: the vote was wrong, the adapter is right", comparison.mended)
    yield _examples("Still wrong, though a right answer was drawn", comparison.worst)
    if data.next_steps:
        yield _section("What to type next", _card(f"<pre>{escape(data.next_steps.strip())}</pre>"))
    about = {"black box": data.black_box, **data.about}
    yield _section("How this was made", _card(_table((), about.items(), "about")))


def _titled(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], note: str = "") -> str:
    """A section with one table; nothing without rows."""
    below = f'<p class="note">{escape(note)}</p>' if note else ""
    return _section(title, _card(_table(header, rows) + below)) if rows else ""


def _section(title: str, body: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>"


def _words(sentence: str) -> str:
    """The sentence escaped, its percentages kept on one line."""
    return escape(sentence).replace(" %", "&nbsp;%")


def _card(body: str) -> str:
    return f'<div class="card">{body}</div>'


def _list(sentences: Sequence[str]) -> str:
    items = "".join(f"<li>{_words(sentence)}</li>" for sentence in sentences)
    return f'<ul class="verdicts">{items}</ul>' if items else ""


def _tiles(comparison: Comparison) -> str:
    shown = dict.fromkeys((SINGLE, MAJORITY, comparison.decided_by, ORACLE))
    return f'<div class="tiles">{"".join(_tile(comparison, method) for method in shown)}</div>'


def _tile(comparison: Comparison, method: str) -> str:
    reached = comparison.accuracy[method]
    decided = " decided" if method == comparison.decided_by else ""
    interval = f"{percent(reached.low)} to {percent(reached.high)}"
    return (
        f'<div class="tile{decided}"><b>{percent(reached.value)}</b>'
        f"<span>{escape(label(method))}</span><span>{interval}</span></div>"
    )


# --------------------------------------------------------------------------- plots and tables


def _figures(comparison: Comparison, rounds: Sequence[RoundPoint]) -> Iterable[str]:
    yield _figure(
        "Accuracy by method",
        plots.accuracy_plot(comparison.accuracy),
        _accuracy_caption(comparison),
    )
    if rounds:
        curves = {method: [point.accuracy[method] for point in rounds] for method in rounds[0].accuracy}
        yield _figure(
            "Round by round",
            plots.rounds_plot([point.round for point in rounds], curves),
            "Accuracy on held-out questions after each round of adaptation.",
        )
    if len(comparison.budget.draws) > 1:
        yield _budget_figure(comparison)
    if comparison.calibration:
        yield _figure(
            "Is its confidence honest?",
            plots.reliability_plot(comparison.calibration),
            f"Expected calibration error {comparison.calibration.ece:.3f}; larger dots hold more decisions.",
        )
    if comparison.risk and len(comparison.risk.coverage) > 1:
        yield _figure(
            "If it only answers when sure",
            plots.risk_plot(comparison.risk, comparison.decided_by),
            "Share right of the surest questions, as more of them are answered.",
        )
    if comparison.scores:
        yield _figure("Scores", plots.scores_plot(comparison.scores), _scores_caption(comparison))


def _budget_figure(comparison: Comparison) -> str:
    if not comparison.costs:
        caption = "Accuracy when only some of the draws are used."
        return _figure("What more draws buy", plots.budget_plot(comparison.budget), caption)
    in_usd = plots.has_prices(comparison)
    title = "Accuracy against cost" if in_usd else "What more draws buy"
    caption = "Lines: some of the same draws, then all. Single marks: methods with a budget of their own."
    return _figure(title, plots.cost_plot(comparison), caption)


def _accuracy_caption(comparison: Comparison) -> str:
    own = f", except {label(BEAM_SEARCH)}, which makes its own" if BEAM_SEARCH in comparison.accuracy else ""
    return f"Share of the asked questions answered right, with 95 % intervals. All use the same draws{own}."


def _scores_caption(comparison: Comparison) -> str:
    pairwise = comparison.scores.pairwise_accuracy if comparison.scores else None
    if pairwise is None:
        return "Scores of all drawn answers."
    return f"Within a question a right answer outscores a wrong one {percent(pairwise)} of the time."


def _figure(title: str, svg: str, caption: str) -> str:
    return f"<figure><h3>{escape(title)}</h3>{svg}<figcaption>{escape(caption)}</figcaption></figure>\n"


def _tables(comparison: Comparison) -> str:
    accuracy = _table(ACCURACY_HEADER, accuracy_rows(comparison))
    differences = _table(DIFFERENCE_HEADER, difference_rows(comparison))
    note = '<p class="note">Differences are paired: the same questions, the same draws.</p>'
    return f'<div class="tables">{_card(accuracy)}{_card(differences + note)}</div>'


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    head = "<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in header) + "</tr>" if header else ""
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table class="{kind}">{head}{body}</table></div>'


def _transfer(transfer: Transfer, index: int) -> str:
    comparison = transfer.comparison
    figure = _figure(
        "Accuracy by method",
        plots.accuracy_plot(comparison.accuracy, f"transfer{index}"),
        "Nothing was trained again.",
    )
    table = _card(_table(DIFFERENCE_HEADER, difference_rows(comparison)))
    lines = f"<p>{_words(headline(comparison))}</p>{_list(verdicts(comparison))}"
    return f'{lines}<div class="tables">{figure}{table}</div>'


# --------------------------------------------------------------------------- examples


def _examples(title: str, pairs: Sequence[SideBySide]) -> str:
    if not pairs:
        return ""
    return _section(title, "".join(_example(pair, is_open=index == 0) for index, pair in enumerate(pairs)))


def _example(pair: SideBySide, *, is_open: bool) -> str:
    opened = " open" if is_open else ""
    reference = f'<p class="note">Reference: {escape(pair.reference)}</p>' if pair.reference else ""
    return (
        f'<details class="card"{opened}><summary>{escape(_opening(pair.question))}</summary>'
        f'<div class="example"><p class="question">{escape(pair.question)}</p>{reference}'
        f'<div class="sides">{_side(pair.left)}{_side(pair.right)}</div></div></details>\n'
    )


def _opening(text: str, most: int = 90) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1].rstrip(" .,;:") + "…"


def _side(shown: Shown) -> str:
    kind = "right" if shown.verdict is Verdict.RIGHT else "wrong"
    facts = [shown_label(shown.method), str(shown.verdict), *_numbers(shown)]
    return (
        f'<div class="side {kind}"><div class="verdict">{_words(" · ".join(facts))}</div>'
        f'<div class="text">{escape(shown.text.strip())}</div></div>'
    )


def _numbers(shown: Shown) -> Iterable[str]:
    if shown.score is not None:
        yield f"score {number(shown.score)}"
    if shown.confidence is not None:
        yield f"confidence {percent(shown.confidence)}"
