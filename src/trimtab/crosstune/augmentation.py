"""More labelled texts than the shots: written by an LLM from them, or the user's own, labelled by it.

The driver over one `LLM`, and what is kept of its replies. Wording and reading stand in `wording`, likeness
in `copies`. Whether the texts are learnt from is for the teacher and the switch to say (`switch`).
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from trimtab.crosstune.asking import AskSettings, label_prompt, label_said, shown_shots
from trimtab.crosstune.copies import Copies, Likeness
from trimtab.crosstune.requesting import (
    LABEL_TOKENS,
    Reply,
    Report,
    Request,
    Text,
    all_asked,
    is_cut,
    refuse_outage,
)
from trimtab.crosstune.rows import LabelledText, Labels
from trimtab.crosstune.wording import texts_in, writing
from trimtab.errors import InputError
from trimtab.types import LLM, Prompt, Purpose, Sampling, Usage

Source = Literal["generated", "pseudo"]

PATIENCE = 3  # times the requests that would do if every text were kept: the most that a label is asked for


@dataclass(frozen=True, slots=True)
class AugmentSettings:
    """How texts are asked for."""

    per_label: int = 64  # kept texts a label; four times the usual 16 shots
    texts_a_reply: int = 5  # in one reply they differ more from one another than in replies of one each
    shots_shown: int = 5  # a request, drawn anew for each
    is_checked: bool = False  # the LLM is shown each text without its label, and must find it
    temperature: float | None = 1.0  # None leaves it out
    max_tokens: int = 512  # a reply
    seed: int = 0
    concurrency: int = 20

    @property
    def most_requests(self) -> int:
        """The most that is asked for one label."""
        return PATIENCE * -(-self.per_label // self.texts_a_reply)


@dataclass(frozen=True, slots=True)
class Made:
    """A text that was not among the shots, and the label it is meant to have."""

    text: Text
    label: str
    source: Source

    def to_json(self) -> dict[str, str]:
        """The row of a file."""
        parts = (self.text,) if isinstance(self.text, str) else self.text
        return {
            **dict(zip(("text", "text_pair"), parts, strict=False)),
            "label": self.label,
            "source": self.source,
        }


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of what was asked. Adds up with +.

    Every text that was read is a duplicate, a near copy, unchecked, mislabelled, spare or kept.
    """

    asked: int = 0  # requests, checks included
    failed: int = 0  # requests without an answer
    unreadable: int = 0  # replies in which no text, or no label, could be read
    texts: int = 0  # that were read
    duplicates: int = 0  # of a shot, or of an earlier text
    near_copies: int = 0
    unchecked: int = 0  # their check failed or could not be read
    mislabelled: int = 0  # the check found another label
    spare: int = 0  # beyond what was wanted
    kept: Mapping[str, int] = field(default_factory=dict)  # by label

    def __add__(self, other: Counts) -> Counts:
        sums = {name: getattr(self, name) + getattr(other, name) for name in self.__slots__ if name != "kept"}
        labels = dict.fromkeys([*self.kept, *other.kept])
        return Counts(
            **sums, kept={each: self.kept.get(each, 0) + other.kept.get(each, 0) for each in labels}
        )


@dataclass(frozen=True, slots=True)
class Augmented:
    """What there is, and how it came about."""

    made: tuple[Made, ...]
    counts: Counts
    usage: Usage = field(default_factory=Usage)
    is_cut: bool = False  # a limit was reached, or the endpoint failed, before it was done


# --------------------------------------------------------------------------- requests


def writing_request(
    label: str, number: int, shots: Sequence[LabelledText], labels: Labels, how: AugmentSettings
) -> Request:
    """Request `number` for texts of a label: always the same one, so that a kept reply is found again.

    Raises:
        InputError: no shot has this label.
    """
    own = [shot.text for shot in shots if shot.label == label]
    if not own:
        raise InputError(f"no shot of {label!r}: texts are written from one example at least")
    seed = _seed(how.seed, "write", label, number)
    shown = random.Random(seed).sample(own, min(how.shots_shown, len(own)))
    prompt = Prompt(
        writing(label, labels, shown, how.texts_a_reply), f"{label}#{number}", Purpose.AUGMENTATION
    )
    return Request(prompt, Sampling(1, how.temperature, how.max_tokens, seed=seed))


