"""A run without a black box: what it would ask, in the order and the words in which it would ask it.

The real code of drawing, searching and judging runs here against a model that answers at no cost: with
answers of the usual length, or with the longest there can be. What is kept in the store is found there, as in
the run itself. What all this comes to in tokens and dollars is `estimating`'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from trimtab.cli.client import transport_of
from trimtab.cli.settings import Settings, api_key
from trimtab.llm import Cached, Filled
from trimtab.llm.budget import worst_case
from trimtab.llm.cached import request_key
from trimtab.llm.capabilities import Capabilities, Learned
from trimtab.llm.prices import OPENAI_URL
from trimtab.store import Store
from trimtab.types import (
    LLM,
    Completion,
    Completions,
    Draws,
    Prompt,
    Purpose,
    Question,
    Reply,
    Sampling,
    Task,
    Usage,
)

JUDGES_REPLY = "BEST: A"
BYTES_A_TOKEN = 4.0  # of English, with the tokenisers of today's models
REASONED_SHARE = 0.25  # of the room for hidden reasoning, where it is not measured


def payer_scope(settings: Settings) -> str:
    """As the run's own cache has it; no key is needed to look there."""
    if api_key(settings) is None and settings.base_url is None:
        return OPENAI_URL
    return transport_of(settings).endpoint


@dataclass(frozen=True, slots=True)
class Asked:
    """One request that the run will pay for."""

    model: str
    purpose: Purpose
    is_whole: bool  # complete answers, which a batch can draw
    prompt_bytes: int
    reply_bytes: int
    n: int
    worst: Usage


@dataclass(frozen=True, slots=True)
class Seen:
    """One request, whether it will be paid for or is kept."""

    model: str
    purpose: Purpose
    is_whole: bool
    question_id: str | None
    prompt_bytes: int


class Replies(Protocol):
    """What the foreseen model says."""

    def whole(self, question_id: str | None, number: int) -> str:
        """A complete answer."""
        ...

    def step(self, question_id: str | None, number: int, steps_before: int) -> str:
        """The step after so many others."""
        ...

    def judging(self) -> str:
        """A judge's reply."""
        ...


class Usual:
    """Answers of the usual length.

    Args:
        known: such answers, of one question or another.
        own: those of questions that have some of their own.
        task: how they fall into steps.
    """

    def __init__(self, known: Sequence[str], own: Mapping[str, Sequence[str]], task: Task) -> None:
        self._known, self._own, self._task = known, own, task

    def whole(self, question_id: str | None, number: int) -> str:
        """A complete answer: the question's own while there are some; no other is given twice."""
        own = self._own.get(question_id or "", ())
        if number < len(own):
            return own[number]
        text = self._known[(_number_of(question_id) + number) % len(self._known)]
        return text if number < len(self._known) else f"{number} {text}"

    def step(self, question_id: str | None, number: int, steps_before: int) -> str:
        """The step after so many others. Each draw's is another one, until the last."""
        steps = self._task.steps(self.whole(question_id, 0))
        if steps_before >= len(steps) - 1:
            return steps[-1].strip()
        return f"{number} {steps[steps_before].strip()}"

    def judging(self) -> str:
        """A judge's reply that can be read."""
        return JUDGES_REPLY


class Longest:
    """The longest answers there can be, none of which ever ends or can be read: of one byte a token."""

    def __init__(self, whole_tokens: int, step_tokens: int) -> None:
        self._whole, self._step = whole_tokens, step_tokens

    def whole(self, question_id: str | None, number: int) -> str:
        """An answer as long as allowed."""
        return f"{number}".rjust(self._whole, "x")

    def step(self, question_id: str | None, number: int, steps_before: int) -> str:
        """A step as long as allowed."""
        return f"{number}".rjust(self._step, "x")

    def judging(self) -> str:
        """A reply that names nobody, so that the judge is asked again."""
        return "?"


def _number_of(question_id: str | None) -> int:
    """A number of the question's own, the same in every process."""
    return sum((question_id or "").encode("utf-8", "surrogatepass"))


