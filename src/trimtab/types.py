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
    spared: int = 0  # draws of the full budget that were not needed (stop when sure)


# --------------------------------------------------------------------------- calling the black box


class Purpose(StrEnum):
    """What a call is for: the column of the ledger it is summed in."""

    SAMPLING = "sampling"
    JUDGING = "judging"
    AUGMENTATION = "augmentation"


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
    purpose: Purpose = Purpose.SAMPLING  # never sent; what the ledger says the call was for


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are drawn. `seed` also identifies the draws: another seed asks for other draws.

    A request's draws are numbered from `start`: n=3, start=5 asks for draws 5, 6 and 7 of those that
    n=8, start=0 asks for.
    """

    n: int = 1
    temperature: float | None = 1.0  # None = leave it out
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    seed: int | None = None
    start: int = 0  # never sent; number of the first draw asked for


@dataclass(frozen=True, slots=True)
class Completion:
    """One continuation drawn from the black box (the stop sequence itself is not part of it)."""

    text: str
    finish: Literal["stop", "length"] = "stop"


class Outcome(StrEnum):
    """How one HTTP request ended, as far as money goes."""

    PAID = "paid"  # answered; its usage is what the endpoint reported (or, unreported, the worst case)
    UNPAID = "unpaid"  # refused, or failed in a way that nobody bills
    UNCERTAIN = "uncertain"  # no readable answer came, and it may have been billed: counted at its worst case


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request to a black box: a line of the ledger."""

    id: str  # unique, made by the client
    purpose: Purpose
    model: str
    endpoint: str  # base URL without credentials
    payer: str  # name of the environment variable that holds the key; never the key
    outcome: Outcome
    usage: Usage  # what is charged for it; usage.calls is 1, or 0 where the outcome is UNPAID
    seconds: float
    started_at: float  # seconds since the epoch
    attempt: int = 0  # how many attempts of the same request came before
    n: int = 1  # completions asked for
    status: int | None = None  # of HTTP
    request_id: str | None = None
    error: str = ""  # one line, free of secrets
    is_batch: bool = False  # at batch prices


@dataclass(frozen=True, slots=True)
class Completions:
    """The answer to one request, and the calls that it took."""

    completions: tuple[Completion, ...]
    usage: Usage  # the sum over `calls`, where there are any
    model: str
    calls: tuple[Call, ...] = ()  # failed attempts included; empty where nothing was asked of an endpoint


class LLM(Protocol):
    """A language model that can only be called."""

    @property
    def name(self) -> str:
        """The model's name, as recorded in stores and adapters."""
        ...

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """`sampling.n` completions of the prompt, with usage. Raises LLMError."""
        ...


@dataclass(frozen=True, slots=True)
class Draws:
    """Some draws of a request: numbers `start` to `start + n`."""

    key: str  # of the request, whatever draws of it are asked for
    start: int
    n: int


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of asking for some draws: completions number `start` and on, and the calls it took.

    A failed request has calls and no completions.
    """

    key: str
    start: int
    model: str
    completions: tuple[Completion, ...]
    calls: tuple[Call, ...]


class SampleStore(Protocol):
    """Where paid draws are kept before they are used, together with the calls that paid for them.

    Both methods take many at once, because one transaction costs as much as a hundred rows.
    """

    def kept(self, wanted: Sequence[Draws]) -> list[dict[int, Completion]]:
        """For each of the wanted, those of its draws that are kept, by number."""
        ...

    def keep(self, replies: Sequence[Reply]) -> None:
        """Keep replies durably; a draw or a call that is there already stays as it is."""
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
