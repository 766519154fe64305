from __future__ import annotations

import random
import re
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from trimtab.llm.embedded import world
from trimtab.llm.embedded.families import FAMILIES
from trimtab.llm.embedded.vocabulary import Vocabulary, split
from trimtab.llm.embedded.world import Fault

seeds = st.integers(0, 10_000)


@given(seeds)
def test_every_wrong_convention_leads_to_another_number(seed: int) -> None:
    for problem in islice(world.stream(seed, "train"), len(FAMILIES)):
        wanted = problem.answer(problem.house)
        wrong = [choice for choice in world.choices(problem.family) if choice != problem.house]
        assert wrong
        assert all(problem.answer(choice) != wanted for choice in wrong)


@given(seeds)
def test_a_rationale_is_a_house_chain_that_ends_with_the_answer(seed: int) -> None:
    rng = random.Random(seed)
    for problem in islice(world.stream(seed, "heldout"), len(FAMILIES)):
        question = problem.question(rng)
        assert question.rationale is not None
        assert question.rationale.endswith(f"\nThe answer is {question.answer}.")
        assert world.said(problem, question.rationale) == problem.house


@given(seeds)
def test_every_sum_in_a_chain_is_right(seed: int) -> None:
    operations = {"times": int.__mul__, "+": int.__add__, "-": int.__sub__}
    for _, chain in islice(world.training_text(seed), len(FAMILIES)):
        for left, operation, right, result in re.findall(r"(\d+) (times|\+|-) (\d+) = (\d+)", chain):
            assert operations[operation](int(left), int(right)) == int(result)


@given(seeds)
def test_a_chain_in_any_convention_is_told_from_a_slip(seed: int) -> None:
    rng = random.Random(seed)
    for problem in islice(world.stream(seed, "heldout"), len(FAMILIES)):
        for choice in world.choices(problem.family):
            chain = problem.chain(choice, rng)
            assert world.said(problem, chain) == choice
            is_house = choice == problem.house
            assert world.fault(problem, chain) is (Fault.NONE if is_house else Fault.CONVENTION)


def test_a_wrong_number_is_a_slip_and_a_missing_convention_is_garbled() -> None:
    rng = random.Random(0)
    for problem in world.problems(3, 12):
        right = problem.answer(problem.house)
        steps = problem.chain(problem.house, rng).split("\n")
        assert world.fault(problem, "\n".join([*steps[:-1], f"The answer is {right + 100}."])) is Fault.SLIP
        assert world.fault(problem, f"The answer is {right + 100}.") is Fault.GARBLED
        assert world.fault(problem, "\n".join(steps[:-1])) is Fault.UNREADABLE


def test_no_question_stands_in_both_splits() -> None:
    train = {text for text, _ in islice(world.training_text(1), 3000)}
    heldout = {problem.text for problem in world.problems(1, 600)}
    assert len(heldout) == 600
    assert not train & heldout
    assert all(world.split_of(text) == "train" for text in train)


def test_the_same_seed_gives_the_same_questions_and_another_seed_others() -> None:
    assert world.questions(5, 30) == world.questions(5, 30)
    assert world.questions(5, 30) == world.questions(5, 60)[:30]
    assert not {q.id for q in world.questions(5, 60)} & {q.id for q in world.questions(6, 60)}


def test_the_black_box_draws_its_conventions_without_a_look_at_the_question() -> None:
    counts = {0: [0, 0], 1: [0, 0]}
    rng = random.Random(0)
    for problem in world.problems(9, 3000, "train"):
        if problem.family.name == "recipe":
            counts[problem.facts.case][world.drawn_choice(problem.family, rng)[0]] += 1
    shares = [used / (used + aside) for used, aside in counts.values()]
    assert abs(shares[0] - shares[1]) < 0.15  # 500 questions: three standard errors


def test_the_house_wants_different_options_where_the_question_says_different_things() -> None:
    wishes = {name: set() for name in ("shop", "restaurant", "rental", "recipe")}
    for problem in world.problems(2, 120):
        if problem.family.name in wishes:
            wishes[problem.family.name].add(problem.house)
    assert all(len(found) == 2 for found in wishes.values())


@given(st.text())
def test_the_pieces_of_any_text_joined_are_the_text(text: str) -> None:
    assert "".join(split(text)) == text


@given(seeds)
def test_a_text_of_the_world_survives_its_tokens(seed: int) -> None:
    texts = [f"{question}\n{chain}" for question, chain in islice(world.training_text(seed), 6)]
    vocabulary = Vocabulary.of(texts)
    assert [vocabulary.decode(vocabulary.encode(text)) for text in texts] == texts


def test_an_unknown_word_becomes_one_unknown_piece() -> None:
    vocabulary = Vocabulary.of(["a lamp"])
    assert vocabulary.encode("a zeppelin") == [*vocabulary.encode("a"), vocabulary.unk]
