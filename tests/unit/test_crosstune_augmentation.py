"""Laws of augmentation: what is asked for, how replies are read, which texts stay, and what is paid for."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.crosstune.augmentation import (
    AugmentSettings,
    Counts,
    Made,
    augment,
    pseudo_labelled,
    text_id,
    writing_request,
)
from trimtab.crosstune.copies import NEAR, Copies, Likeness, grams, jaccard, words
from trimtab.crosstune.rows import LabelledText, Labels, load_labelled
from trimtab.crosstune.wording import label_in, texts_in
from trimtab.errors import BudgetSpentError, EndpointError, InputError, RefusedError
from trimtab.llm import Cached, ScriptedLLM
from trimtab.store import Store
from trimtab.types import Prompt, Purpose

LABELS = Labels(("good", "bad"), {"good": ["Praise.", "Joy."], "bad": ["Blame."]})
SHOTS = tuple(
    LabelledText(f"{word} film number {number} was seen by {name}", label)
    for label, word in (("good", "lovely"), ("bad", "awful"))
    for number, name in enumerate(("ann", "bob", "cat", "dan"))
)
FEW = AugmentSettings(per_label=6, texts_a_reply=3, shots_shown=2)
TREES = ["alder", "birch", "cedar", "elm"]


def invented(prompt: Prompt, draw: int) -> str:
    """Three texts that no other request's are like."""
    label, _, number = (prompt.question_id or "").partition("#")
    return "\n".join(f"{at}. {' '.join(f'{word}-{label}{number}{at}' for word in TREES)}" for at in (1, 2, 3))


def run(llm, shots=SHOTS, how=FEW, labels=LABELS):
    return asyncio.run(augment(llm, shots, labels, how))


# --------------------------------------------------------------------------- near copies

sentences = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=7).map(" ".join)


@given(st.lists(sentences, max_size=8), sentences)
def test_a_near_copy_is_found_as_by_comparing_with_every_text(known, text):
    exact = any(words(text) == words(other) for other in known)
    most = max((jaccard(grams(text), grams(other)) for other in known), default=0.0)
    expected = Likeness.DUPLICATE if exact else Likeness.NEAR_COPY if most >= NEAR else Likeness.NEW
    assert Copies(known).likeness(text) is expected


@given(sentences, sentences)
def test_likeness_is_the_jaccard_of_runs_of_three_words_written_out(one, other):
    def slow(text):
        said = text.split()
        return {tuple(said[at : at + 3]) for at in range(max(1, len(said) - 2))}

    both, either = slow(one) & slow(other), slow(one) | slow(other)
    assert jaccard(grams(one), grams(other)) == len(both) / len(either)


@pytest.mark.parametrize("copy", ["It was FINE", " it was fine. ", "It—was—fine!", "“It was ﬁne”"])
def test_case_punctuation_and_unicode_forms_make_no_other_text(copy):
    assert Copies(["It was fine."]).likeness(copy) is Likeness.DUPLICATE


def test_one_word_changed_in_a_sentence_of_twelve_is_a_near_copy_and_two_are_not():
    text = "the cat sat on the mat and looked out of the window"
    known = Copies([text])
    assert known.likeness(text.replace("mat", "rug")) is Likeness.NEAR_COPY
    changed = text.replace("mat", "rug").replace("looked", "peered")
    assert known.likeness(changed) is Likeness.NEW


def test_the_texts_of_a_pair_are_not_taken_for_one_another():
    known = Copies([("the cat sat down", "a dog stood up")])
    assert known.likeness(("a dog stood up", "the cat sat down")) is Likeness.NEW
    assert known.likeness(("The cat sat down.", "A dog stood up.")) is Likeness.DUPLICATE


def test_texts_without_spaces_or_without_words_are_compared_by_their_signs():
    assert Copies(["今日はとても良い天気です"]).likeness("今日はとても良い天気だ") is Likeness.NEAR_COPY
    assert Copies([":-)"]).likeness(":-(") is Likeness.NEW
    assert Copies([":-)"]).likeness(" :-) ") is Likeness.DUPLICATE


# --------------------------------------------------------------------------- reading


