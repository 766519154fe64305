"""Laws of the report: whole files, nothing fetched, everything escaped, the same data the same bytes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from trimtab.evaluate import Comparison, Estimate, ReportData, RoundPoint, Transfer, compare, write_report
from trimtab.evaluate.page import page
from trimtab.evaluate.plots import accuracy_plot, budget_plot, reliability_plot, rounds_plot, scores_plot
from trimtab.evaluate.report import report_json, report_markdown
from trimtab.evaluate.words import accuracy_rows, headline, verdicts
from trimtab.stopping import DecisionRule
from trimtab.types import Candidate, Pool, Question, Verdict

pytestmark = pytest.mark.slow

HOSTILE = "<script>alert('x')</script> & \"quoted\" $headline ```\n| pipe"


def drawn(answer: str, score: float) -> Candidate:
    verdict = Verdict.RIGHT if answer == "7" else Verdict.WRONG
    return Candidate(f"{HOSTILE}\nThe answer is {answer}.", answer, score, verdict=verdict)


def compared(questions: int = 12) -> Comparison:
    pools = [
        Pool(
            Question(f"q{index}", f"{HOSTILE} {index}", "7"),
            (drawn("8", -1.0), drawn("8", -1.5), drawn("7" if index % 4 else "9", 2.0), drawn("7", -3.0)),
        )
        for index in range(questions)
    ]
    return compare(pools, DecisionRule("weighted_vote", 0.5))


@pytest.fixture(scope="module")
def data() -> ReportData:
    comparison = compared()
    point = Estimate(0.5, 0.4, 0.6)
    rounds = tuple(RoundPoint(number, {"majority": point, "weighted_vote": point}) for number in (0, 1, 2))
    return ReportData(
        title=f"A title {HOSTILE}",
        comparison=comparison,
        black_box="scripted",
        rounds=rounds,
        transfers=(Transfer(f"another {HOSTILE}", compared(5)),),
        about={"seed": "0", HOSTILE: HOSTILE},
        next_steps=f"trimtab adapt --model {HOSTILE}",
    )


@pytest.fixture(scope="module")
def html(data: ReportData) -> str:
    return page(data)


class _Reader(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")
        ]
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(html: str) -> _Reader:
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader


def test_the_page_fetches_nothing_and_runs_nothing(html: str) -> None:
    reader = read(html)
    assert all(link.startswith("#") or link == "data:," for link in reader.links)
    assert not {"script", "img", "iframe", "object"} & set(reader.tags)
    assert not re.search(r"@import|url\((?!#)", html)


def test_every_tag_is_closed_and_every_id_is_used_once(html: str) -> None:
    reader = read(html)
    assert reader.open == []
    assert len(reader.ids) == len(set(reader.ids))
    assert {link[1:] for link in reader.links if link.startswith("#")} <= set(reader.ids)


def test_texts_of_users_and_models_stand_escaped(html: str) -> None:
    assert "<script>" not in html
    assert html.count("&lt;script&gt;") > 8


def test_the_page_says_what_came_out_and_what_to_type_next(html: str, data: ReportData) -> None:
    assert headline(data.comparison).replace(" %", "&nbsp;%") in html
    assert "trimtab adapt --model" in html
    assert "The same adapter before another" in html
    for section in ("Round by round", "What more draws buy", "Is its confidence honest?", "Scores", "Mended"):
        assert section in html


def test_a_report_without_rounds_scores_or_transfer_has_no_empty_sections() -> None:
    pools = [Pool(Question("q", "Why?", "7"), (replace(drawn("7", 0.0), score=None),))]
    html = page(ReportData("Bare", compare(pools, DecisionRule("majority")), "recorded"))
    assert read(html).open == []
    for section in (
        "Round by round",
        "Scores",
        "Mended",
        "What to type next",
        "The same adapter",
    ):
        assert section not in html


def test_colours_come_from_the_page_so_that_dark_and_light_both_work(html: str) -> None:
    drawings = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))
    assert not re.search(r"(fill|stroke): #", drawings)
    used = set(re.findall(r"var\((--\w+)\)", drawings))
    light, dark = html.split("@media screen and (prefers-color-scheme: dark)")
    assert used
    assert all(f"{name}:" in light and f"{name}:" in dark.split("}")[0] for name in used)


def test_the_same_data_give_the_same_bytes(data: ReportData, html: str) -> None:
    assert page(data) == html


def test_every_plot_is_well_formed_and_says_in_words_what_it_shows(data: ReportData) -> None:
    comparison = data.comparison
    assert comparison.calibration is not None
    assert comparison.scores is not None
    drawings = [
        accuracy_plot({**comparison.accuracy, 'a "new" <method>': Estimate(0.5, 0.4, 0.6)}),
        budget_plot(comparison.budget),
        reliability_plot(comparison.calibration),
        rounds_plot([0, 1], {"majority": [Estimate(0, 0, 0.1), Estimate(1, 0.9, 1)]}),
        scores_plot(comparison.scores),
    ]
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        assert root.get("aria-label")
        assert root.get("viewBox")


def test_the_files_are_written_and_the_older_ones_replaced(tmp_path: Path, data: ReportData) -> None:
    folder = tmp_path / "adapters" / "demo"
    folder.mkdir(parents=True)
    (folder / "report.html").write_text("old")
    assert write_report(folder, data) == folder / "report.html"
    assert sorted(path.name for path in folder.iterdir()) == [
        "report.html",
        "report.json",
        "report.md",
        "results.jsonl",
    ]
    assert (folder / "report.html").read_text(encoding="utf-8") == page(data)
    assert json.loads((folder / "report.json").read_text(encoding="utf-8")) == report_json(data)


def test_the_report_json_opens_with_the_keys_that_evaluate_prints(data: ReportData) -> None:
    written, printed = report_json(data), data.comparison.to_json()
    assert list(written)[: len(printed)] == list(printed)
    assert {name: written[name] for name in printed} == printed
    assert [each["round"] for each in written["rounds"]] == [0, 1, 2]


def test_the_markdown_keeps_tables_and_fences_whole(data: ReportData) -> None:
    text = report_markdown(data)
    rows = [line for line in text.splitlines() if line.startswith("| single draw |")]
    assert len(rows) == 2
    assert "````text" in text
    assert text.count("````") % 2 == 0


def test_the_words_claim_a_gain_only_where_the_interval_is_clear_of_zero() -> None:
    clear = verdicts(compared(60))
    unclear = verdicts(compared(2))
    assert clear[1].startswith("Against the majority vote of the same draws: 75.0 points more")
    assert clear[1].endswith("clear of chance.")
    assert ", not clear of chance on this many questions" in unclear[1]


def test_the_rows_name_every_method_once() -> None:
    comparison = compared()
    names = [name for name, *_ in accuracy_rows(comparison)]
    assert names == [
        "single draw",
        "majority vote",
        "best of n by score",
        "score-weighted vote",
        "any draw right",
    ]
