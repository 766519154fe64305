"""Sentence-level beam search as a value: pure functions open, extend, score and prune drafts.

    opened -> [to_extend -> extended -> unscored -> scored -> pruned] until is_done -> best

Also the draw from the adapted model over a finite pool (`resampled`). Nothing here waits, calls a black box
or knows a model: `drawing` asks for continuations and scores, and hands them in.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Draft:
    """A chain of steps: unfinished, or finished and never extended again."""

    steps: tuple[str, ...] = ()
    is_finished: bool = False
    score: float | None = None

    @property
    def text(self) -> str:
        """The chain as one text."""
        return "".join(self.steps)


@dataclass(frozen=True, slots=True)
class Search:
    """Where a beam search stands.

    *Paper* (adapted inference): k = `width`, n = `samples`, L = `max_steps`.
    """

    width: int
    samples: int
    max_steps: int
    kept: tuple[Draft, ...] = (Draft(),)  # the beams, best first
    drawn: tuple[Draft, ...] = ()  # extensions of unfinished beams, not pruned yet, in the order drawn
    depth: int = 0  # steps taken
    draws: int = 0  # continuations paid for
    scores: Mapping[str, float] = field(default_factory=dict)  # of every text ever scored


def opened(width: int, samples: int, max_steps: int) -> Search:
    """A search at its start, with the empty chain as its only beam.

    Raises:
        ValueError: one of the three is below 1.
    """
    if min(width, samples, max_steps) < 1:
        raise ValueError(f"width, samples and steps are 1 or more; {width}, {samples}, {max_steps} came")
    return Search(width, samples, max_steps)


def is_done(search: Search) -> bool:
    """True when every beam is finished or the steps are used up."""
    return search.depth >= search.max_steps or all(draft.is_finished for draft in search.kept)


def to_extend(search: Search) -> tuple[Draft, ...]:
    """The beams that want continuations now: the unfinished ones, none once the search is done."""
    return () if is_done(search) else tuple(draft for draft in search.kept if not draft.is_finished)


def spared(search: Search) -> int:
    """The draws of the step that would come next: what ending here spares at least, 0 once it is done."""
    return len(to_extend(search)) * samples_each(search)


def samples_each(search: Search) -> int:
    """How many continuations to draw for each beam to extend.

    The first step draws width x samples: all k beams are then the same empty chain.
    """
    return search.samples * (search.width if search.depth == 0 else 1)


def extended(
    search: Search, continuations: Sequence[Sequence[str]], is_finished: Callable[[str], bool]
) -> Search:
    """The search with its unfinished beams replaced by their extensions.

    Args:
        search: one that is not done.
        continuations: for each draft of `to_extend`, in order, the next steps drawn for it. An empty step
            says that the chain goes no further: the beam itself stays, finished.
        is_finished: whether a chain states its final answer.

    Drafts that read the same are one. Raises:
        ValueError: continuations came for another number of drafts.
    """
    beams = to_extend(search)
    if len(continuations) != len(beams):
        raise ValueError(f"continuations of {len(beams)} drafts are needed, of {len(continuations)} came")
    drawn = [
        _extension(beam, step, is_finished)
        for beam, row in zip(beams, continuations, strict=True)
        for step in row
    ]
    over = tuple(draft for draft in search.kept if draft.is_finished)
    fresh = _merged([*over, *drawn])[len(over) :]
    draws = search.draws + sum(len(row) for row in continuations)
    return replace(search, kept=over, drawn=fresh, depth=search.depth + 1, draws=draws)


def _extension(beam: Draft, step: str, is_finished: Callable[[str], bool]) -> Draft:
    if not step:
        return replace(beam, is_finished=True)
    return Draft((*beam.steps, step), is_finished(beam.text + step))


def _merged(drafts: Iterable[Draft]) -> tuple[Draft, ...]:
    """One draft for each text, where it first stood; finished if any of them is."""
    found: dict[str, Draft] = {}
    for draft in drafts:
        first = found.setdefault(draft.text, draft)
        if draft.is_finished and not first.is_finished:
            found[draft.text] = replace(first, is_finished=True)
    return tuple(found.values())


def unscored(search: Search) -> tuple[str, ...]:
    """The texts that want a score, each once in the whole search."""
    return tuple(draft.text for draft in search.drawn if draft.text not in search.scores)


def scored(search: Search, scores: Sequence[float]) -> Search:
    """The search with the scores of `unscored`, in order; higher is better.

    Raises:
        ValueError: another number of scores came.
    """
    known = {**search.scores, **dict(zip(unscored(search), scores, strict=True))}
    return replace(search, scores=known, drawn=tuple(replace(d, score=known[d.text]) for d in search.drawn))


def pruned(search: Search) -> Search:
    """The search with the best `width` of finished beams and extensions as its beams.

    Ties: fewer steps first, then drawn earlier.

    Raises:
        ValueError: an extension is not scored.
    """
    ranked = sorted([*search.kept, *search.drawn], key=_rank)
    return replace(search, kept=tuple(ranked[: search.width]), drawn=())


def _rank(draft: Draft) -> tuple[float, int]:
    if draft.score is None:
        raise ValueError("a draft without a score cannot be ranked")
    return (-draft.score, len(draft.steps))


def final(search: Search) -> tuple[Draft, ...]:
    """The beams, finished ones before unfinished ones, best first among each."""
    return tuple(sorted(search.kept, key=lambda draft: not draft.is_finished))


def best(search: Search) -> Draft:
    """The highest-ranked finished beam, or the highest-ranked when none is finished."""
    return final(search)[0]


# --------------------------------------------------------------------------- drawing from the adapted model


def resampled(
    scores: Sequence[float], count: int, *, temperature: float = 1.0, seed: int = 0
) -> tuple[int, ...]:
    """`count` indices drawn without replacement, each draw with weights exp(score / temperature).

    *Paper* (Eq. 4, over a finite pool): the scores are g of answers drawn from p_LLM; a draw among them is a
    draw from p_theta as the pool grows. All draws at once by Gumbel-top-k (Kool et al. 2019, section 2): the
    highest score / temperature + Gumbel noise, which are successive draws in their order.

    *Differs*: a count above the pool's size gives the whole pool, in an order so drawn.

    Raises:
        ValueError: the count is negative or the temperature not above 0.
    """
    if count < 0 or not temperature > 0:
        raise ValueError(f"count is 0 or more, temperature above 0; {count}, {temperature} came")
    rng = random.Random(seed)
    keys = [score / temperature + _gumbel(rng) for score in scores]
    return tuple(sorted(range(len(keys)), key=lambda index: -keys[index])[:count])


def _gumbel(rng: random.Random) -> float:
    return -math.log(max(rng.expovariate(1.0), 5e-324))  # the exponential may be 0 once in 2^53 draws