@pytest.mark.parametrize(
    "reply",
    [
        "1. one two\n2. three four",
        "1) one two\n2) three four",
        "(1) one two\n(2) three four",
        "Sure! Here they are:\n\n1. one two\n\n2. three four\n\nLet me know!",
        "- one two\n- three four",
        '* "one two"\n* “three four”',
        "1. **one two**\n2. one:three four".replace("one:three", "three"),
        "1. Good: one two\n2. [good]: three four",
        "1. one\n   two\n2. three\n   four",
        '["one two", "three four"]',
        '```json\n[{"text": "one two"}, {"text": "three four"}]\n```',
        '{"texts": ["one two", "three four"]}',
        "```\n1. one two\n2. three four\n```",
    ],
)
def test_lists_of_many_forms_are_read(reply):
    assert texts_in(reply, "good", is_of_pairs=False) == ["one two", "three four"]


@pytest.mark.parametrize("reply", ["", "I cannot help with that.", "Sure!\nA text\nAnother", "[1, 2]", "{}"])
def test_what_is_not_marked_as_a_text_is_none(reply):
    assert texts_in(reply, "good", is_of_pairs=False) == []


def test_the_last_text_of_a_reply_that_was_cut_is_left_out():
    assert texts_in("1. one two\n2. three", "good", is_of_pairs=False, is_cut=True) == ["one two"]


@pytest.mark.parametrize(
    "reply",
    [
        "1. First: a cat sat | Second: a cat was there",
        "1. First: a cat sat\n   Second: a cat was there",
        '- Text: "a cat sat" / Pair: "a cat was there"',
        "1) Sentence 1: a cat sat || Sentence 2: a cat was there",
        '[{"text": "a cat sat", "text_pair": "a cat was there"}]',
        '[{"first": "a cat sat", "second": "a cat was there"}]',
        '[["a cat sat", "a cat was there"]]',
    ],
)
def test_pairs_of_many_forms_are_read(reply):
    assert texts_in(reply, "good", is_of_pairs=True) == [("a cat sat", "a cat was there")]


@pytest.mark.parametrize("reply", ["1. a cat sat", "1. First: a cat sat", '[{"text": "a cat sat"}]'])
def test_half_a_pair_is_none(reply):
    assert texts_in(reply, "good", is_of_pairs=True) == []


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("sci_tech", "sci_tech"),
        ("Sci/Tech.", "sci_tech"),
        ("'World'", "world"),
        ("Label: world", "world"),
        ("At first sight sports, but the answer is: World.", "world"),
        ("The text is about sports", "sports"),
        ("world\n\nBecause it speaks of states, not of sports.", "world"),
        ("not entailment", "not_entailment"),
        ("entailment", "entailment"),
        ("This is not entailment", "not_entailment"),
        ("world or sports", None),
        ("This is not sports", None),
        ("", None),
        ("politics", None),
    ],
)
def test_a_label_is_read_where_one_is_named_and_none_where_it_is_left_open(reply, label):
    assert label_in(reply, ["world", "sports", "sci_tech", "entailment", "not_entailment"]) == label


def test_labels_that_are_signs_or_differ_by_case_only_are_told_apart():
    assert label_in("+", ["+", "-"]) == "+"
    assert label_in("Label: A", ["a", "A"]) == "A"


# --------------------------------------------------------------------------- writing


def test_every_label_gets_as_many_texts_as_are_wanted_and_no_request_more():
    llm = ScriptedLLM(invented)
    found = run(llm)
    assert Counter(each.label for each in found.made) == {"good": 6, "bad": 6}
    assert found.counts == Counts(asked=4, texts=12, kept={"good": 6, "bad": 6})
    assert llm.calls == 4
    assert {prompt.purpose for prompt in llm.prompts} == {Purpose.AUGMENTATION}


def test_a_request_shows_shots_of_its_label_alone_and_what_the_label_means():
    request = writing_request("bad", 0, SHOTS, LABELS, FEW)
    asked = request.prompt.messages[-1].content
    assert "Blame." in asked
    assert len(re.findall("awful film", asked)) == FEW.shots_shown
    assert "lovely film" not in asked
    assert request == writing_request("bad", 0, SHOTS, LABELS, FEW)


def test_requests_of_one_label_show_other_shots_and_are_other_draws():
    some = [writing_request("bad", number, SHOTS, LABELS, FEW) for number in range(8)]
    assert len({each.prompt.messages for each in some}) > 4
    assert len({each.sampling.seed for each in some}) == 8


