"""What a round learns from: positives so far, prefixes with their outcomes, replay of earlier rounds.

Pure functions; no model, no store, no black box.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TypeVar

from trimtab.judge import select
from trimtab.types import Judgement, Pool, PrefixTarget, Task, Verdict

Lesson = TypeVar("Lesson")


def positives_after(
    before: Mapping[str, Sequence[str]], pools: Iterable[Pool], judgements: Mapping[str, Judgement]
) -> dict[str, tuple[str, ...]]:
    """Each question's positives after these judgements, oldest first: Eq. 5, carried from round to round.

    Kept for every question, also for one that gave no contrast: all right now, it may be all wrong later.
    """
    after = {question_id: tuple(texts) for question_id, texts in before.items()}
    for pool in pools:
        asked = pool.question.id
        after[asked] = select(after.get(asked, ()), pool.candidates, judgements[asked])
    return after


def prefix_targets(pool: Pool, task: Task, *, limit: int, seed: int) -> tuple[PrefixTarget, ...]:
    """Every proper prefix of the pool's chains with the mean outcome of the chains that share it.

    Source: outcome-supervised value models (Yu et al. 2023, "OVM"): the value of a partial chain is the
    chance that its completions end right. Differs from the released BBox-Adapter, which labels a prefix by
    whether its last number happens to be the answer.

    Args:
        pool: one question's judged candidates; unjudged ones are left out.
        task: says where the steps of a chain end.
        limit: at most this many prefixes, drawn by `seed`, so that long chains do not crowd out the others.
        seed: of that draw.
    """
    outcomes: dict[str, list[bool]] = defaultdict(list)
    for candidate in pool.candidates:
        if candidate.verdict is not Verdict.UNJUDGED:
            for prefix in list(accumulate(task.steps(candidate.text)))[:-1]:
                outcomes[prefix].append(candidate.verdict is Verdict.RIGHT)
    targets = [
        PrefixTarget(pool.question.id, pool.question.with_choices, prefix, sum(seen) / len(seen), len(seen))
        for prefix, seen in outcomes.items()
    ]
    if len(targets) <= limit:
        return tuple(targets)
    return tuple(random.Random(f"{seed}:{pool.question.id}").sample(targets, limit))


def merged(targets: Iterable[PrefixTarget]) -> tuple[PrefixTarget, ...]:
    """Each prefix of a question once, worth the mean over all its completions and weighing their number.

    The same prefix comes up again in later rounds, with other completions.
    """
    same: dict[tuple[str, str], list[PrefixTarget]] = defaultdict(list)
    for target in targets:
        same[target.question_id, target.prefix].append(target)
    return tuple(_mean(each) for each in same.values())


def _mean(targets: Sequence[PrefixTarget]) -> PrefixTarget:
    weight = sum(each.weight for each in targets)
    value = sum(each.weight * each.value for each in targets) / weight
    return replace(targets[0], value=value, weight=weight)


def with_replay(
    current: Sequence[Lesson], earlier: Sequence[Lesson], share: float, seed: int
) -> tuple[Lesson, ...]:
    """This round's contrasts or prefixes, and a seeded draw of `share` of those of earlier rounds.

    A share of 0 is the paper's Algorithm 1, which forgets earlier negatives.
    """
    count = round(share * len(earlier))
    return (*current, *random.Random(seed).sample(list(earlier), count))
