"""What a round learns from: candidates of a question, prefixes with their outcomes, replay of earlier rounds.

Pure functions; no model, no store, no black box.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

from trimtab.types import Contrast, Pool, PrefixTarget, Task, Verdict


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


def with_replay(
    current: Sequence[Contrast], earlier: Sequence[Contrast], share: float, seed: int
) -> tuple[Contrast, ...]:
    """This round's contrasts, and a seeded draw of `share` of those of earlier rounds.

    A share of 0 is the paper's Algorithm 1, which forgets earlier negatives.
    """
    count = round(share * len(earlier))
    return (*current, *random.Random(seed).sample(list(earlier), count))


def earlier_positives(contrasts: Iterable[Contrast]) -> Mapping[str, tuple[str, ...]]:
    """The positives so far of each question, oldest first: SEL's first argument in Eq. 5."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for contrast in contrasts:
        found[contrast.question_id].update(dict.fromkeys(contrast.positives))
    return {question_id: tuple(texts) for question_id, texts in found.items()}
