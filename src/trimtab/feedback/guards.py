"""Whose word counts how much: what keeps one giver, or a tenth of all feedback, from turning an adapter.

In the order of time: what one source says again is said once, and where it changed its mind the last word
counts; no source gives more than its share; a source weighs what its agreement with known truth, where it
spoke of any, and with the other sources is worth; what is then left standing of each text is a balance.
Nothing is dropped uncounted.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from trimtab.data import Feedback, FeedbackKind, question_hash
from trimtab.feedback.votes import votes

Meaning = Callable[[str, str], str]  # question, text -> what it says: equal strings are one answer
_Place = tuple[str, str]  # a question's hash, and what is said there
Truth = Callable[[str, str], bool | None]  # question, text -> right, wrong, or not known


ROUNDS = 20  # of EM; it settles in fewer than ten


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """How feedback is weighed. Values are ours, chosen in `scripts/lab_feedback.py`."""

    source_share: float = (
        0.25  # of all feedback that counts, from one source; or an even part, if that is more
    )
    prior_right: float = 4.0  # a source without a record is taken to be right this often,
    prior_wrong: float = 1.0  # against so often wrong
    decided: float = 0.2  # of all weight on a text, the balance that decides it; below, it is contradicted


@dataclass(frozen=True, slots=True)
class Standing:
    """What the votes on one text come to."""

    question: str
    text: str  # as it was said first
    balance: float  # weight for it less weight against it
    sources: tuple[str, ...]

    @property
    def is_right(self) -> bool:
        """What was said of it, taken together."""
        return self.balance > 0


@dataclass(frozen=True, slots=True)
class Guarded:
    """What is left of feedback, and what became of the rest."""

    standings: Mapping[str, tuple[Standing, ...]]  # by the question's hash; the decided texts
    weights: Mapping[str, float]  # by source
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Vote:
    question: str
    meaning: str
    text: str
    source: str
    value: float

    @property
    def place(self) -> _Place:
        return question_hash(self.question), self.meaning


def guarded(said: Sequence[Feedback], settings: GuardSettings, *, meaning: Meaning, truth: Truth) -> Guarded:
    """The decided texts of every question, and how much each source was believed.

    Args:
        said: in the order it came.
        settings: how it is weighed.
        meaning: what a text says, so that two wordings of one answer are voted on together.
        truth: what is known of an answer, on questions whose reference is known.
    """
    spoken = [each for each in said if each.kind is not FeedbackKind.COMMENT]
    once = _last_words(spoken)
    kept = _within_shares(once, settings.source_share)
    cast = _cast(kept, meaning)
    weights = _weights(cast, settings, truth)
    standings, contradicted, outvoted = _decided(cast, weights, settings.decided)
    counts = {
        "given": len(said),
        "comments": len(said) - len(spoken),
        "repeated": len(spoken) - len(once),
        "over_share": len(once) - len(kept),
        "distrusted": sum(weights.get(each.source) == 0 for each in kept),
        "contradicted": contradicted,
        "outvoted": outvoted,
    }
    return Guarded(standings, weights, counts)


def _cast(said: Sequence[Feedback], meaning: Meaning) -> list[_Vote]:
    """One vote of a source on an answer: who says it in two ways says it once."""
    found: dict[tuple[_Place, str], _Vote] = {}
    for each in said:
        for text, value in votes(each):
            vote = _Vote(each.question, meaning(each.question, text), text, each.source, value)
            before = found.get((vote.place, vote.source))
            both = value if before is None else max(-1.0, min(1.0, before.value + value))
            found[vote.place, vote.source] = replace(before or vote, value=both)
    return [vote for vote in found.values() if vote.value]


# --------------------------------------------------------------------------- each thing once


def _last_words(said: Sequence[Feedback]) -> list[Feedback]:
    last: dict[Hashable, Feedback] = {}
    for each in said:
        last.pop(subject := _subject(each), None)  # its place is that of the last word
        last[subject] = each
    return list(last.values())


def _subject(said: Feedback) -> Hashable:
    """What a source speaks of: the same again replaces what it said before."""
    about: Hashable = said.text
    if said.kind is FeedbackKind.PREFERENCE:
        about = frozenset((said.text, said.value))
    if said.kind is FeedbackKind.RANKING:
        about = frozenset(said.ranked)
    return said.source, question_hash(said.question), said.kind, about


# --------------------------------------------------------------------------- no more than a share


def cap_of(counts: Iterable[int], share: float) -> int:
    """The most rows of one source, so that none makes up more than the share of all that are kept.

    With fewer sources than the share has room for, an even part is allowed: one source alone is all there is.
    """
    sizes = sorted(counts)
    part = max(share, 1 / len(sizes))
    fits = [cap for cap in range(1, sizes[-1] + 1) if cap <= part * sum(min(n, cap) for n in sizes) + 1e-9]
    return max(fits)


def _within_shares(said: Sequence[Feedback], share: float) -> list[Feedback]:
    """The newest of each source, as many as it may give; in the order they came."""
    if not said:
        return []
    given = Counter(each.source for each in said)
    cap = cap_of(given.values(), share)
    left = {source: max(0, count - cap) for source, count in given.items()}  # to pass over, oldest first
    kept = []
    for each in said:
        if left[each.source]:
            left[each.source] -= 1
        else:
            kept.append(each)
    return kept


# --------------------------------------------------------------------------- whom to believe


def _weights(cast: Sequence[_Vote], settings: GuardSettings, truth: Truth) -> dict[str, float]:
    """The log-odds of each source's votes being right; 0 for one that is no better than chance.

    Paper: Dawid and Skene (1979) with one error rate a source, by EM. Where truth is known it is what votes
    are held against, else what all votes together make of it, the source's own among them.
    Differs: a prior on each source, and none is believed to be right by being wrong: weights stop at 0.
    """
    prior = math.log(settings.prior_right / settings.prior_wrong)
    known = {vote.place: truth(vote.question, vote.text) for vote in cast}
    weights = dict.fromkeys((vote.source for vote in cast), prior)
    for _ in range(ROUNDS):
        balances: defaultdict[_Place, float] = defaultdict(float)
        for vote in cast:
            balances[vote.place] += weights[vote.source] * vote.value
        believed = {place: _chance(known[place], balance) for place, balance in balances.items()}
        weights = _held_against(cast, believed, settings)
    return weights


def _chance(known: bool | None, balance: float) -> float:
    """P(right) of a text with this balance of log-odds."""
    return (1 + math.tanh(balance / 2)) / 2 if known is None else float(known)


def _held_against(
    cast: Sequence[_Vote], believed: Mapping[_Place, float], settings: GuardSettings
) -> dict[str, float]:
    tallies = {vote.source: [settings.prior_right, settings.prior_wrong] for vote in cast}
    for vote in cast:
        agrees = believed[vote.place] if vote.value > 0 else 1 - believed[vote.place]
        tallies[vote.source][0] += abs(vote.value) * agrees
        tallies[vote.source][1] += abs(vote.value) * (1 - agrees)
    return {source: max(0.0, math.log(right / wrong)) for source, (right, wrong) in tallies.items()}


# --------------------------------------------------------------------------- what is left standing


def _decided(
    cast: Sequence[_Vote], weights: Mapping[str, float], decided: float
) -> tuple[dict[str, tuple[Standing, ...]], int, int]:
    """The decided texts by question; how many texts stay contradicted, and how many votes were outvoted."""
    by_place: dict[_Place, list[_Vote]] = defaultdict(list)
    for vote in cast:
        if weights[vote.source]:
            by_place[vote.place].append(vote)
    found: dict[str, list[Standing]] = defaultdict(list)
    contradicted = outvoted = 0
    for (asked, _), on_it in by_place.items():
        weighed = [weights[vote.source] * vote.value for vote in on_it]
        balance = sum(weighed)
        if abs(balance) <= decided * sum(map(abs, weighed)):
            contradicted += 1
            continue
        outvoted += sum((each > 0) != (balance > 0) for each in weighed)
        found[asked].append(Standing(on_it[0].question, on_it[0].text, balance, _sources(on_it)))
    return {asked: tuple(standings) for asked, standings in found.items()}, contradicted, outvoted


def _sources(on_it: Sequence[_Vote]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(vote.source for vote in on_it))


def texts_of(standings: Iterable[Standing], *, right: bool) -> Iterator[str]:
    """The texts that were found right, or wrong."""
    return (each.text for each in standings if each.is_right is right)