class Unscored:
    """A scorer to whom all answers are equal."""

    def score(self, question: str, texts: Sequence[str]) -> list[float]:
        """Zeros."""
        return [0.0] * len(texts)

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Zeros."""
        return [0.0] * len(pairs)


class Foresight:
    """The models of a run that is only foreseen, and what is asked of them.

    Args:
        replies: what they say.
        store: where the kept draws are.
        task: whose prompts are noted, so that a reply can continue what was said before.
        model: the black box's name.
        row: what a model takes, by its name.
        scope: the endpoint, as the run's own cache has it.
        bypass: nothing that is kept is used.
    """

    def __init__(
        self,
        replies: Replies,
        store: Store,
        task: Task,
        *,
        model: str,
        row: Callable[[str], Capabilities],
        scope: str,
        bypass: bool = False,
    ) -> None:
        self.replies, self.model_name, self.scope = replies, model, scope
        self.task = cast("Task", _Noted(task))
        self.asked: list[Asked] = []
        self.seen: dict[str, Seen] = {}
        self._samples, self._row, self._bypass = ReadOnly(store), row, bypass

    def model(self, name: str | None = None) -> LLM:
        """The black box, or another model at the same endpoint."""
        name = name or self.model_name
        row = self._row(name)
        cached = Cached(_Foreseen(name, row, self), self._samples, scope=self.scope, bypass=self._bypass)
        return Filled(_Seeing(cached, self), capabilities=Learned(name, row))

    def steps_before(self, prompt: Prompt) -> int:
        """How many steps the chain in a prompt has."""
        chain = cast("Any", self.task).chains.get(prompt.messages, "")
        return len(self.task.steps(chain)) if chain else 0


class _Noted:
    """A task that remembers which chain stands in each of its prompts."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self.chains: dict[Any, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def prompt(self, question: Question, chain: str = "") -> Prompt:
        prompt = self._task.prompt(question, chain)
        if chain:
            self.chains[prompt.messages] = chain
        return prompt


@dataclass(frozen=True, slots=True)
class ReadOnly:
    """Kept draws, on nobody's account; what is foreseen is not kept."""

    store: Store

    def kept(self, wanted: Sequence[Draws]) -> list[dict[int, Completion]]:
        """The numbered draws of each request that are there already."""
        found: dict[str, dict[int, Completion]] = {}
        for draw in self.store.kept_draws([each.key for each in wanted]):
            found.setdefault(draw.key, {})[draw.number] = Completion(draw.text)
        ranges = [(each.key, range(each.start, each.start + each.n)) for each in wanted]
        return [{at: d for at, d in found.get(key, {}).items() if at in numbers} for key, numbers in ranges]

    def keep(self, replies: Sequence[Reply]) -> None:
        """Nothing was paid for."""


class _Seeing:
    """Notes every request, also those that the store answers."""

    def __init__(self, llm: LLM, foresight: Foresight) -> None:
        self._llm, self._foresight = llm, foresight

    @property
    def name(self) -> str:
        return self._llm.name

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        key = request_key(self.name, prompt, sampling, self._foresight.scope)
        is_whole = prompt.purpose is Purpose.SAMPLING and not sampling.stop
        size = bytes_of(prompt)
        self._foresight.seen[key] = Seen(self.name, prompt.purpose, is_whole, prompt.question_id, size)
        return await self._llm.complete(prompt, sampling)


class _Foreseen:
    """A model that notes what it is asked, and answers at no cost."""

    def __init__(self, name: str, row: Capabilities, foresight: Foresight) -> None:
        self.name, self._row, self._foresight = name, row, foresight

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        numbers = range(sampling.start, sampling.start + sampling.n)
        texts = [self._said(prompt, sampling, number) for number in numbers]
        most = sampling.max_tokens + self._row.reasoning_tokens
        self._foresight.asked.append(
            Asked(
                self.name,
                prompt.purpose,
                prompt.purpose is Purpose.SAMPLING and not sampling.stop,
                bytes_of(prompt),
                sum(len(text.encode("utf-8", "surrogatepass")) for text in texts),
                sampling.n,
                worst_case(prompt.messages, sampling.n, most),
            )
        )
        return Completions(tuple(Completion(text) for text in texts), Usage(), self.name)

    def _said(self, prompt: Prompt, sampling: Sampling, number: int) -> str:
        replies, asked = self._foresight.replies, prompt.question_id
        if prompt.purpose is not Purpose.SAMPLING:
            return replies.judging()
        if not sampling.stop:
            return replies.whole(asked, number)
        return replies.step(asked, number, self._foresight.steps_before(prompt))


def bytes_of(prompt: Prompt) -> int:
    """The length of a prompt's messages in UTF-8."""
    return sum(len(message.content.encode("utf-8", "surrogatepass")) for message in prompt.messages)