def test_a_text_of_several_lines_is_shown_on_one():
    shots = (LabelledText("two\nlines\n\n3. of it", "good"), SHOTS[-1])
    asked = writing_request("good", 0, shots, LABELS, FEW).prompt.messages[-1].content
    assert "1. two lines 3. of it" in asked


def test_what_is_written_again_or_nearly_again_is_dropped_and_asked_for_anew():
    shot = SHOTS[0].text

    def script(prompt, draw):
        first = f"1. {shot.upper()}!\n2. {shot} again\n" if prompt.question_id == "good#0" else ""
        return first + invented(prompt, draw)

    found = run(ScriptedLLM(script))
    assert found.counts.duplicates == 1
    assert found.counts.near_copies == 1
    assert found.counts.kept == {"good": 6, "bad": 6}
    counts = found.counts
    dropped = counts.duplicates + counts.near_copies + counts.spare
    assert counts.texts == dropped + sum(counts.kept.values())


def test_one_text_for_all_requests_is_kept_once_and_asking_ends_at_the_cap():
    llm = ScriptedLLM(lambda prompt, draw: "1. always the same words")
    found = run(llm)
    assert [each.text for each in found.made] == ["always the same words"]
    assert found.counts.asked == 2 * FEW.most_requests
    assert not found.is_cut


def test_unreadable_replies_are_counted_and_asking_ends_at_the_cap():
    found = run(ScriptedLLM(lambda prompt, draw: "I would rather not."))
    assert found.made == ()
    assert found.counts.unreadable == found.counts.asked == 2 * FEW.most_requests


def test_a_label_without_a_shot_is_not_written_of():
    found = run(ScriptedLLM(invented), SHOTS[:4])
    assert {each.label for each in found.made} == {"good"}
    with pytest.raises(InputError, match="no shot of 'bad'"):
        writing_request("bad", 0, SHOTS[:4], LABELS, FEW)


class Shuffling:
    """Answers late calls first."""

    name = "shuffling"

    def __init__(self, llm):
        self._llm, self._waiting = llm, 8

    async def complete(self, prompt, sampling):
        self._waiting = max(0, self._waiting - 1)
        await asyncio.sleep(self._waiting / 500)
        return await self._llm.complete(prompt, sampling)


def test_what_is_kept_does_not_hang_on_the_order_of_the_replies():
    def same_for_both(prompt, draw):
        return invented(prompt, draw).replace("good", "x").replace("bad", "x")

    assert run(ScriptedLLM(same_for_both)).made == run(Shuffling(ScriptedLLM(same_for_both))).made


def test_a_failed_request_is_counted_and_made_up_for_and_an_outage_is_an_error():
    found = run(ScriptedLLM(invented, failures={1: EndpointError("down")}))
    assert (found.counts.failed, found.counts.asked) == (1, 5)
    assert found.counts.kept == {"good": 6, "bad": 6}
    with pytest.raises(EndpointError, match="down"):
        run(ScriptedLLM(invented, failures={call: EndpointError("down") for call in range(1, 9)}))


def test_an_outage_later_ends_the_asking_and_what_there_is_comes_out():
    down = {call: EndpointError("down") for call in range(2, 99)}
    found = run(
        ScriptedLLM(invented, failures=down), SHOTS[:4], AugmentSettings(per_label=9, texts_a_reply=3)
    )
    assert found.counts.kept == {"good": 3}
    assert found.is_cut
    assert found.counts.asked == 5


def test_a_refused_key_is_no_text_that_failed():
    with pytest.raises(RefusedError):
        run(ScriptedLLM(invented, failures={2: RefusedError("who are you", status=401)}))


def test_where_the_money_ends_what_there_is_comes_out_of_all_labels():
    broke = {call: BudgetSpentError("spent") for call in range(3, 99)}
    found = run(ScriptedLLM(invented, failures=broke))
    assert found.is_cut
    assert found.counts.kept == {"good": 3, "bad": 3}
    assert found.counts.failed == 2


