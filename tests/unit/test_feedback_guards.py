"""Laws of the guards: repetitions, shares, trust, contradictions; nothing is dropped uncounted."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.data import Feedback, FeedbackKind, question_hash
from trimtab.feedback import Guarded, GuardSettings, guarded
from trimtab.feedback.guards import cap_of

ALL = GuardSettings(source_share=1.0)


def says(source: str, question: str, text: str, right: bool = True, number: str | None = None) -> Feedback:
    value = "right" if right else "wrong"
    return Feedback(question, FeedbackKind.VERDICT, text, value, source, number)


def weighed(*said: Feedback, settings: GuardSettings = ALL, known: dict[str, bool] | None = None) -> Guarded:
    truth = known or {}
    return guarded(
        said,
        settings,
        meaning=lambda question, text: text.strip(),
        truth=lambda question, text: truth.get(text),
    )


def standing(found: Guarded, question: str) -> dict[str, bool]:
    return {each.text: each.is_right for each in found.standings.get(question_hash(question), ())}


def test_what_one_source_says_again_is_said_once():
    found = weighed(
        *(says("bot", "q?", "a", True, str(number)) for number in range(50)), says("ann", "q?", "a", False)
    )
    assert found.counts["repeated"] == 49
    assert found.counts["contradicted"] == 1


def test_where_a_source_changes_its_mind_its_last_word_counts():
    found = weighed(says("ann", "q?", "a", True), says("ann", "q?", "a", False))
    assert standing(found, "q?") == {"a": False}


def test_the_majority_of_sources_holds_and_the_outvoted_are_counted():
    found = weighed(says("ann", "q?", "a"), says("bob", "q?", "a"), says("eve", "q?", "a", False))
    assert standing(found, "q?") == {"a": True}
    assert found.counts["outvoted"] == 1


def test_two_sources_of_equal_standing_that_contradict_decide_nothing():
    found = weighed(says("ann", "q?", "a"), says("bob", "q?", "a", False))
    assert standing(found, "q?") == {}
    assert found.counts["contradicted"] == 1


def test_of_two_that_contradict_the_one_with_the_better_record_is_believed():
    record = [says("ann", f"q{n}?", "truth") for n in range(10)] + [
        says("eve", f"q{n}?", "truth", False) for n in range(3)
    ]
    found = weighed(*record, says("ann", "q?", "a"), says("eve", "q?", "a", False), known={"truth": True})
    assert found.weights["ann"] > found.weights["eve"]
    assert standing(found, "q?") == {"a": True}


def test_a_source_that_known_truth_shows_no_better_than_chance_has_no_say():
    record = [says("eve", f"q{n}?", "truth", False) for n in range(8)]
    found = weighed(*record, says("eve", "new?", "a"), known={"truth": True})
    assert found.weights["eve"] == 0
    assert (standing(found, "new?"), found.counts["distrusted"]) == ({}, 9)


def test_a_source_is_not_made_trustworthy_by_agreeing_with_itself():
    alone = [says("eve", f"q{n}?", "a", True, str(n)) for n in range(20)]
    doubled = [Feedback(f"q{n}?", FeedbackKind.CORRECTION, "a", source="eve") for n in range(20)]
    assert weighed(*alone, *doubled).weights["eve"] == weighed(*alone).weights["eve"]


def test_one_answer_in_two_wordings_is_voted_on_together():
    found = guarded(
        [says("ann", "q?", "so 4"), says("bob", "q?", "it is 4", False), says("cid", "q?", "4!")],
        ALL,
        meaning=lambda question, text: "4",
        truth=lambda question, text: None,
    )
    assert standing(found, "q?") == {"so 4": True}


def test_comments_decide_nothing_and_are_counted():
    found = weighed(Feedback("q?", FeedbackKind.COMMENT, "a", "nice", "ann"))
    assert (found.standings, found.counts["comments"]) == ({}, 1)


def test_of_a_source_above_its_share_the_newest_rows_stay():
    flood = [says("bot", f"b{n}?", "a") for n in range(90)]
    honest = [says(f"user-{n % 5}", f"q{n}?", "a") for n in range(30)]
    found = weighed(*flood, *honest, settings=GuardSettings(source_share=0.25))
    assert found.counts["over_share"] == 80
    assert standing(found, "b89?") == {"a": True}
    assert standing(found, "b0?") == {}


@given(sizes=st.lists(st.integers(1, 200), min_size=1, max_size=12), share=st.floats(0.01, 1))
def test_the_cap_is_the_largest_that_keeps_every_source_within_its_part(sizes, share):
    part = max(share, 1 / len(sizes))

    def fits(cap: int) -> bool:
        return cap <= part * sum(min(size, cap) for size in sizes) + 1e-9

    cap = cap_of(sizes, share)
    assert fits(cap)
    assert not any(fits(larger) for larger in range(cap + 1, max(sizes) + 1))


@pytest.mark.parametrize("share", [0.01, 0.25, 1.0])
def test_one_source_alone_is_kept_whole(share):
    assert cap_of([37], share) == 37


ROWS = st.builds(
    says,
    st.sampled_from(["ann", "bob", "eve"]),
    st.sampled_from(["q1?", "q2?"]),
    st.sampled_from(["a", "b"]),
    st.booleans(),
)


@given(rows=st.lists(ROWS, max_size=30), share=st.floats(0.1, 1))
def test_everything_given_is_kept_or_counted_and_nothing_undecided_stands(rows, share):
    found = weighed(*rows, settings=GuardSettings(source_share=share))
    subjects = {(r.source, r.question, r.text) for r in rows}
    assert found.counts["given"] == len(rows)
    assert found.counts["repeated"] == len(rows) - len(subjects)
    assert all(each.balance for standings in found.standings.values() for each in standings)
    per_question = Counter(each.question for standings in found.standings.values() for each in standings)
    assert all(count <= 2 for count in per_question.values())


def test_a_liar_whom_many_contradict_loses_its_say_and_they_keep_theirs():
    honest = [says(f"user-{n % 6}", f"q{n}?", "a") for n in range(36)]
    lies = [says("eve", f"q{n}?", "a", False) for n in range(12)]
    found = weighed(*honest, *lies)
    assert found.weights["eve"] == 0
    assert min(weight for source, weight in found.weights.items() if source != "eve") > 1
    assert all(standing(found, f"q{n}?") == {"a": True} for n in range(36))


def test_sources_that_nobody_else_speaks_beside_keep_their_prior():
    found = weighed(*(says(f"user-{n % 3}", f"q{n}?", "a") for n in range(9)))
    assert list(found.weights.values()) == pytest.approx([math.log(4)] * 3)


def test_weights_are_those_of_the_slow_way_written_out():
    rows = [
        *((f"s{who}", f"q{n}?", (n * who) % 5 != 1) for who in range(1, 5) for n in range(6)),
        ("s9", "q1?", False),
    ]
    found = weighed(*(says(who, question, "a", right) for who, question, right in rows), known=None)
    weights = dict.fromkeys([who for who, _, _ in rows], math.log(4))
    for _ in range(20):
        accuracy = {who: [4.0, 1.0] for who in weights}
        for who, question, vote in rows:
            odds = sum(weights[w] * (1 if v else -1) for w, q, v in rows if q == question)
            right = 1 / (1 + math.exp(-odds))
            accuracy[who][0] += right if vote else 1 - right
            accuracy[who][1] += 1 - right if vote else right
        weights = {who: max(0.0, math.log(a / b)) for who, (a, b) in accuracy.items()}
    assert found.weights == pytest.approx(weights)
