"""The AI judge: letters not positions, nothing guessed, no label shown."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import EndpointError
from trimtab.judge import TRUTHFUL, AIJudge
from trimtab.judge.reply import chosen_labels
from trimtab.judge.showing import labels
from trimtab.llm import ScriptedLLM
from trimtab.types import Candidate, Judgement, Prompt, Question, Verdict

TEXTS = ("weak one", "poor one", "good one", "fair one")


def question(number: int = 0) -> Question:
    return Question(f"q{number}", "Which is best?", answer="the-label", rationale="the-rationale")


def drawn(*texts: str) -> list[Candidate]:
    return [Candidate(text, None) for text in texts]


def judged(judge: AIJudge, candidates: Sequence[Candidate], asked: Question | None = None) -> Judgement:
    return asyncio.run(judge.judge(asked or question(), candidates))


def shown(prompt: Prompt) -> dict[str, str]:
    """The candidates by letter, as the judge sees them."""
    return dict(re.findall(r"^\[([A-Z]+) [0-9a-f]{8}\]\n(.+)$", prompt.messages[-1].content, re.MULTILINE))


def reader(word: str = "good") -> ScriptedLLM:
    """A judge that reads what the candidates say."""
    return ScriptedLLM(
        lambda prompt, draw: "BEST: " + next(letter for letter, text in shown(prompt).items() if word in text)
    )


# ------------------------------------------------------------------------------------ whom it follows


@pytest.mark.parametrize("seed", range(5))
def test_a_judge_that_reads_the_candidates_is_followed_wherever_they_stand(seed):
    judgement = judged(AIJudge(reader(), seed=seed), drawn(*TEXTS))
    assert (judgement.positives, judgement.negatives) == ((2,), (0, 1, 3))
    assert judgement.source == "ai"
    assert judgement.unreadable == 0
    assert judgement.usage.calls == 1


def test_a_judge_that_always_says_a_is_at_chance():
    llm = ScriptedLLM(lambda prompt, draw: "BEST: A")
    picked = [judged(AIJudge(llm), drawn(*TEXTS), question(number)).positives for number in range(400)]
    shares = [picked.count((at,)) / len(picked) for at in range(4)]
    assert shares == pytest.approx([0.25] * 4, abs=0.08)  # three and a half standard errors
    assert sum(shares) == 1


def test_the_order_is_the_seeds_and_the_same_every_time():
    llm = ScriptedLLM(lambda prompt, draw: "BEST: A")
    orders = [
        [judged(AIJudge(llm, seed=seed), drawn(*TEXTS), question(number)).positives for number in range(12)]
        for seed in (0, 0, 1)
    ]
    assert orders[0] == orders[1] != orders[2]


def test_no_label_reference_or_score_is_shown():
    llm = reader()
    candidates = [Candidate(text, f"answer-{text}", 0.123, 0.456, Verdict.RIGHT) for text in TEXTS]
    judged(AIJudge(llm), candidates)
    sent = " ".join(message.content for message in llm.prompts[0].messages)
    assert not any(
        hidden in sent for hidden in ("the-label", "the-rationale", "answer-", "0.123", "0.456", "right.")
    )
    assert all(text in sent for text in TEXTS)


def test_candidates_that_read_the_same_are_shown_once_and_picked_together():
    llm = reader()
    judgement = judged(AIJudge(llm), drawn("good one", "poor one", "good one"))
    assert len(shown(llm.prompts[0])) == 2
    assert (judgement.positives, judgement.negatives) == ((0, 2), (1,))


@pytest.mark.parametrize("texts", [(), ("one",), ("one", "one"), ("one", " ")])
def test_where_there_is_nothing_to_choose_from_nobody_is_asked(texts):
    llm = ScriptedLLM([])
    judgement = judged(AIJudge(llm), drawn(*texts))
    assert (judgement.positives, judgement.negatives, llm.calls) == ((), (), 0)


def test_the_top_k_are_picked_and_the_rest_held_against_them():
    llm = ScriptedLLM(
        lambda prompt, draw: "BEST: " + ", ".join(at for at, text in shown(prompt).items() if text[0] in "gf")
    )
    judgement = judged(AIJudge(llm, top_k=2, criteria=TRUTHFUL), drawn(*TEXTS))
    assert (judgement.positives, judgement.negatives) == ((2, 3), (0, 1))
    sent = llm.prompts[0].messages[-1].content
    assert all(line in sent for line in TRUTHFUL)
    assert "2 best" in sent


def test_one_candidate_at_least_is_left_to_hold_against_the_picked():
    llm = ScriptedLLM(["BEST: A, B"])
    judgement = judged(AIJudge(llm, top_k=5), drawn("one", "two", "three"))
    assert (len(judgement.positives), len(judgement.negatives)) == (2, 1)


def test_by_outcome_supervision_the_picked_ones_final_answer_decides():
    candidates = [
        Candidate("good one", "4"),
        Candidate("fair one", "4"),
        Candidate("poor one", "5"),
        Candidate("x", None),
    ]
    plain = judged(AIJudge(reader()), candidates)
    outcome = judged(AIJudge(reader(), outcome_supervision=True), candidates)
    assert (plain.positives, plain.negatives) == ((0,), (1, 2, 3))
    assert (outcome.positives, outcome.negatives) == ((0, 1), (2, 3))


def test_unreadable_final_answers_are_not_equal_to_each_other():
    candidates = [Candidate("good one", None), Candidate("poor one", None)]
    assert judged(AIJudge(reader(), outcome_supervision=True), candidates).positives == (0,)


# ------------------------------------------------------------------------------------ when it cannot be read


def test_an_unreadable_reply_is_asked_for_again_in_another_order_and_counted():
    llm = ScriptedLLM(["I cannot decide.", "A or B", "BEST: B"])
    judgement = judged(AIJudge(llm), drawn(*TEXTS))
    orders = [tuple(shown(prompt).values()) for prompt in llm.prompts]
    assert len(set(orders)) == 3
    assert judgement.unreadable == 2
    assert judgement.usage.calls == 3
    assert TEXTS[judgement.positives[0]] == orders[2][1]


def test_two_candidates_change_places_with_every_attempt():
    llm = ScriptedLLM(["hm", "hm", "hm"])
    judged(AIJudge(llm), drawn("one", "two"))
    first, second, third = [tuple(shown(prompt).values()) for prompt in llm.prompts]
    assert first == third != second


def test_after_the_last_attempt_the_question_is_left_without_a_judgement():
    llm = ScriptedLLM(lambda prompt, draw: "They are all fine.")
    judgement = judged(AIJudge(llm, attempts=4), drawn(*TEXTS))
    assert (judgement.positives, judgement.negatives) == ((), ())
    assert (judgement.unreadable, llm.calls, judgement.usage.calls) == (4, 4, 4)


def test_every_attempt_is_a_request_of_its_own_for_the_store():
    asked: list[int] = []
    llm = ScriptedLLM(lambda prompt, draw: asked.append(draw) or "hm")
    for seed in (0, 1):
        judged(AIJudge(llm, seed=seed), drawn("one", "two"))
    assert len(set(asked)) == 6


def test_an_unreachable_judge_is_an_error_and_not_an_unreadable_reply():
    llm = ScriptedLLM([], failures={1: EndpointError("down")})
    with pytest.raises(EndpointError):
        judged(AIJudge(llm), drawn(*TEXTS))


# ------------------------------------------------------------------------------------ reading the reply

KNOWN = labels(8)


@pytest.mark.parametrize(
    "reply",
    [
        "BEST: C",
        "best: c",
        "**BEST:** C.",
        "BEST: (C)",
        "BEST: <C>",
        "BEST: [C]",
        "BEST:\nC",
        "BEST = C",
        "BEST: Answer C because it adds up",
        "BEST: C - the sum is right",
        "BEST: C\nA forgets a step.",
        "A is short. B is wrong.\nBEST: C",
        "Which is best: A or B? Neither.\nBEST: C",
        "The best answer is (C).",
        "BEST: C\nSo, BEST: C",
        '{"best": "C"}',
        '["C"]',
        "C",
        "(C)",
        "**C**",
        "Answer C.",
    ],
)
def test_one_letter_is_read_however_it_is_written(reply):
    assert chosen_labels(reply, KNOWN, 1) == ("C",)


@pytest.mark.parametrize(
    "reply",
    [
        "BEST: C, A, B",
        "BEST: C, A and B",
        "BEST: (C), (A), and (B)",
        '{"best": ["C", "A", "B"]}',
        "C, A, B",
        "BEST: C > A > B",
    ],
)
def test_several_letters_are_read_in_their_order(reply):
    assert chosen_labels(reply, KNOWN, 3) == ("C", "A", "B")


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "I cannot say.",
        "A and B are good",
        "BEST: none",
        "BEST: Z",
        "BEST: C, Z",
        "BEST: BAD",
        "BEST: A, B",
        "BEST: A or B",
        "BEST: A, or B",
        "BEST: A/B",
        "BEST: A-C",
        "BEST: A clear win",
        "BEST: A\nBEST: B",
        "The best is a tie.",
        "A's reasoning is best",
    ],
)
def test_what_would_have_to_be_guessed_is_not_read(reply):
    assert chosen_labels(reply, KNOWN, 1) == ()


@given(st.integers(2, 60), st.data())
def test_any_choice_is_read_back_as_it_was_written(count, data):
    known = labels(count)
    chosen = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=5, unique=True))
    assert chosen_labels("BEST: " + ", ".join(chosen), known, 5) == tuple(chosen)


@given(st.text(max_size=60))
def test_whatever_a_judge_says_only_known_letters_are_read(reply):
    assert set(chosen_labels(reply, KNOWN, 2)) <= set(KNOWN)


def test_labels_are_different_also_beyond_the_alphabet():
    assert labels(28)[24:] == ("Y", "Z", "AA", "AB")
    assert len(set(labels(256))) == 256