def labelling_request(
    text: Text, labels: Labels, shown: Sequence[LabelledText], how: AugmentSettings
) -> Request:
    """The request for the label of a text, asked as `asking` does it.

    Args:
        text: to label.
        labels: there are.
        shown: shots that stand before it; none makes a check cheaper.
        how: the seed is its, and a temperature of None: any other becomes 0, the likeliest label.
    """
    asked = label_prompt(text, labels, shown)
    prompt = replace(asked, question_id=text_id(text), purpose=Purpose.AUGMENTATION)
    temperature = None if how.temperature is None else 0.0
    return Request(prompt, Sampling(1, temperature, LABEL_TOKENS, seed=how.seed))


def text_id(text: Text) -> str:
    """What a request for the label of this text is known by."""
    return _digest(repr(text))[:16]


def _seed(*parts: object) -> int:
    return int(_digest("\x1f".join(map(str, parts)))[:8], 16) >> 1  # 31 bits: what every endpoint takes


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


# --------------------------------------------------------------------------- writing


async def augment(
    llm: LLM,
    shots: Sequence[LabelledText],
    labels: Labels,
    how: AugmentSettings = AugmentSettings(),
    report: Report = lambda done, total: None,
) -> Augmented:
    """`how.per_label` new texts of each label that has a shot, as far as the LLM and the limits allow.

    Asked in rounds: each asks for what is missing, for all labels in turn, all requests at once. What is
    kept depends on the replies alone, never on the order in which they come.

    Raises:
        LLMError: the key or the model is refused, or all requests failed before any text was kept.
    """
    writer = _Writer(llm, shots, labels, how, report)
    while not writer.is_cut and (wanted := writer.wanted()):
        await writer.round(wanted)
    return writer.result()


