"""One adapted answer: from a chat call to the chosen candidate, as `trimtab answer` would choose it.

The question is the last message, which must be the user's; what was said before is sent to the black box
ahead of the task's own prompt, and the adapter reads the question alone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from trimtab.data import question_hash
from trimtab.drawing import BeamSettings, Considered, Metered, Waves, considered
from trimtab.errors import LLMError
from trimtab.llm.stops import before_stop
from trimtab.serve.adapters import Served
from trimtab.serve.errors import ApiError
from trimtab.serve.upstream import Preceded, Upstream, worst_of
from trimtab.serve.wire import ChatCall, Own, completion
from trimtab.stopping import decide
from trimtab.store import ApiKey, Inference
from trimtab.types import AnswerStatus, Candidate, Question, Sampling, Usage

# What an adapter can make nothing of: such a call goes to the black box as it is.
NOT_ADAPTED = ("tools", "functions", "audio", "prediction", "web_search_options", "logprobs", "top_logprobs")
# What a call may say and an adapted answer does not heed: it is drawn as the adapter was trained.
IGNORED = (
    *("temperature", "top_p", "frequency_penalty", "presence_penalty"),
    *("logit_bias", "reasoning_effort", "verbosity"),
)


def unadapted_because(call: ChatCall) -> str | None:
    """Why a call cannot be adapted; None where it can."""
    extra = call.model_extra or {}
    if field := next((name for name in NOT_ADAPTED if extra.get(name)), None):
        return field
    form = extra.get("response_format")
    if form and not (isinstance(form, dict) and form.get("type") == "text"):
        return "response_format"
    if extra.get("modalities") not in (None, ["text"]):
        return "modalities"
    if not all(message.is_text for message in call.messages):
        return "a message is not words alone"
    return None if call.messages[-1].role == "user" else "the last message is not the user's"


@dataclass(frozen=True, slots=True)
class Ask:
    """One call, by whom, and under which name it will be remembered."""

    id: str  # of the inference
    call: ChatCall
    document: Mapping[str, Any]  # the call as it came
    key: ApiKey | None
    began: float  # monotonic seconds
    created_at: float  # seconds since the epoch

    @property
    def key_id(self) -> str | None:
        """Whose call it is."""
        return None if self.key is None else self.key.id

    @property
    def said(self) -> tuple[dict[str, str], ...]:
        """The words of its messages: what is kept of them."""
        return tuple({"role": each.role, "content": each.text} for each in self.call.messages)

    @property
    def question(self) -> Question:
        """What is asked. Raises ApiError (400) where that is nothing."""
        text, own = self.call.messages[-1].text, self.call.trimtab or Own()
        if not text.strip():
            raise ApiError(400, "the last message is empty", param="messages", code="empty_question")
        return Question(own.question_id or question_hash(text), text, choices=tuple(own.choices))


def how_drawn(served: Served, call: ChatCall) -> Sampling | Waves | BeamSettings:
    """How the adapter draws for this call: its own way, with the call's seed, and enough for its n."""
    how = served.how
    seed = how.sampling.seed if isinstance(how, Waves) else how.seed
    seed = seed if call.seed is None else call.seed
    if isinstance(how, BeamSettings):
        return replace(how, seed=seed, width=max(how.width, call.n or 1))
    sampling = how.sampling if isinstance(how, Waves) else how
    longest = min(sampling.max_tokens, call.longest or sampling.max_tokens)
    sampling = replace(sampling, seed=seed, n=max(sampling.n, call.n or 1), max_tokens=longest)
    return replace(how, sampling=sampling) if isinstance(how, Waves) else sampling


def worst_usd(ask: Ask, served: Served, upstream: Upstream) -> float | None:
    """The most that an adapted answer can cost; None where no price is known."""
    earlier = [message.plain for message in ask.call.messages[:-1]]
    asked = [*earlier, *served.task.prompt(ask.question).messages]
    return upstream.priced(worst_of(asked, how_drawn(served, ask.call))).usd


async def adapted(ask: Ask, served: Served, upstream: Upstream) -> Inference:
    """The answer and all that it was chosen from.

    Raises:
        LLMError: the black box failed; `FailedInference` tells what that cost.
    """
    earlier = [message.plain for message in ask.call.messages[:-1]]
    metered = Metered(Preceded(upstream.llm, earlier) if earlier else upstream.llm)
    try:
        found = await considered(
            ask.question,
            metered,
            served.task,
            served.rule,
            how_drawn(served, ask.call),
            scorer=served.scorer,
            calibrate=served.calibrate,
            abstain_below=served.abstain_below,
            deadline_s=served.deadline_s,
        )
    except LLMError as error:
        lost = sum((call.usage for call in error.calls), metered.usage)
        raise FailedInferenceError(error, _failed(ask, served, upstream, lost)) from None
    return _inference(ask, served, upstream, found)


class FailedInferenceError(Exception):
    """A black box that failed, and the record of it."""

    def __init__(self, error: LLMError, inference: Inference) -> None:
        super().__init__(str(error))
        self.error, self.inference = error, inference


def _inference(ask: Ask, served: Served, upstream: Upstream, found: Considered) -> Inference:
    answer, drawn = found.answer, found.pool.candidates
    chosen = decide(drawn, served.rule).index if drawn else None
    return replace(
        _failed(ask, served, upstream, answer.usage),
        candidates=drawn,
        text=answer.text,
        status=str(answer.status),
        chosen=chosen,
        answer=answer.answer,
        confidence=answer.confidence,
        score=answer.score,
    )


def _failed(ask: Ask, served: Served, upstream: Upstream, usage: Usage) -> Inference:
    return Inference(
        id=ask.id,
        created_at=ask.created_at,
        adapter=served.name,
        version=served.version,
        question=ask.question.with_choices,
        messages=ask.said,
        candidates=(),
        text="",
        status=str(AnswerStatus.FAILED),
        chosen=None,
        task=served.task.name,
        key_id=ask.key_id,
        usage=usage,
        seconds=time.monotonic() - ask.began,
        upstream=upstream.name,
    )


def on_wire(ask: Ask, inference: Inference) -> dict[str, Any]:
    """The chat completion that an inference is sent as: its `n` best candidates, the chosen one first."""
    texts = [before_stop(each.text, ask.call.stops) for each in best_first(inference)[: ask.call.n or 1]]
    created = int(inference.created_at)
    name = f"chatcmpl-{inference.id}"
    return completion(name, ask.call.model, created, texts, inference.usage, _own(ask, inference))


def best_first(inference: Inference) -> list[Candidate]:
    """The chosen candidate, then the others by score; of equal ones the one drawn earliest."""
    drawn = list(inference.candidates)
    chosen = [] if inference.chosen is None else [drawn.pop(inference.chosen)]
    scored = sorted(drawn, key=lambda each: -each.score if each.score is not None else 0.0)
    return [*chosen, *scored]


def _own(ask: Ask, inference: Inference) -> dict[str, Any]:
    extra = ask.document
    ignored = [name for name in IGNORED if extra.get(name) is not None]
    return {
        "inference_id": inference.id,
        "adapter": inference.adapter,
        "version": inference.version,
        "status": inference.status,
        "answer": inference.answer,
        "confidence": inference.confidence,
        "score": inference.score,
        "candidates": len(inference.candidates),
        "usd": inference.usage.usd if inference.usage.calls else 0.0,
        **({"ignored": ignored} if ignored else {}),
    }
