"""The LLM itself as a classifier: shown what the labels mean, and shots or none, it is asked for each text.

What is asked, and how a reply is read into a label; requests are sent by `requesting`. A text whose question
failed, or whose reply names no label, has none: it counts as wrong and is never left out.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from trimtab.crosstune.requesting import LABEL_TOKENS, Reply, Report, Request, Text, all_asked, refuse_outage
from trimtab.crosstune.rows import LabelledText, Labels
from trimtab.crosstune.wording import ANSWER, LABELLER, folded, label_in, named, one_line
from trimtab.errors import BudgetSpentError, LLMError
from trimtab.types import LLM, AnswerStatus, Message, Prompt, Sampling, Usage

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LETTER = re.compile(r"^\W*(?:option\s+)?\W*([A-Za-z])\W*$|^\W*([A-Za-z])[).:]\s")


@dataclass(frozen=True, slots=True)
class AskSettings:
    """How labels are asked for."""

    shots_a_label: int = 4  # shown with every text; 0 asks zero-shot
    temperature: float | None = 0.0  # the likeliest label; None leaves it out
    max_tokens: int = LABEL_TOKENS
    seed: int = 0
    concurrency: int = 20


@dataclass(frozen=True, slots=True)
class Said:
    """What the LLM says of one text."""

    label: str | None  # None: it failed, or cannot be read
    status: AnswerStatus
    usage: Usage = field(default_factory=Usage)  # of no call where the reply was kept, or is another's
    error: LLMError | None = None

    @property
    def is_unasked(self) -> bool:
        """True when a limit was reached before the question was put: the same run goes on from here."""
        return isinstance(self.error, BudgetSpentError)


# --------------------------------------------------------------------------- what is asked


def shown_shots(shots: Sequence[LabelledText], labels: Labels, how: AskSettings) -> tuple[LabelledText, ...]:
    """`how.shots_a_label` shots of each label, or all it has; drawn and ordered by the seed.

    They are the same for every text: what comes before the text is then always the same, and providers charge
    less for what they have read before.
    """
    rng = random.Random(how.seed)
    own = [[shot for shot in shots if shot.label == name] for name in labels.names]
    drawn = [shot for each in own for shot in rng.sample(each, min(how.shots_a_label, len(each)))]
    rng.shuffle(drawn)  # else the last label would stand next to every text
    return tuple(drawn)


def label_prompt(text: Text, labels: Labels, shown: Sequence[LabelledText] = ()) -> Prompt:
    """What asks for the label of a text; every label is described, of those shown the labels are told."""
    marks = marks_of(labels.names)
    listed = [
        f"{mark} {named(name, labels, whole=True)}" for mark, name in zip(marks, labels.names, strict=True)
    ]
    examples = [f"{one_line(each.text)}\nLabel: {each.label}" for each in shown]
    parts = [
        "The labels:\n" + "\n".join(listed),
        *(["Examples:", *examples] if examples else []),
        f"The text to label:\n{one_line(text)}\nLabel:",
    ]
    return Prompt((Message("system", LABELLER), Message("user", "\n\n".join(parts))))


def marks_of(names: Sequence[str]) -> list[str]:
    """What stands before each label: a letter; a dash where letters would run out or be taken for names."""
    if len(names) > len(LETTERS) or any(len(folded(name)) < 2 for name in names):
        return ["-"] * len(names)
    return [f"({letter})" for letter in LETTERS[: len(names)]]


# --------------------------------------------------------------------------- how it is read


def label_said(reply: str, names: Sequence[str]) -> str | None:
    """The label that a reply states, or None where it states none or leaves it open.

    Read are the names in any case, quoted or in a sentence that names only one (`label_in`), the letters of
    `marks_of`, and a last line that states one after others were weighed.
    """
    lines = [line for line in reply.splitlines() if line.strip()]
    last = lines[-1:] if len(lines) > 1 else []
    for said in (reply, *last):
        found = label_in(said, names) or _lettered(said, names)
        if found is not None:
            return found
    return None


def _lettered(said: str, names: Sequence[str]) -> str | None:
    """The label of the letter that is said, where the labels had letters."""
    match = _LETTER.match(ANSWER.split(said)[-1].strip())
    if match is None or marks_of(names)[0] == "-":
        return None
    at = LETTERS.index((match.group(1) or match.group(2)).upper())
    return names[at] if at < len(names) else None


# --------------------------------------------------------------------------- asking


async def ask_labels(
    llm: LLM,
    texts: Sequence[Text],
    labels: Labels,
    shots: Sequence[LabelledText] = (),
    how: AskSettings = AskSettings(),
    report: Report = lambda done, total: None,
) -> tuple[Said, ...]:
    """What the LLM says of each text, in their order; equal texts are asked once, by the first of them.

    Args:
        llm: any chat model.
        texts: to label.
        labels: there are, and what each means.
        shots: to show some of; without any, or with `how.shots_a_label` 0, it is asked zero-shot.
        how: it is asked.
        report: told how many texts have been asked.

    Raises:
        RefusedError: the key or the model is refused.
        LLMError: the last failure, where every question failed and none for want of money.
    """
    shown = shown_shots(shots, labels, how)
    sampling = Sampling(1, how.temperature, how.max_tokens, seed=how.seed)
    each = list(dict.fromkeys(texts))
    requests = [Request(label_prompt(text, labels, shown), sampling) for text in each]
    replies = await all_asked(llm, requests, how.concurrency, report)
    refuse_outage(replies)
    said = {text: _read(reply, labels.names) for text, reply in zip(each, replies, strict=True)}
    return tuple(_in_order(texts, said))


def _read(reply: Reply, names: Sequence[str]) -> Said:
    if reply.error is not None:
        return Said(None, AnswerStatus.FAILED, reply.usage, reply.error)
    label = label_said(reply.text, names)
    return Said(label, AnswerStatus.UNREADABLE if label is None else AnswerStatus.ANSWERED, reply.usage)


def _in_order(texts: Sequence[Text], found: dict[Text, Said]) -> list[Said]:
    """One a text; of equal texts the first has the cost."""
    first = {text: at for at, text in reversed(list(enumerate(texts)))}
    return [
        found[text] if first[text] == at else replace(found[text], usage=Usage())
        for at, text in enumerate(texts)
    ]
