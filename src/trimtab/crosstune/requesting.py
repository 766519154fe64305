"""Requests to an LLM, many under way at once, and what comes of each.

What is asked stands in `wording` and `asking`; what is done with the replies in `asking` and `augmentation`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from trimtab.drawing import over_questions
from trimtab.errors import BudgetSpentError, LLMError, RefusedError
from trimtab.types import LLM, Completion, Prompt, Sampling, Usage

Text = str | tuple[str, str]
Report = Callable[[int, int], None]  # done, of how many

LABEL_TOKENS = 32  # room for a label and a few words around it; hidden reasoning has room of its own


@dataclass(frozen=True, slots=True)
class Request:
    """One request for texts, or for the label of one."""

    prompt: Prompt
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a request: a completion, or why there is none."""

    completion: Completion | None
    usage: Usage
    error: LLMError | None = None

    @property
    def text(self) -> str:
        """What was said; nothing where there is no completion."""
        return self.completion.text if self.completion else ""


async def all_asked(
    llm: LLM, requests: Sequence[Request], concurrency: int, report: Report = lambda done, total: None
) -> list[Reply]:
    """A reply a request, in their order; at most `concurrency` of them are under way.

    Raises:
        RefusedError: the key or the model name is at fault.
    """
    found: dict[int, Reply] = {}

    async def one(at: int) -> tuple[int, Reply]:
        return at, await _asked(llm, requests[at])

    async with aclosing(over_questions(range(len(requests)), one, concurrency=concurrency)) as ended:
        async for at, reply in ended:
            found[at] = reply
            report(len(found), len(requests))
    return [found[at] for at in range(len(requests))]


async def _asked(llm: LLM, request: Request) -> Reply:
    try:
        reply = await llm.complete(request.prompt, request.sampling)
    except LLMError as error:
        if isinstance(error, RefusedError) and error.is_of_all:
            raise
        return Reply(None, sum((call.usage for call in error.calls), Usage()), error)
    return Reply(reply.completions[0] if reply.completions else None, reply.usage)


def is_cut(replies: Sequence[Reply]) -> bool:
    """True where a limit was reached, or nothing was answered: asking on would be in vain."""
    errors = [reply.error for reply in replies]
    is_spent = any(isinstance(error, BudgetSpentError) for error in errors)
    return is_spent or (bool(errors) and None not in errors)


def refuse_outage(replies: Sequence[Reply]) -> None:
    """Raises the last failure where all requests failed, and none of them for want of money."""
    errors = [reply.error for reply in replies if reply.error is not None]
    if errors and len(errors) == len(replies) and not any(isinstance(e, BudgetSpentError) for e in errors):
        raise errors[-1]
