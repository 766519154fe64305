"""(question, text) pairs to token ids and padded batches.

A tokenizer that parts two texts by a token of its own (BERT's [SEP]) is taken at its word. For others,
causal language models' above all, a pair is the question, a line break, the text and the end of text.

What is cut when a pair is too long: the middle of the text first, so that how it starts and above all its
final answer stay; the question only when it alone takes more than half of the room, and then its middle too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from trimtab.energy.lengths import in_batches, rounded
from trimtab.errors import AdapterError

QUESTIONS_KEPT = 4096  # whose tokens are remembered: many answers to one question are asked for one by one
HEAD_SHARE = 0.25  # of the room a cut text gets: a quarter to its start, the rest to its end


@dataclass(frozen=True, slots=True)
class Pair:
    """One encoded (question, text)."""

    ids: tuple[int, ...]
    types: tuple[int, ...]
    text_start: int  # where the text's own tokens begin
    text_end: int  # and end

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class _Template:
    """The special tokens a tokenizer puts before, between and after a pair, with their segment numbers."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    question_type: int
    between_types: tuple[int, ...]
    text_type: int

    @property
    def length(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)


class PairEncoder:
    """Encodes pairs to at most `max_length` tokens and pads them into batches.

    `is_causal` is for networks that read from left to right. The padding, which comes last, changes nothing
    for them, so it is not masked: kernels that are given a mask add up in another order.
    """

    def __init__(self, tokenizer: Any, max_length: int, *, is_causal: bool = False) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.is_causal = is_causal
        self.template = _read_template(tokenizer)
        self.has_types = "token_type_ids" in tokenizer.model_input_names
        self.pad = int(tokenizer.pad_token_id)
        self._questions: OrderedDict[str, list[int]] = OrderedDict()  # the longest unused first

    def encode(self, pairs: Sequence[tuple[str, str]]) -> list[Pair]:
        """One encoded pair for each (question, text), in order."""
        if not pairs:
            return []
        question_ids = self._question_ids([question for question, _ in pairs])
        text_ids = self._ids([text for _, text in pairs])
        return [
            self._join(question_ids[question], text)
            for (question, _), text in zip(pairs, text_ids, strict=True)
        ]

    def padded(self, batch: Sequence[Pair], *, step: int = 1) -> dict[str, NDArray[np.int64]]:
        """The inputs of one forward pass, each (texts, tokens), by their names in transformers.

        Their length is a multiple of `step`, or `max_length`.
        """
        longest = max(len(pair) for pair in batch)
        shape = (len(batch), max(longest, min(rounded(longest, step), self.max_length)))
        inputs = {
            "input_ids": np.full(shape, self.pad),
            "attention_mask": np.full(shape, int(self.is_causal), np.int64),
        }
        if self.has_types:
            inputs["token_type_ids"] = np.zeros(shape, np.int64)
        for row, pair in enumerate(batch):
            inputs["input_ids"][row, : len(pair)] = pair.ids
            inputs["attention_mask"][row, : len(pair)] = 1
            if self.has_types:
                inputs["token_type_ids"][row, : len(pair)] = pair.types
        return inputs

    def collate(
        self, batch: Sequence[Pair], device: torch.device, *, step: int = 1
    ) -> dict[str, Int[Tensor, "texts tokens"]]:
        """The same inputs for torch, on a device."""
        inputs = self.padded(batch, step=step)
        return {name: torch.from_numpy(rows).to(device) for name, rows in inputs.items()}

    def _question_ids(self, questions: Sequence[str]) -> dict[str, list[int]]:
        """The tokens of each distinct question; those seen lately are not tokenised again."""
        known = {question: self._questions.pop(question, None) for question in dict.fromkeys(questions)}
        new = [question for question, ids in known.items() if ids is None]
        found = {question: ids for question, ids in known.items() if ids is not None}
        found.update(zip(new, self._ids(new) if new else [], strict=True))
        self._questions.update(found)
        while len(self._questions) > QUESTIONS_KEPT:
            self._questions.popitem(last=False)
        return found

    def _ids(self, texts: list[str]) -> list[list[int]]:
        encoded = self.tokenizer(
            texts,
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # or it warns of texts that are cut below
        )
        return list(encoded["input_ids"])

    def _join(self, question: list[int], text: list[int]) -> Pair:
        form = self.template
        room = self.max_length - form.length
        question = without_middle(question, max(room - len(text), room // 2))
        text = without_middle(text, room - len(question))
        start = len(form.before) + len(question) + len(form.between)
        return Pair(
            (*form.before, *question, *form.between, *text, *form.after),
            (
                *[form.question_type] * (len(form.before) + len(question)),
                *form.between_types,
                *[form.text_type] * (len(text) + len(form.after)),
            ),
            start,
            start + len(text),
        )


def without_middle(tokens: list[int], room: int) -> list[int]:
    """The tokens, or the first quarter and last three quarters of `room` when they do not fit."""
    if len(tokens) <= room:
        return tokens
    head = int(room * HEAD_SHARE)
    return tokens[:head] + tokens[len(tokens) - (room - head) :]


def by_length(pairs: Sequence[Pair], tokens: int) -> Iterator[list[int]]:
    """Indices of pairs of like length, longest first, in batches of at most `tokens` padded tokens."""
    yield from in_batches([len(pair) for pair in pairs], tokens)


def _read_template(tokenizer: Any) -> _Template:
    """What the tokenizer adds to a pair, read off an example: no tokenizer tells it otherwise.

    A tokenizer that puts nothing between the two, or only begins anew, knows no pairs.
    """
    encoded = tokenizer("a", "b", return_special_tokens_mask=True, return_token_type_ids=True)
    ids, special = encoded["input_ids"], encoded["special_tokens_mask"]
    types = encoded.get("token_type_ids") or [0] * len(ids)
    own = [i for i, is_special in enumerate(special) if not is_special]
    middle = [i for i in range(own[0], own[-1]) if special[i]]
    if {ids[i] for i in middle} <= {tokenizer.bos_token_id}:
        return _line_template(tokenizer, tuple(ids[: own[0]]))
    start, end = middle[0], middle[-1] + 1
    return _Template(
        before=tuple(ids[: own[0]]),
        between=tuple(ids[start:end]),
        after=tuple(ids[own[-1] + 1 :]),
        question_type=types[own[0]],
        between_types=tuple(types[start:end]),
        text_type=types[end],
    )


def _line_template(tokenizer: Any, before: tuple[int, ...]) -> _Template:
    """A line break between question and text, and at the end what the head reads: the end of text.

    The head reads the last token that is not padding. So where the end of text is all there is to pad with
    (GPT-2), a second line break closes the pair.
    """
    line = tuple(tokenizer("\n", add_special_tokens=False)["input_ids"])
    end = tokenizer.eos_token_id
    after = line if end in (None, tokenizer.pad_token_id) else (int(end),)
    if not after or after[-1] == tokenizer.pad_token_id:
        raise AdapterError(
            "the backbone's tokenizer has nothing that could end a text: neither an end-of-text token beside "
            "the padding nor a line break"
        )
    return _Template(before, line, after, 0, (0,) * len(line), 0)
