"""The nouns (frozen dataclasses) and the protocols that the rooms talk through.

Nothing here reads a file, calls a network or imports torch. Scores: higher is better, everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Protocol, runtime_checkable

# --------------------------------------------------------------------------- questions and answers


@dataclass(frozen=True, slots=True)
class Question:
    """One question, with whatever reference its row gave."""

    id: str
    text: str
    answer: str | None = None  # the reference final answer, as written in the row
    rationale: str | None = None  # a reference solution
    choices: tuple[str, ...] = ()
    correct_answers: tuple[str, ...] = ()
    incorrect_answers: tuple[str, ...] = ()

    @property
    def with_choices(self) -> str:
        """The text followed by its lettered choices: what an encoder or a judge reads."""
        lettered = [f"({chr(ord('A') + index)}) {choice}" for index, choice in enumerate(self.choices)]
        return "\n".join([self.text, *lettered])


@dataclass(frozen=True, slots=True)
class Sample:
    """One recorded answer of a black box."""

    text: str
    correct: bool | None = None  # the source's own label, if it gave one
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """A question and the answers that were recorded for it, in the order drawn."""

    question: Question
    samples: tuple[Sample, ...]


class Verdict(StrEnum):
    """What a task or judge says of one complete answer."""

    RIGHT = "right"
    WRONG = "wrong"
    UNREADABLE = "unreadable"  # no final answer could be read
    UNJUDGED = "unjudged"  # there is no reference to judge by


@dataclass(frozen=True, slots=True)
class Candidate:
    """One complete answer under consideration."""

    text: str
    answer: str | None  # canonical final answer: equal strings mean the same answer; None = unreadable
    score: float | None = None  # g(question, text); None = not scored
    confidence: float | None = None  # calibrated P(correct) of this candidate alone
    verdict: Verdict = Verdict.UNJUDGED


@dataclass(frozen=True, slots=True)
class Pool:
    """One question and the complete answers at hand for it, in the order drawn.

    No candidates means that the question failed; it stays in every denominator.
    """

    question: Question
    candidates: tuple[Candidate, ...]
    usage: Usage = field(default_factory=lambda: Usage())


class AnswerStatus(StrEnum):
    """How one asked question ended; asked = the sum over all four."""

    ANSWERED = "answered"
    UNREADABLE = "unreadable"
    FAILED = "failed"
    ABSTAINED = "abstained"


@dataclass(frozen=True, slots=True)
class Usage:
    """What calls cost. Adds up with +."""

    input_tokens: int = 0
    output_tokens: int = 0
    calls: int = 0
    usd: float | None = None  # None = price unknown, of these calls or of some of them

    def __add__(self, other: Usage) -> Usage:
        priced = [each.usd for each in (self, other) if each.calls or each.usd is not None]
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.calls + other.calls,
            None if None in priced or not priced else sum(usd for usd in priced if usd is not None),
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What a user gets for one question."""

    id: str
    text: str
    answer: str | None
    score: float | None
    confidence: float | None  # P(the chosen answer is right), as far as known (stopping.Decision)
    candidates: int  # complete answers drawn
    usage: Usage
    status: AnswerStatus
    error: str | None = None  # why it failed, in one line


# --------------------------------------------------------------------------- calling the black box


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is sent to the black box."""

    messages: tuple[Message, ...]
    question_id: str | None = None  # never sent; lets recorded answers be found


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are drawn. `seed` also identifies the draws: another seed asks for other draws."""

    n: int = 1
    temperature: float | None = 1.0  # None = leave it out
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """One continuation drawn from the black box (the stop sequence itself is not part of it)."""

    text: str
    finish: Literal["stop", "length"] = "stop"


@dataclass(frozen=True, slots=True)
class Completions:
    """The answer to one call."""

    completions: tuple[Completion, ...]
    usage: Usage
    model: str


class LLM(Protocol):
    """A language model that can only be called."""

    @property
    def name(self) -> str:
        """The model's name, as recorded in stores and adapters."""
        ...

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """`sampling.n` completions of the prompt, with usage. Raises LLMError."""
        ...


class ResponseStore(Protocol):
    """Where paid responses are kept before they are used."""

    def kept(self, key: str) -> Completions | None:
        """The response kept under this key, if any."""
        ...

    def keep(self, key: str, completions: Completions) -> None:
        """Keep a response durably; keeping the same key twice is harmless."""
        ...


# --------------------------------------------------------------------------- tasks


@runtime_checkable
class Task(Protocol):
    """What a question means: prompt, steps, final answer, verdict. Yours by implementing this."""

    @property
    def name(self) -> str:
        """The name under which the task is recorded in adapters and found again."""
        ...

    @property
    def is_comparable(self) -> bool:
        """True when final answers can be compared, so that a vote means something."""
        ...

    @property
    def step_stops(self) -> tuple[str, ...]:
        """Stop sequences that end one step when sampling step by step."""
        ...

    def prompt(self, question: Question, chain: str = "") -> Prompt:
        """The prompt; `chain` is the answer so far and travels in the user turn."""
        ...

    def steps(self, text: str) -> tuple[str, ...]:
        """The steps of an answer; joined without a separator they are the text again."""
        ...

    def is_finished(self, chain: str) -> bool:
        """True when the chain states its final answer."""
        ...

    def final_answer(self, question: Question, text: str) -> str | None:
        """The canonical final answer, or None when none can be read."""
        ...

    def verdict(self, question: Question, text: str) -> Verdict:
        """What the reference says of this answer (UNJUDGED without a usable reference)."""
        ...


# --------------------------------------------------------------------------- scoring, judging, learning


class Scorer(Protocol):
    """g(question, text): higher is better."""

    def score(self, question: str, texts: Sequence[str]) -> list[float]:
        """One score a text, in order."""
        ...

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """One score a (question, text) pair, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Judgement:
    """SEL's decision on one question's candidates (Eq. 5)."""

    question_id: str
    positives: tuple[int, ...]  # indices of selected candidates
    negatives: tuple[int, ...]  # indices of candidates held against them (others are left out)
    source: str  # "ground_truth", "ai", "human", "combined"
    extra_positives: tuple[str, ...] = ()  # texts beyond the candidates: reference solutions, corrections
    unreadable: int = 0  # judge replies that could not be read, retries included
    usage: Usage = field(default_factory=Usage)


class Judge(Protocol):
    """SEL: says which candidates are positives."""

    @property
    def name(self) -> str:
        """What is recorded as the judgement's source."""
        ...

    async def judge(self, question: Question, candidates: Sequence[Candidate]) -> Judgement:
        """Judgement on these candidates, in their order. Raises LLMError."""
        ...


@dataclass(frozen=True, slots=True)
class Contrast:
    """A training unit: one question, answers for it and answers against it. No side is empty."""

    question_id: str
    question: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PrefixTarget:
    """A partial chain and how the complete chains that continue it turned out."""

    question_id: str
    question: str
    prefix: str
    value: float  # mean outcome in [0, 1]
    weight: int = 1  # how many completions the mean is over
