"""What a model takes: one row a model family, what the user says of it, and what its endpoint has taught.

Requests are shaped by this in `chat`; nothing is sent from here.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from trimtab.errors import ConfigError
from trimtab.types import Sampling

LOGGER = logging.getLogger("trimtab.llm")

Length = Literal["max_tokens", "max_completion_tokens"]
MOST_AT_ONCE = 128  # what OpenAI takes in one request
USUAL_TEMPERATURE = 1.0  # every provider's default: where the parameter is not taken, nothing else is lost
REASONING_TOKENS = 4096  # a choice, not measured; a longer thought comes back cut, with finish "length"
LENGTHS: tuple[Length, ...] = ("max_tokens", "max_completion_tokens")


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What one model takes. What it does not take is left out of the request, or made up for on our side.

    Several completions are then asked for one by one, a stop sequence is cut off after it was written, and
    the system's words open the first of the user's.
    """

    temperature: bool = True
    top_p: bool = True
    n: bool = False
    stop: bool = False
    seed: bool = False
    logprobs: bool = False
    prefill: bool = False
    system: bool = True
    length: Length = "max_tokens"
    batch: bool = False
    reasoning_tokens: int = 0  # room that hidden reasoning needs beside the answer; billed as output

    @property
    def most_at_once(self) -> int:
        """The most completions that one request asks for."""
        return MOST_AT_ONCE if self.n else 1


# What every endpoint is known to take; the rest is found out (see `Learned`).
CONSERVATIVE = Capabilities()
EMPTIEST = Capabilities(temperature=False, top_p=False, system=False)

_FULL = Capabilities(n=True, stop=True, seed=True, logprobs=True, batch=True)
_REASONING = Capabilities(
    temperature=False,
    top_p=False,
    n=True,
    seed=True,
    batch=True,
    length="max_completion_tokens",
    reasoning_tokens=REASONING_TOKENS,
)
# Open weights are mostly served by vLLM, which takes all of these; Ollama ignores n, which is noticed.
_OPEN = replace(_FULL, batch=False)
_OPEN_REASONING = replace(_OPEN, reasoning_tokens=REASONING_TOKENS)
_GEMINI = Capabilities(n=True, stop=True, seed=True)

# The first family whose pattern is found in the model's name decides; `<` stands for the name's beginning or
# what a provider puts before it ("openai/", "ft:", "anthropic."). Sources: the providers' API references, as
# of 2026; a row that is wrong is put right by the endpoint's own refusals.
FAMILIES: tuple[tuple[str, Capabilities], ...] = (
    (r"^trimtab-blackbox", replace(_FULL, logprobs=False, batch=False)),
    (r"<o1-(mini|preview)", replace(_REASONING, system=False, n=False)),
    (r"<gpt-5[\d.]*-chat", _FULL),
    (r"<(o\d(-|$)|gpt-5)", _REASONING),
    (r"<(gpt-4|gpt-3\.5|chatgpt-)", _FULL),
    (r"<claude", Capabilities(stop=True)),
    (r"<gemini-(2\.5|[3-9])", replace(_GEMINI, reasoning_tokens=REASONING_TOKENS)),
    (r"<gemini", _GEMINI),
    (r"<deepseek-reasoner", Capabilities(temperature=False, top_p=False, reasoning_tokens=REASONING_TOKENS)),
    (r"(gpt-oss|qwq|deepseek-r1|magistral|qwen3(?!.*(instruct|coder)))", _OPEN_REASONING),
    (r"<deepseek", Capabilities(stop=True, logprobs=True)),
    (r"(llama|qwen|mistral|mixtral|gemma|phi-?\d|olmo|falcon)", _OPEN),
)
_BEFORE_A_NAME = r"(?:^|[/:.])"


def capabilities_of(model: str, overrides: str | None = None) -> Capabilities:
    """What the model takes: its family's row, or the conservative one, with the user's corrections.

    Raises:
        ConfigError: a correction that cannot be read.
    """
    patterns = ((pattern.replace("<", _BEFORE_A_NAME, 1), row) for pattern, row in FAMILIES)
    row = next((row for pattern, row in patterns if re.search(pattern, model.lower())), CONSERVATIVE)
    return replace(row, **parse_capabilities(overrides)) if overrides else row


def parse_capabilities(text: str) -> dict[str, Any]:
    """The corrections in a text such as 'temperature=no, n=yes, length=max_completion_tokens'.

    Raises:
        ConfigError: names the piece that cannot be read, and what is known.
    """
    pieces = [piece.strip() for piece in text.split(",") if piece.strip()]
    return dict(_correction(piece) for piece in pieces)


def _correction(piece: str) -> tuple[str, Any]:
    name, mark, said = (part.strip() for part in piece.partition("="))
    known = {field.name: field.type for field in fields(Capabilities)}
    if not mark or name not in known:
        raise ConfigError(
            f"capabilities: '{piece}' cannot be read; write e.g. 'temperature=no, n=yes'. "
            f"Known: {', '.join(known)}"
        )
    read = _READERS.get(name, _yes_or_no)
    try:
        return name, read(said)
    except ValueError as error:
        raise ConfigError(f"capabilities: {name}: {error}, but it is '{said}'") from None


def _yes_or_no(said: str) -> bool:
    if said.lower() not in ("yes", "no", "true", "false"):
        raise ValueError("should be yes or no")
    return said.lower() in ("yes", "true")


