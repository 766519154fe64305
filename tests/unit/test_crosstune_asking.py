"""Laws of the LLM as a classifier: what it is asked, how it is read, what counts, how it is weighed."""

from __future__ import annotations

import asyncio
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.cli import routing, weighing
from trimtab.cli.labelling import Labelled
from trimtab.cli.weighing import Weighed
from trimtab.crosstune.asking import (
    AskSettings,
    Said,
    ask_labels,
    label_prompt,
    label_said,
    marks_of,
    shown_shots,
)
from trimtab.crosstune.rows import LabelledText, Labels
from trimtab.errors import BudgetSpentError, EndpointError, RefusedError
from trimtab.llm import ScriptedLLM
from trimtab.types import AnswerStatus, Usage

NAMES = ("weather", "food", "not_sure")
LABELS = Labels(NAMES, {"weather": ["Rain and sun."], "food": ["Meals.", "Taste."], "not_sure": ["Neither."]})
SHOTS = tuple(LabelledText(f"{name} text {at}", name) for name in NAMES for at in range(6))


def ask(llm, texts, shots=(), how=AskSettings()):  # noqa: B008, it is frozen
    return asyncio.run(ask_labels(llm, texts, LABELS, shots, how))


def words(prompt) -> str:
    return "\n".join(message.content for message in prompt.messages)


# --------------------------------------------------------------------------- what is asked


@given(st.integers(0, 9), st.integers(0, 100))
def test_as_many_shots_of_each_label_are_shown_as_there_are_or_as_asked_for(wanted, seed):
    shown = shown_shots(SHOTS, LABELS, AskSettings(wanted, seed=seed))
    expected = {name: min(wanted, 6) for name in NAMES} if wanted else {}
    assert Counter(shot.label for shot in shown) == expected
    assert len(set(shown)) == len(shown)
    assert shown == shown_shots(SHOTS, LABELS, AskSettings(wanted, seed=seed))


def test_another_seed_shows_other_shots():
    drawn = {shown_shots(SHOTS, LABELS, AskSettings(2, seed=seed)) for seed in range(5)}
    assert len(drawn) > 1


def test_every_label_is_described_and_no_label_but_those_of_shots_is_told():
    shown = shown_shots(SHOTS, LABELS, AskSettings(1))
    said = words(label_prompt("is it\nraining", LABELS, shown))
    assert all(
        each in said for each in ("Rain and sun.", "Meals. Taste.", "Neither.", "is it raining\nLabel:")
    )
    assert said.count("Label: ") == 3
    assert "Examples" not in words(label_prompt("is it raining", LABELS))


def test_prompts_of_all_texts_begin_alike_up_to_the_text():
    shown = shown_shots(SHOTS, LABELS, AskSettings(2))
    one, other = (words(label_prompt(text, LABELS, shown)) for text in ("first text", "second text"))
    assert one.replace("first text", "second text") == other
    assert one.index("first text") > one.rindex("Label: ")


def test_both_texts_of_a_pair_are_asked_about():
    said = words(label_prompt(("it rains", "it is wet"), LABELS))
    assert "it rains" in said
    assert "it is wet" in said


# --------------------------------------------------------------------------- how it is read


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("food", "food"),
        (" Food.\n", "food"),
        ('"FOOD"', "food"),
        ("Label: food", "food"),
        ("**Answer:** food", "food"),
        ("not sure", "not_sure"),
        ("(B)", "food"),
        ("b", "food"),
        ("B.", "food"),
        ("(B) food", "food"),
        ("Answer: (A)", "weather"),
        ("The answer is C", "not_sure"),
        ("Label: weather\nNo, wait.\nLabel: food", "food"),
        ("It speaks of weather and of food.\nOn the whole:\nfood", "food"),
        ("I would say food", "food"),
        ("weather or food", None),
        ("It is neither food nor weather.", None),
        ("(Z)", None),
        ("A meal", None),
        ("sport", None),
        ("", None),
    ],
)
def test_a_reply_is_read_into_the_label_it_states(reply, label):
    assert label_said(reply, NAMES) == label


@given(st.sampled_from(NAMES), st.sampled_from(["{}", "{}.", '"{}"', "Label: {}", "  {}  ", "**{}**"]))
def test_a_stated_name_is_read_in_any_case(name, form):
    for said in (name, name.upper(), name.title()):
        assert label_said(form.format(said), NAMES) == name


def test_names_of_one_letter_are_never_taken_for_letters():
    assert set(marks_of(["b", "a"])) == {"-"}
    assert label_said("(A)", ["b", "a"]) == "a"


def test_there_are_letters_only_as_far_as_the_alphabet_goes():
    assert marks_of([f"name {at}" for at in range(26)])[-1] == "(Z)"
    assert set(marks_of([f"name {at}" for at in range(27)])) == {"-"}


# --------------------------------------------------------------------------- asking


def echo(prompt, draw):
    text = words(prompt).rsplit("The text to label:\n", 1)[1]
    return next((name for name in NAMES if name in text), "no idea")


