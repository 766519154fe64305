"""Laws of splits and hashes, for any questions."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.data import data_hash, question_hash, split
from trimtab.errors import InputError
from trimtab.types import Contrast, Question, Recorded, Sample

GOLDEN = {
    "train": ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"],
    "dev": [],
    "test": [],
}  # written down once: adapters in use rest on it

texts = st.text(min_size=1, max_size=40)
questions = st.builds(Question, id=st.text(max_size=5), text=texts, answer=st.none() | st.text(max_size=5))
many = st.lists(questions, max_size=30)
shares = (
    st.lists(st.integers(0, 10), min_size=1, max_size=4)
    .filter(any)
    .map(lambda parts: {f"part{n}": part / sum(parts) for n, part in enumerate(parts)})
)


@given(many, shares, st.text(max_size=5))
def test_every_item_stands_in_exactly_one_split_in_its_order(
    items: list[Question], wanted: dict[str, float], salt: str
) -> None:
    parts = split(items, wanted, salt)
    assert list(parts) == list(wanted)
    assert sum(map(len, parts.values())) == len(items)
    for part in parts.values():
        remaining = iter(items)
        assert all(any(item is other for other in remaining) for item in part)


@given(texts, st.lists(st.text(max_size=5), min_size=2, max_size=8), st.text(max_size=5))
def test_a_question_never_stands_in_two_splits_however_ids_and_spacing_differ(
    text: str, ids: list[str], salt: str
) -> None:
    copies = [Question(name, f"{' ' * n}{text}\n" if n % 2 else text) for n, name in enumerate(ids)]
    assert sum(bool(part) for part in split(copies, salt=salt).values()) == 1


@given(many, many, st.randoms())
def test_where_an_item_goes_does_not_depend_on_the_other_rows_or_the_order(
    items: list[Question], others: list[Question], random: object
) -> None:
    together = [*items, *others]
    random.shuffle(together)  # type: ignore[attr-defined]
    alone, mixed = split(items), split(together)
    for name, part in alone.items():
        assert all(item in mixed[name] for item in part)


@given(questions)
def test_a_question_its_recorded_answers_and_its_contrast_go_to_the_same_split(question: Question) -> None:
    def place(item: Question | Recorded | Contrast) -> str:
        return next(name for name, part in split([item]).items() if part)

    recorded = Recorded(question, (Sample("x"),))
    contrast = Contrast("other", question.text, ("x",), ("y",))
    assert place(question) == place(recorded) == place(contrast)


def test_a_known_question_goes_to_the_same_split_for_ever() -> None:
    parts = split([Question(str(n), f"What is {n} + {n}?") for n in range(12)])
    assert {name: [q.id for q in part] for name, part in parts.items()} == GOLDEN


def test_case_alone_does_not_move_a_question_but_a_salt_does() -> None:
    words = [f"Question {n}" for n in range(200)]
    lower = [Question("", word.lower()) for word in words]
    upper = [Question("", word.upper()) for word in words]
    assert [q.text.lower() for q in split(upper)["dev"]] == [q.text for q in split(lower)["dev"]]
    assert split(lower, salt="a")["dev"] != split(lower, salt="b")["dev"]


def test_splits_have_about_their_shares() -> None:
    parts = split([Question(str(n), f"question {n}") for n in range(5000)])
    sizes = {name: len(part) / 5000 for name, part in parts.items()}
    assert sizes == pytest.approx({"train": 0.8, "dev": 0.1, "test": 0.1}, abs=0.02)


def test_a_share_of_nothing_holds_nothing() -> None:
    items = [Question(str(n), f"question {n}") for n in range(500)]
    parts = split(items, {"none": 0.0, "all": 1.0, "last": 0.0})
    assert {name: len(part) for name, part in parts.items()} == {"none": 0, "all": 500, "last": 0}


@pytest.mark.parametrize(
    "wrong", [{}, {"train": 0.5}, {"train": 1.5, "dev": -0.5}, {"train": 0.9, "dev": 0.2}]
)
def test_shares_that_do_not_add_up_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="add up to 1"):
        split([], wrong)


@given(many, many)
def test_a_data_hash_is_equal_exactly_for_equal_items_in_equal_order(
    left: list[Question], right: list[Question]
) -> None:
    assert data_hash(left) == data_hash(tuple(left))
    assert (data_hash(left) == data_hash(right)) == (left == right)


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_data_hash_is_that_of_the_rows_written_out_as_one_list(number: int) -> None:
    rows = [Question(f"q{each}", "é?", "1", choices=("1", "2")) for each in range(number)]
    written = json.dumps([["Question", asdict(row)] for row in rows], sort_keys=True)
    assert data_hash(rows) == hashlib.sha256(written.encode()).hexdigest()


def test_a_data_hash_sees_every_part_of_a_row() -> None:
    question = Question("a", "q", "1")
    rows = [
        question,
        Recorded(question, (Sample("x"),)),
        Recorded(question, (Sample("x", True),)),
        Recorded(question, (Sample("x"), Sample("x"))),
        Contrast("a", "q", ("1",), ("2",)),
        Contrast("a", "q", ("2",), ("1",)),
    ]
    assert len({data_hash([row]) for row in rows}) == len(rows)


def test_a_question_hash_ignores_spacing_and_accent_forms_but_nothing_that_is_read() -> None:
    assert question_hash(" cafe\u0301  at\tnoon ") == question_hash("caf\u00e9 at noon")
    assert len({question_hash(text) for text in ("x2", "x²", "X2", "x 2")}) == 4
