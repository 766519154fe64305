"""The report on disk: report.json, report.md, a self-contained report.html, and the outcomes beside them.

Each is written whole or not at all.

What is measured comes from `compare`; the page's markup stands in `page`, its sentences in `words`.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trimtab.evaluate.comparison import Comparison, SideBySide
from trimtab.evaluate.intervals import Estimate, wilson_interval
from trimtab.evaluate.results import RESULTS_NAME, results_text
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
    estimate_words,
    headline,
    label,
    seed_rows,
    shown_label,
    usage_sentence,
    verdicts,
)


@dataclass(frozen=True, slots=True)
class RoundPoint:
    """Held-out accuracy after one round of adaptation, by method."""

    round: int
    accuracy: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class Transfer:
    """The same adapter in front of another black box."""

    black_box: str
    comparison: Comparison


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything a report shows."""

    title: str
    comparison: Comparison
    black_box: str
    rounds: tuple[RoundPoint, ...] = ()
    transfers: tuple[Transfer, ...] = ()
    about: Mapping[str, str] = field(default_factory=dict)  # settings and provenance, as name and value
    next_steps: str = ""  # what to type next, as plain lines
    training_usd: float | None = None  # what the adapter's training was paid; None where it is not known


def rounds_of(metrics: Mapping[str, Any]) -> tuple[RoundPoint, ...]:
    """The rounds that an adapter's metrics tell of, with Wilson's intervals; none for a single one."""
    asked, rounds = metrics.get("dev_questions"), metrics.get("rounds")
    if not isinstance(asked, int) or asked < 1 or not isinstance(rounds, list) or len(rounds) < 2:
        return ()
    shown = {"majority": "majority", "best_of_n": "best_of_n", "chosen": "weighted_vote"}
    return tuple(
        RoundPoint(
            each["round"],
            {method: _of_share(each[name], asked) for name, method in shown.items() if name in each},
        )
        for each in rounds
    )


def _of_share(share: float, asked: int) -> Estimate:
    return Estimate(share, *wilson_interval(round(share * asked), asked))


def write_report(folder: Path, data: ReportData) -> Path:
    """Writes the four files into `folder` (made if missing); returns the path of the page.

    Each file replaces an older one in one move, so that a reader never sees half of one.
    """
    from trimtab.evaluate.page import page  # it draws: matplotlib loads only when a report is written

    folder.mkdir(parents=True, exist_ok=True)
    written = {
        "report.json": json.dumps(report_json(data), indent=2, ensure_ascii=False) + "\n",
        "report.md": report_markdown(data),
        "report.html": page(data),
        RESULTS_NAME: results_text(data.comparison),
    }
    for name, text in written.items():
        _write_whole(folder / name, text)
    return folder / "report.html"


def _write_whole(path: Path, text: str) -> None:
    descriptor, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(unfinished).chmod(0o644)  # mkstemp's 0600 would keep colleagues from reading it
        Path(unfinished).replace(path)
    finally:
        Path(unfinished).unlink(missing_ok=True)


def report_json(data: ReportData) -> dict[str, Any]:
    """The comparison's own keys at the top, as `evaluate --json` prints them, then the report's."""
    return {
        **data.comparison.to_json(),
        "title": data.title,
        "black_box": data.black_box,
        "rounds": [
            {"round": point.round, "accuracy": {name: e.to_json() for name, e in point.accuracy.items()}}
            for point in data.rounds
        ],
        "transfers": [{"black_box": t.black_box, **t.comparison.to_json()} for t in data.transfers],
        "about": dict(data.about),
        "training_usd": data.training_usd,
    }


# --------------------------------------------------------------------------- Markdown


def report_markdown(data: ReportData) -> str:
    """The report as Markdown, for a terminal, a pull request or a model card."""
    comparison = data.comparison
    parts = [
        f"# {data.title}",
        headline(comparison),
        " ".join(verdicts(comparison)),
        table(ACCURACY_HEADER, accuracy_rows(comparison)),
        table(DIFFERENCE_HEADER, difference_rows(comparison)),
        f"{counts_sentence(comparison)} {usage_sentence(comparison)}",
        *_titled("Accuracy and cost", COST_HEADER, cost_rows(comparison, data.training_usd)),
        *_titled("By category", category_header(comparison), category_rows(comparison)),
        *_titled("By seed", SEED_HEADER, seed_rows(comparison)),
        *_rounds_section(data),
        *_transfer_sections(data),
        *_examples_section("Mended: the vote was wrong, the adapter right", comparison.mended),
        *_examples_section("Still wrong, though a right answer was drawn", comparison.worst),
        "## How this was made",
        table(("", ""), [("black box", data.black_box), *data.about.items()]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _titled(title: str, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    return [f"## {title}", table(header, rows)] if rows else []


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _rounds_section(data: ReportData) -> list[str]:
    if not data.rounds:
        return []
    methods = list(data.rounds[0].accuracy)
    rows = [(str(p.round), *(estimate_words(p.accuracy[m]) for m in methods)) for p in data.rounds]
    return ["## Rounds of adaptation (held-out)", table(("round", *map(label, methods)), rows)]


def _transfer_sections(data: ReportData) -> list[str]:
    return [
        text
        for transfer in data.transfers
        for text in (
            f"## The same adapter before {transfer.black_box}",
            headline(transfer.comparison),
            table(ACCURACY_HEADER, accuracy_rows(transfer.comparison)),
        )
    ]


def _examples_section(title: str, pairs: tuple[SideBySide, ...]) -> list[str]:
    if not pairs:
        return []
    return [f"## {title}", *(_example(pair) for pair in pairs)]


def _example(pair: SideBySide) -> str:
    sides = [f"{shown_label(s.method)} ({s.verdict}):\n{_fenced(s.text)}" for s in (pair.left, pair.right)]
    return "\n\n".join([f"### {pair.question_id}", _fenced(pair.question), *sides])


def _fenced(text: str) -> str:
    """The text in a fence longer than any run of backticks in it."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}text\n{text}\n{fence}"