def _length(said: str) -> str:
    if said not in LENGTHS:
        raise ValueError(f"should be {' or '.join(LENGTHS)}")
    return said


def _count(said: str) -> int:
    if not said.isdigit():
        raise ValueError("should be a number of tokens")
    return int(said)


_READERS: Mapping[str, Callable[[str], Any]] = {"length": _length, "reasoning_tokens": _count}


# What a refusal may name, and what is known by it.
_NAMED = {
    "max_completion_tokens": "length",
    "max_tokens": "length",
    "temperature": "temperature",
    "stop": "stop",
    "seed": "seed",
    "system": "system",
    "n": "n",
}


class Learned:
    """What is known of one model by now; shared by all who shape or split its requests.

    Starts from a row. A parameter that the endpoint refuses is dropped once, with a warning, and remembered
    for as long as this object lives.
    """

    def __init__(self, model: str, row: Capabilities | None = None) -> None:
        self.model = model
        self.row = row if row is not None else capabilities_of(model)
        self._swapped = False
        self._has_said_temperature = False

    @property
    def most_at_once(self) -> int:
        """The most completions that one request asks for."""
        return self.row.most_at_once

    def row_for(self, sampling: Sampling) -> Capabilities:
        """What a request is shaped by; where that loses the temperature asked for, it is said once."""
        is_lost = not self.row.temperature and sampling.temperature not in (None, USUAL_TEMPERATURE)
        if is_lost and not self._has_said_temperature:
            self._has_said_temperature = True
            LOGGER.warning(
                "%s: it is not known to take a temperature: %g is left out (--capabilities temperature=yes "
                "sends it)",
                self.model,
                sampling.temperature,
            )
        return self.row

    def gave(self, given: int, *, of: int) -> None:
        """Note how many completions came of those asked for in one request."""
        if self.row.n and given < of:
            self._learn("n", f"it gave {given} of {of} completions; they are asked for one by one now")

    def refused(self, words: str, sent: Mapping[str, Any], parameter: str | None = None) -> bool:
        """True when the request is worth sending again without what the endpoint's words object to.

        Args:
            words: what the endpoint said.
            sent: the request's body.
            parameter: what it named in a field of its own, if it did.
        """
        name = _objected(words, sent, parameter)
        if name is None:
            return False
        if _NAMED[name] != "length":
            return self._drop(_NAMED[name], words)
        return self._swap(name, words)

    def _drop(self, name: str, words: str) -> bool:
        if not getattr(self.row, name):
            return True  # another request has learned it meanwhile
        self._learn(name, f"it is refused ({words}) and left out from now on")
        return True

    def _swap(self, refused: str, words: str) -> bool:
        if refused != self.row.length:
            return True  # another request has learned it meanwhile
        if self._swapped:
            return False
        other: Length = "max_tokens" if self.row.length != "max_tokens" else "max_completion_tokens"
        LOGGER.warning(
            "%s: %s is refused (%s); %s is sent instead", self.model, self.row.length, words, other
        )
        self.row, self._swapped = replace(self.row, length=other), True
        return True

    def _learn(self, name: str, what: str) -> None:
        LOGGER.warning("%s: parameter %s: %s", self.model, name, what)
        self._has_said_temperature |= name == "temperature"
        changes: dict[str, Any] = {name: False}
        self.row = replace(self.row, **changes)


# How endpoints say that they do not take a parameter at all, as against a value out of its range.
_NOT_TAKEN = re.compile(
    r"unsupported|not support|n't support|only the default|unrecogni[sz]ed|unknown|unexpected|not permitted"
    r"|not allowed|extra (inputs|fields)|\buse\b.{1,40}\binstead|not accept|deprecated",
    re.IGNORECASE,
)
# "'messages[0].role' does not support 'system'"; "System role not supported"
_SYSTEM_ROLE = re.compile(r"\brole\b.*\bsystem\b|\bsystem\b.{1,5}\brole\b", re.IGNORECASE)
# What is made up for on our side needs no such words: a value out of range is a reason to leave it out, too.
# "each stop sequence must contain non-whitespace" (Anthropic, of a line's end); "Multiple candidates is not
# enabled", "candidateCount value of 9" (Google); "n > 1 is not supported".
_MADE_UP_FOR = {
    "stop": re.compile(r"['\"`]stop['\"`]|\bstop[ _]?sequences?\b", re.IGNORECASE),
    "n": re.compile(
        r"['\"`]n['\"`]|\bn ?(=|>|<)|candidate_?count|\b(multiple|one|single) candidates?\b", re.IGNORECASE
    ),
}


def _objected(words: str, sent: Mapping[str, Any], parameter: str | None) -> str | None:
    """The parameter of ours that is objected to: the one named as such, else the longest name said."""
    for name, naming in _MADE_UP_FOR.items():
        if name in sent and (parameter == name or naming.search(words)):
            return name
    if not _NOT_TAKEN.search(words):
        return None
    if parameter in _NAMED and parameter in sent:
        return parameter
    if _SYSTEM_ROLE.search(words) and any(m["role"] == "system" for m in sent["messages"]):
        return "system"
    said = [name for name in _NAMED if name != "n"]  # a lone "n" is a letter of many sentences
    found = [name for name in said if name in sent and re.search(rf"(?<![\w.]){name}(?!\w)", words)]
    return max(found, key=len, default=None)
