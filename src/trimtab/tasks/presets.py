"""The tasks that ship, by function, by name, and inferred from reference answers."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence

from trimtab.errors import ConfigError
from trimtab.tasks import booleans, choices, dates, numbers, prompting, splitting, wording
from trimtab.tasks.prompting import FewShot
from trimtab.tasks.referenced import ReferencedTask
from trimtab.types import Question, Task

CHOICE_STATED = re.compile(r"\banswer is:?\s{0,3}\*{0,2}\(?[A-J]\b", re.IGNORECASE)
HOUSE_STATED = re.compile(r"^[ \t]*The answer is [^\n]{0,40}?[0-9]", re.MULTILINE)


def numeric() -> ReferencedTask:
    """A number; equal values are equal answers however they are written."""
    return _numeric("numeric", prompting.NUMERIC)


def gsm8k() -> ReferencedTask:
    """Grade-school word problems (GSM8K)."""
    return _numeric("gsm8k", prompting.GSM8K)


def boolean() -> ReferencedTask:
    """Yes or no; true and false are read as such."""
    return _boolean("boolean", prompting.BOOLEAN)


def strategyqa() -> ReferencedTask:
    """Yes-or-no questions that need several facts (StrategyQA)."""
    return _boolean("strategyqa", prompting.STRATEGYQA)


def choice() -> ReferencedTask:
    """One of the question's choices, named by letter or by text."""
    return _choice("choice", prompting.CHOICE)


def scienceqa() -> ReferencedTask:
    """School science with choices (ScienceQA)."""
    return _choice("scienceqa", prompting.SCIENCEQA)


def date() -> ReferencedTask:
    """A calendar date; canonical form MM/DD/YYYY."""
    return ReferencedTask(
        "date",
        prompting.DATE,
        read=_of_text(dates.final_date),
        refer=_of_text(lambda text: dates.whole_date(text) or dates.final_date(text)),
        states=lambda chain: dates.stated_date(chain) is not None,
        split=splitting.sentences,
    )


def exact() -> ReferencedTask:
    """Short text that must equal a reference, case and outer punctuation aside."""
    return ReferencedTask(
        "exact",
        prompting.EXACT,
        read=_of_text(wording.final_wording),
        refer=_of_text(wording.normalised),
        states=lambda chain: wording.stated_wording(chain) is not None,
        split=splitting.sentences,
    )


def free_text() -> ReferencedTask:
    """A sentence; only a judge can say whether it is right unless it equals a reference."""
    return _free_text("free_text", prompting.FREE_TEXT)


def truthfulqa() -> ReferencedTask:
    """Questions on which people are often wrong (TruthfulQA); needs a judge."""
    return _free_text("truthfulqa", prompting.TRUTHFULQA)


def house() -> ReferencedTask:
    """The embedded black box: a step is a line, the last line is 'The answer is N.'."""
    return ReferencedTask(
        "house",
        prompting.bare_lines,
        read=_of_text(lambda text: numbers.stated_number(text) if _house_states(text) else None),
        refer=_of_text(numbers.final_number),
        states=_house_states,
        split=splitting.lines,
    )


PRESETS: dict[str, Callable[[], ReferencedTask]] = {
    make.__name__: make
    for make in (
        numeric,
        boolean,
        choice,
        date,
        exact,
        free_text,
        house,
        gsm8k,
        strategyqa,
        truthfulqa,
        scienceqa,
    )
}


def by_name(name: str) -> Task:
    """The task that ships under this name.

    Raises:
        ConfigError: no task has this name.
    """
    make = PRESETS.get(name)
    if make is None:
        raise ConfigError(_unknown(name))
    return make()


def infer(questions: Iterable[Question]) -> Task:
    """The task that all reference answers fit: choice, boolean, date, numeric, free text, else exact.

    Questions without any reference are passed over. Free text is inferred where the references are lists of
    right and wrong answers rather than one answer.

    Raises:
        ConfigError: no question has a reference answer.
    """
    questions = [
        question for question in questions if question.answer is not None or question.correct_answers
    ]
    answers = [question.answer for question in questions if question.answer is not None]
    if not questions:
        raise ConfigError(
            "The task cannot be inferred: no question has a reference answer. Name it with --task or task ="
            f" in trimtab.toml, one of {', '.join(PRESETS)}."
        )
    if all(question.choices for question in questions):
        return choice()
    return _of_answers(answers) if answers else free_text()


def _of_answers(answers: Sequence[str]) -> Task:
    kinds = ((booleans.whole_boolean, boolean), (dates.whole_date, date), (numbers.whole_number, numeric))
    for whole, make in kinds:
        if all(whole(answer) is not None for answer in answers):
            return make()
    return exact()


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, PRESETS, n=1)
    meant = f" Did you mean {close[0]!r}?" if close else ""
    return f"No task is named {name!r}.{meant} The tasks are {', '.join(PRESETS)}."


def _of_text(read: Callable[[str], str | None]) -> Callable[[Question, str], str | None]:
    return lambda question, text: read(text)


def _house_states(chain: str) -> bool:
    return HOUSE_STATED.search(chain) is not None


def _numeric(name: str, few_shot: FewShot) -> ReferencedTask:
    return ReferencedTask(
        name,
        few_shot,
        read=_of_text(numbers.final_number),
        refer=_of_text(numbers.final_number),
        states=lambda chain: numbers.stated_number(chain) is not None,
        split=splitting.sentences,
    )


def _boolean(name: str, few_shot: FewShot) -> ReferencedTask:
    return ReferencedTask(
        name,
        few_shot,
        read=_of_text(booleans.final_boolean),
        refer=_of_text(lambda text: booleans.whole_boolean(text) or booleans.final_boolean(text)),
        states=lambda chain: booleans.stated_boolean(chain) is not None,
        split=splitting.sentences,
    )


def _choice(name: str, few_shot: FewShot) -> ReferencedTask:
    return ReferencedTask(
        name,
        few_shot,
        read=lambda question, text: choices.final_choice(question.choices, text),
        refer=lambda question, text: choices.named_choice(question.choices, text),
        states=lambda chain: CHOICE_STATED.search(chain) is not None,
        split=splitting.sentences,
    )


def _free_text(name: str, few_shot: FewShot) -> ReferencedTask:
    return ReferencedTask(
        name,
        few_shot,
        read=_of_text(wording.final_text),
        refer=_of_text(wording.normalised),
        states=lambda chain: wording.stated_wording(chain) is not None,
        split=splitting.sentences,
        is_comparable=False,
    )