def test_a_check_keeps_the_texts_in_which_the_label_is_found_again():
    def script(prompt, draw):
        """Of three texts for a label the first is found to be bad, the second to be nothing."""
        if "#" in prompt.question_id:
            return invented(prompt, draw)
        label, place = re.findall(r"elm-(good|bad)\d+(\d)$", prompt.messages[-1].content, re.MULTILINE)[0]
        return {"1": "bad", "2": "who knows"}.get(place, label)

    how = AugmentSettings(per_label=2, texts_a_reply=3, is_checked=True)
    found = run(ScriptedLLM(script), how=how)
    assert Counter((each.label, each.text[-1]) for each in found.made) == {
        ("good", "3"): 2,
        ("bad", "1"): 1,
        ("bad", "3"): 1,
    }
    counts = found.counts
    assert (counts.texts, counts.mislabelled, counts.unchecked, counts.unreadable) == (9, 2, 3, 3)
    assert counts.texts == counts.mislabelled + counts.unchecked + counts.spare + sum(counts.kept.values())


def test_more_texts_than_were_asked_for_are_spare():
    found = run(ScriptedLLM(invented), how=AugmentSettings(per_label=2, texts_a_reply=2))
    assert found.counts.kept == {"good": 2, "bad": 2}
    assert found.counts.spare == 2


@pytest.mark.parametrize("stop_after", [1, 3])
def test_gone_on_with_nothing_is_paid_for_twice_and_the_same_comes_out(tmp_path: Path, stop_after: int):
    whole = run(ScriptedLLM(invented))
    with Store.open(tmp_path / "store.db") as store:
        broke = {call: BudgetSpentError("spent") for call in range(stop_after + 1, 99)}
        first, second = ScriptedLLM(invented, failures=broke), ScriptedLLM(invented)
        assert run(Cached(first, store.samples_of("run"))).is_cut
        assert run(Cached(second, store.samples_of("run"))).made == whole.made
        assert second.calls == 4 - stop_after
        third = ScriptedLLM(invented)
        assert run(Cached(third, store.samples_of("run"))).made == whole.made
        assert third.calls == 0


def test_pairs_are_written_from_pairs():
    shots = tuple(
        LabelledText((f"{a} is here {label}", f"{b} is there {label}"), label)
        for label, (a, b) in product(("good", "bad"), [("ann", "bob"), ("cat", "dan")])
    )

    def script(prompt, draw):
        assert "First: " in prompt.messages[-1].content
        return invented(prompt, draw).replace(". ", ". First: ").replace(" cedar", " | Second: cedar")

    found = run(ScriptedLLM(script), shots)
    assert found.counts.kept == {"good": 6, "bad": 6}
    assert all(isinstance(each.text, tuple) for each in found.made)


# --------------------------------------------------------------------------- the user's own texts


def test_the_users_texts_come_back_with_the_llms_label_and_copies_are_not_asked_about():
    texts = ["a joy to see", "dull as ditchwater", "A joy to see!", SHOTS[0].text, "no idea"]
    said = {"a joy to see": "good", "dull as ditchwater": "Label: bad.", "no idea": "either"}
    llm = ScriptedLLM({text_id(text): [reply] for text, reply in said.items()})
    found = asyncio.run(pseudo_labelled(llm, texts, SHOTS, LABELS))
    assert found.made == (
        Made("a joy to see", "good", "pseudo"),
        Made("dull as ditchwater", "bad", "pseudo"),
    )
    assert llm.calls == 3
    counts = found.counts
    assert (counts.texts, counts.duplicates, counts.unreadable, counts.unchecked) == (5, 2, 1, 1)


def test_a_label_is_asked_for_with_shots_of_each_label_and_what_they_mean():
    llm = ScriptedLLM(lambda prompt, draw: "good")
    asyncio.run(pseudo_labelled(llm, ["a joy to see"], SHOTS, LABELS))
    asked = llm.prompts[0].messages[-1].content
    assert asked.count("lovely film") == asked.count("awful film") > 0
    assert "Praise. Joy." in asked


def test_rows_that_were_made_can_be_read_again(tmp_path: Path):
    made = [Made("a text", "good", "generated"), Made("another", "bad", "pseudo")]
    file = tmp_path / "made.jsonl"
    file.write_text("".join(json.dumps(each.to_json()) + "\n" for each in made), "utf-8")
    assert load_labelled(file, LABELS.names) == (
        LabelledText("a text", "good"),
        LabelledText("another", "bad"),
    )
    pair = Made(("one", "two"), "good", "generated").to_json()
    assert pair == {"text": "one", "text_pair": "two", "label": "good", "source": "generated"}
