"""The closed world of the embedded black box: word problems and the conventions that solve them.

A family asks one kind of question (a shop order, a rental, …). What the question leaves open are its
*slots*: does delivery count, is a started day a full day? Each option of a slot is said in plain words in the
chain and leads to another number. The black box's training text draws options by `Slot.weights`, whatever
the question says; the *house*, the target domain, wants one option of each, some by what the question says.

Here: problems, chains and what is wrong with a chain, as pure functions of a seed. Not here: the families'
wording (`families`), tokens (`vocabulary`), the model (`model`).
"""

from __future__ import annotations

import hashlib
import itertools
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from trimtab.llm.embedded.families import FAMILIES, Choice, Facts, Family, first, sayer
from trimtab.types import Question

Split = Literal["train", "heldout"]
HELDOUT_SHARE = 16  # of 256 hash buckets: one question text in sixteen is never in the training text

_ANSWER = re.compile(r"The answer is (\d+)\.")


class Fault(StrEnum):
    """What is wrong with a complete chain."""

    NONE = "none"
    CONVENTION = "convention"  # consistent, but not the house's way
    SLIP = "slip"  # its conventions are said, but a number does not follow from them
    GARBLED = "garbled"  # a convention is missing or said in two ways, and the answer is wrong
    UNREADABLE = "unreadable"  # no final answer


@dataclass(frozen=True, slots=True)
class Problem:
    """A question together with all that is needed to solve it in every convention."""

    family: Family
    facts: Facts
    text: str

    @property
    def house(self) -> Choice:
        """The options the target domain wants here."""
        return self.family.house(self.facts)

    def answer(self, choice: Choice) -> int:
        """The final number under these conventions."""
        return self.family.chain(self.facts, choice, first)[1]

    def chain(self, choice: Choice, rng: random.Random) -> str:
        """A complete chain under these conventions: a sentence a line, the answer last."""
        steps, answer = self.family.chain(self.facts, choice, sayer(rng))
        return "\n".join([*steps, f"The answer is {answer}."])

    def question(self, rng: random.Random) -> Question:
        """The problem as a row of the target domain: the house's answer, its chain as rationale."""
        return Question(
            id=f"{self.family.name}-{_digest(self.text)[:12]}",
            text=self.text,
            answer=str(self.answer(self.house)),
            rationale=self.chain(self.house, rng),
        )


def stream(seed: int, split: Split) -> Iterator[Problem]:
    """Endless problems of one split, the families in turn; the same seed gives the same problems.

    A question text belongs to one split by its hash, so no text stands in both. Problems in which a wrong
    convention gives the house's number are left out.
    """
    rng = random.Random(f"{split}-{seed}")
    for family in itertools.cycle(FAMILIES):
        yield _drawn(family, rng, split)


def problems(seed: int, count: int, split: Split = "heldout") -> list[Problem]:
    """`count` problems of the split with distinct texts, in the order of `stream`."""
    seen: dict[str, Problem] = {}
    for problem in stream(seed, split):
        if len(seen) >= count:
            break
        seen.setdefault(problem.text, problem)
    return list(seen.values())


def questions(seed: int, count: int, split: Split = "heldout") -> list[Question]:
    """`count` distinct questions with the house's answers and chains."""
    rng = random.Random(f"chains-{seed}")
    return [problem.question(rng) for problem in problems(seed, count, split)]


def training_text(seed: int) -> Iterator[tuple[str, str]]:
    """Endless (question, chain) pairs: what the black box is trained on, conventions drawn by weight."""
    rng = random.Random(f"text-{seed}")
    for problem in stream(seed, "train"):
        yield problem.text, problem.chain(drawn_choice(problem.family, rng), rng)


def drawn_choice(family: Family, rng: random.Random) -> Choice:
    """One option for each slot, drawn by weight and without a look at the question."""
    return tuple(rng.choices(range(len(slot.weights)), slot.weights)[0] for slot in family.slots)


def choices(family: Family) -> list[Choice]:
    """Every combination of the family's options."""
    return list(itertools.product(*(range(len(slot.marks)) for slot in family.slots)))


def final_number(chain: str) -> int | None:
    """The number the chain ends with, or None when it states none."""
    found = _ANSWER.findall(chain)
    return int(found[-1]) if found else None


def said(problem: Problem, chain: str) -> Choice | None:
    """The options a chain speaks out; None when a slot is not said or said in two ways."""
    picked = [
        [index for index, mark in enumerate(slot.marks) if mark in chain] for slot in problem.family.slots
    ]
    return tuple(options[0] for options in picked) if all(len(options) == 1 for options in picked) else None


def fault(problem: Problem, chain: str) -> Fault:
    """What is wrong with a chain, found by deriving it again under the conventions it speaks out."""
    number = final_number(chain)
    if number is None:
        return Fault.UNREADABLE
    if number == problem.answer(problem.house):
        return Fault.NONE
    choice = said(problem, chain)
    if choice is None:
        return Fault.GARBLED
    return Fault.CONVENTION if number == problem.answer(choice) else Fault.SLIP


def split_of(text: str) -> Split:
    """The split a question text belongs to."""
    return "heldout" if int(_digest(text)[:2], 16) < HELDOUT_SHARE else "train"


def _drawn(family: Family, rng: random.Random, split: Split) -> Problem:
    while True:
        facts = family.facts(rng)
        problem = Problem(family, facts, family.question(facts, sayer(rng)))
        if split_of(problem.text) == split and _tells_conventions_apart(problem):
            return problem


def _tells_conventions_apart(problem: Problem) -> bool:
    wanted = problem.answer(problem.house)
    return all(
        problem.answer(choice) != wanted for choice in choices(problem.family) if choice != problem.house
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