def test_labels_come_in_the_order_of_texts_and_each_has_its_cost():
    found = ask(ScriptedLLM(echo), ["food now", "weather now", "nothing"])
    assert [said.label for said in found] == ["food", "weather", None]
    assert [str(said.status) for said in found] == ["answered", "answered", "unreadable"]
    assert all(said.usage.calls == 1 for said in found)


def test_equal_texts_are_asked_once_and_paid_once():
    llm = ScriptedLLM(echo)
    found = ask(llm, ["food", "weather", "food"])
    assert [said.label for said in found] == ["food", "weather", "food"]
    assert llm.calls == sum((said.usage for said in found), Usage()).calls == 2


def test_a_failed_question_is_kept_as_failed():
    llm = ScriptedLLM(echo, failures={1: EndpointError("down", retryable=True)})
    found = ask(llm, ["food", "weather"], how=AskSettings(concurrency=1))
    assert [said.status for said in found] == [AnswerStatus.FAILED, AnswerStatus.ANSWERED]
    assert len(found) == 2


def test_what_a_limit_kept_from_being_asked_is_told_from_what_failed():
    llm = ScriptedLLM(echo, failures={2: BudgetSpentError("spent")})
    found = ask(llm, ["food", "weather"], how=AskSettings(concurrency=1))
    assert [said.is_unasked for said in found] == [False, True]
    assert Labelled(found).is_cut
    assert Labelled(found).ended(AnswerStatus.FAILED) == 0


@pytest.mark.parametrize("error", [RefusedError("no such key", status=401), EndpointError("down")])
def test_a_refused_key_and_an_outage_are_raised(error):
    llm = ScriptedLLM(echo, failures={1: error})
    with pytest.raises(type(error)):
        ask(llm, ["food"])


# --------------------------------------------------------------------------- weighing


def said_of(labels) -> Labelled:
    status = {True: AnswerStatus.ANSWERED, False: AnswerStatus.UNREADABLE}
    return Labelled(tuple(Said(label, status[label is not None]) for label in labels))


def test_an_unreadable_reply_counts_as_wrong_and_stays_in_the_denominator():
    truth = ["weather", "food", "food", "weather"]
    ours = Weighed("crosstune", ("weather", "food", "food", "food"), 0.1)
    theirs = Weighed.by_llm("llm_zero_shot", said_of(["weather", None, "food", None]))
    first, second = weighing.figures([ours, theirs], truth, NAMES, 0)
    assert first.accuracy["value"] == 0.75
    assert first.minus_crosstune is None
    assert second.accuracy["value"] == 0.5
    assert second.minus_crosstune.value == pytest.approx(-0.25)
    assert second.minus_crosstune.low <= -0.25 <= second.minus_crosstune.high


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from([*NAMES, None])), min_size=1, max_size=30))
def test_macro_f1_is_the_mean_over_the_classes_that_the_rows_have_written_out(rows):
    truth, said = [row[0] for row in rows], [row[1] for row in rows]
    each = []
    for name in sorted(set(truth)):
        both = sum(t == s == name for t, s in rows)
        each.append(2 * both / (truth.count(name) + said.count(name)))
    assert weighing.f1(said, truth, NAMES, 0)["value"] == pytest.approx(sum(each) / len(each))


@given(
    st.lists(
        st.tuples(st.sampled_from(NAMES), st.sampled_from([*NAMES, None]), st.floats(0.34, 1)),
        min_size=1,
        max_size=30,
    ),
    st.floats(0, 1),
)
def test_after_routing_each_row_is_as_right_as_who_answered_it(rows, below):
    sure = np.array([[p, (1 - p) / 2, (1 - p) / 2] for _, _, p in rows])  # it always says the first name
    truth = [label for label, _, _ in rows]
    places = routing.unsure(sure, below)
    routed = said_of([rows[at][1] for at in places])
    found = routing.abstention(sure, truth, NAMES, below, routed)
    slow = [said if p < below else NAMES[0] for _, said, p in rows]
    right = sum(said == wanted for said, wanted in zip(slow, truth, strict=True))
    assert found["accuracy_after_routing"]["value"] == pytest.approx(right / len(rows))
    assert found["answered"] + found["abstained"] == len(rows)
    assert (found["accuracy_on_answered"] is None) == (found["answered"] == 0)


def test_a_written_row_says_whose_label_it_has_and_why_it_has_none():
    rows = [LabelledText(text, None) for text in ("a", "b", "c", "d")]
    sure = np.array([[0.9, 0.1], [0.5, 0.5], [0.6, 0.4], [0.6, 0.4]])
    routed = Labelled(
        (
            Said("y", AnswerStatus.ANSWERED),
            Said(None, AnswerStatus.UNREADABLE),
            Said(None, AnswerStatus.FAILED, error=BudgetSpentError("spent")),
        )
    )
    found = routing.rows_of(rows, ["x", "y"], sure, 0.7, routed)
    assert [(row["label"], row["by"], row.get("status")) for row in found] == [
        ("x", "classifier", None),
        ("y", "llm", "answered"),
        (None, "llm", "unreadable"),
        (None, None, "abstained"),
    ]
    assert all(row["probabilities"] for row in found)