class _Writer:
    """Texts so far, by label, and what is still wanted."""

    def __init__(
        self,
        llm: LLM,
        shots: Sequence[LabelledText],
        labels: Labels,
        how: AugmentSettings,
        report: Report,
    ) -> None:
        self._llm, self._shots, self._labels, self._how, self._report = llm, shots, labels, how, report
        self._kept: dict[str, list[Text]] = {name: [] for name in labels_with_shots(shots, labels)}
        self._next = dict.fromkeys(self._kept, 0)
        self._copies = Copies(shot.text for shot in shots)
        self._is_of_pairs = isinstance(shots[0].text, tuple) if shots else False
        self._counts = Counts(kept=dict.fromkeys(self._kept, 0))
        self._usage = Usage()
        self.is_cut = False

    def wanted(self) -> list[tuple[str, int]]:
        """Label and number of the next round's requests; labels take turns, so that a cut falls on all."""
        found = []
        for label, texts in self._kept.items():
            missing = -(-(self._how.per_label - len(texts)) // self._how.texts_a_reply)
            first = self._next[label]
            last = min(first + max(0, missing), self._how.most_requests)
            found += [(number - first, label, number) for number in range(first, last)]
            self._next[label] = last
        return [(label, number) for _, label, number in sorted(found, key=lambda each: each[0])]

    async def round(self, wanted: Sequence[tuple[str, int]]) -> None:
        """One round's requests, their checks, and what is kept of them."""
        requests = [writing_request(*each, self._shots, self._labels, self._how) for each in wanted]
        replies = await self._asked(requests)
        new = [
            (label, text)
            for (label, _), reply in zip(wanted, replies, strict=True)
            for text in self._new(label, reply)
        ]
        checked = await self._checked(new) if self._how.is_checked else new
        for label, text in checked:
            self._keep(label, text)

    def result(self) -> Augmented:
        """What there is now."""
        made = tuple(Made(text, label, "generated") for label, texts in self._kept.items() for text in texts)
        return Augmented(made, self._counts, self._usage, self.is_cut)

    async def _asked(self, requests: Sequence[Request]) -> list[Reply]:
        before = self._counts.asked
        replies = await all_asked(
            self._llm,
            requests,
            self._how.concurrency,
            lambda done, total: self._report(before + done, before + total),
        )
        self._usage = sum((each.usage for each in replies), self._usage)
        self._counts += _sent(replies)
        if not any(self._kept.values()):
            refuse_outage(replies)
        self.is_cut |= is_cut(replies)
        return replies

    def _new(self, label: str, reply: Reply) -> Iterator[Text]:
        """The texts of a reply that are no copies; from then on they are there to be copied."""
        if reply.completion is None:
            return
        is_cut = reply.completion.finish == "length"
        texts = texts_in(reply.text, label, is_of_pairs=self._is_of_pairs, is_cut=is_cut)
        first = texts[: self._how.texts_a_reply]  # more were not asked for, and each may cost a check
        spare = len(texts) - len(first)
        self._counts += Counts(texts=len(texts), unreadable=int(not texts), spare=spare)
        for text in first:
            likeness = self._copies.likeness(text)
            self._counts += Counts(
                duplicates=int(likeness is Likeness.DUPLICATE),
                near_copies=int(likeness is Likeness.NEAR_COPY),
            )
            if likeness is Likeness.NEW:
                self._copies.add(text)
                yield text

    async def _checked(self, new: Sequence[tuple[str, Text]]) -> list[tuple[str, Text]]:
        """Those in which the LLM finds the label that they were asked of."""
        requests = [labelling_request(text, self._labels, (), self._how) for _, text in new]
        replies = await self._asked(requests) if requests else []
        found = [label_said(reply.text, self._labels.names) for reply in replies]
        wrong = sum(said not in (None, label) for said, (label, _) in zip(found, new, strict=True))
        unread = sum(
            said is None and each.completion is not None for said, each in zip(found, replies, strict=True)
        )
        self._counts += Counts(unreadable=unread, unchecked=found.count(None), mislabelled=wrong)
        return [each for each, said in zip(new, found, strict=True) if said == each[0]]

    def _keep(self, label: str, text: Text) -> None:
        if len(self._kept[label]) >= self._how.per_label:
            self._counts += Counts(spare=1)
            return
        self._kept[label].append(text)
        self._counts += Counts(kept={label: 1})


def labels_with_shots(shots: Iterable[LabelledText], labels: Labels) -> list[str]:
    """The labels that have a shot, in the order of the labels; a label without one cannot be written of."""
    there = {shot.label for shot in shots}
    return [name for name in labels.names if name in there]


# --------------------------------------------------------------------------- labelling


async def pseudo_labelled(
    llm: LLM,
    texts: Sequence[Text],
    shots: Sequence[LabelledText],
    labels: Labels,
    how: AugmentSettings = AugmentSettings(),
    report: Report = lambda done, total: None,
) -> Augmented:
    """The user's own texts with the labels that the LLM gives them; copies of shots and of each other go.

    Raises:
        LLMError: the key or the model is refused, or all requests failed.
    """
    new, counts = without_copies(texts, shots)
    shown = shown_shots(shots, labels, AskSettings(seed=how.seed))
    requests = [labelling_request(text, labels, shown, how) for text in new]
    replies = await all_asked(llm, requests, how.concurrency, report)
    refuse_outage(replies)
    found = [label_said(reply.text, labels.names) for reply in replies]
    made = tuple(
        Made(text, said, "pseudo") for text, said in zip(new, found, strict=True) if said is not None
    )
    failed = sum(reply.completion is None for reply in replies)
    counts += Counts(
        asked=len(replies),
        failed=failed,
        unreadable=found.count(None) - failed,
        unchecked=found.count(None),
        kept=dict(Counter(each.label for each in made)),
    )
    return Augmented(made, counts, sum((each.usage for each in replies), Usage()), is_cut(replies))


def without_copies(texts: Sequence[Text], shots: Sequence[LabelledText]) -> tuple[list[Text], Counts]:
    """The texts that are no copies of a shot or of an earlier one of them, and how many were."""
    copies, new, counts = Copies(shot.text for shot in shots), [], Counts(texts=len(texts))
    for text in texts:
        likeness = copies.likeness(text)
        counts += _likened(likeness)
        if likeness is Likeness.NEW:
            copies.add(text)
            new.append(text)
    return new, counts


# --------------------------------------------------------------------------- counting


def _sent(replies: Sequence[Reply]) -> Counts:
    return Counts(asked=len(replies), failed=sum(each.completion is None for each in replies))


def _labelled(replies: Sequence[Reply], found: Sequence[str | None]) -> Counts:
    """Of requests for labels: how many replies say none that can be read, and how many texts have none."""
    failed = sum(reply.completion is None for reply in replies)
    return Counts(unreadable=found.count(None) - failed, unchecked=found.count(None))


def _likened(likeness: Likeness) -> Counts:
    is_same, is_near = likeness is Likeness.DUPLICATE, likeness is Likeness.NEAR_COPY
    return Counts(duplicates=int(is_same), near_copies=int(is_near))
