"""Feedback as others read it: JSONL of ours, Label Studio's tasks, preference pairs.

JSONL and Label Studio keep everything, so that what is exported and imported again is the same. Pairs hold
who was preferred over whom, which is what trainers of other programs read; verdicts, corrections and
rankings become pairs too, and do not come back as what they were.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from trimtab.data import Feedback, FeedbackKind, load_feedback, question_hash
from trimtab.errors import DataError, InputError, Problem
from trimtab.feedback.votes import votes

FormatName = Literal["jsonl", "label-studio", "preferences"]
FORMATS: tuple[FormatName, ...] = get_args(FormatName)
PAIRS_A_QUESTION = 64  # of those that are put together here; what somebody preferred is always there
Row = dict[str, Any]

# A project's labelling set-up for what is exported; Label Studio shows the parts that a task has.
LABELLING = """<View>
  <Text name="question" value="$question"/>
  <Text name="answer" value="$answer"/>
  <Choices name="verdict" toName="answer"><Choice value="right"/><Choice value="wrong"/></Choices>
  <Number name="rating" toName="answer" min="0" max="1" step="0.1"/>
  <TextArea name="comment" toName="answer"/>
  <TextArea name="correction" toName="question"/>
  <Text name="other" value="$other"/>
  <Pairwise name="preference" toName="answer,other"/>
  <List name="candidates" value="$candidates"/>
  <Ranker name="ranking" toName="candidates"/>
</View>"""


def read_feedback(path: Path, form: FormatName) -> tuple[Feedback, ...]:
    """What a file of this form says.

    Raises:
        DataError: with every problem of the file.
    """
    return _from_label_studio(path) if form == "label-studio" else load_feedback(path)


# --------------------------------------------------------------------------- JSONL


def as_json_lines(said: Sequence[Feedback]) -> Iterator[str]:
    """One row a line, as `trimtab feedback import` reads them."""
    return (_line({**_ROWS[each.kind](each), **_givens(each)}) for each in said)


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False)


def _givens(said: Feedback) -> Row:
    about = {"id": said.id, "inference_id": said.inference_id}
    return {"source": said.source, **{key: value for key, value in about.items() if value is not None}}


_ROWS: Mapping[FeedbackKind, Callable[[Feedback], Row]] = {
    FeedbackKind.VERDICT: lambda f: {"question": f.question, "text": f.text, "verdict": f.value},
    FeedbackKind.RATING: lambda f: {"question": f.question, "text": f.text, "rating": float(f.value)},
    FeedbackKind.COMMENT: lambda f: {"question": f.question, "text": f.text, "comment": f.value},
    FeedbackKind.CORRECTION: lambda f: {"question": f.question, "correction": f.text},
    FeedbackKind.PREFERENCE: lambda f: {"prompt": f.question, "chosen": f.text, "rejected": f.value},
    FeedbackKind.RANKING: lambda f: {"question": f.question, "ranking": list(f.ranked)},
}


# --------------------------------------------------------------------------- preference pairs


def as_preferences(said: Sequence[Feedback]) -> Iterator[str]:
    """Rows `{"prompt", "chosen", "rejected", "source"}`: what was preferred, then what follows from the rest.

    What people called right is put before what they called wrong on the same question, at most
    `PAIRS_A_QUESTION` times.
    """
    preferred = [each for each in said if each.kind is FeedbackKind.PREFERENCE]
    yield from as_json_lines(preferred)
    by_question: dict[str, list[Feedback]] = defaultdict(list)
    for each in said:
        if each.kind is not FeedbackKind.PREFERENCE:
            by_question[question_hash(each.question)].append(each)
    taken = {(question_hash(f.question), f.text, f.value) for f in preferred}
    for asked, on_it in by_question.items():
        pairs = [pair for pair in _pairs(on_it) if (asked, *pair) not in taken]
        for chosen, rejected in pairs[:PAIRS_A_QUESTION]:
            row = {"prompt": on_it[0].question, "chosen": chosen, "rejected": rejected}
            yield _line({**row, "source": "derived"})


def _pairs(on_it: Sequence[Feedback]) -> list[tuple[str, str]]:
    """Each text before each that has fewer votes than it, if one is called right or the other wrong."""
    balance: dict[str, float] = defaultdict(float)
    for said in on_it:
        for text, vote in votes(said):
            balance[text] += vote
    right = sorted((text for text, vote in balance.items() if vote > 0), key=lambda text: -balance[text])
    wrong = sorted((text for text, vote in balance.items() if vote < 0), key=lambda text: balance[text])
    return [(chosen, rejected) for chosen in right for rejected in wrong]


# --------------------------------------------------------------------------- Label Studio


def as_label_studio(said: Sequence[Feedback]) -> list[Row]:
    """Tasks with one annotation each, as Label Studio imports them into a project set up as `LABELLING`."""
    return [_task(each) for each in said]


def _task(said: Feedback) -> Row:
    data = {"question": said.question, **_SHOWN[said.kind](said)}
    annotation = {"result": [{"id": "1", **_result(said)}], "completed_by": {"email": said.source}}
    return {"data": data, "meta": _givens(said), "annotations": [annotation]}


_SHOWN: Mapping[FeedbackKind, Callable[[Feedback], Row]] = {
    FeedbackKind.VERDICT: lambda f: {"answer": f.text},
    FeedbackKind.RATING: lambda f: {"answer": f.text},
    FeedbackKind.COMMENT: lambda f: {"answer": f.text},
    FeedbackKind.CORRECTION: lambda f: {},
    FeedbackKind.PREFERENCE: lambda f: {"answer": f.text, "other": f.value},
    FeedbackKind.RANKING: lambda f: {
        "candidates": [{"id": str(at), "body": text} for at, text in enumerate(f.ranked)]
    },
}
_NAMED: Mapping[FeedbackKind, tuple[str, str]] = {  # kind -> Label Studio's type, and what it is put on
    FeedbackKind.VERDICT: ("choices", "answer"),
    FeedbackKind.RATING: ("number", "answer"),
    FeedbackKind.COMMENT: ("textarea", "answer"),
    FeedbackKind.CORRECTION: ("textarea", "question"),
    FeedbackKind.PREFERENCE: ("pairwise", "answer,other"),
    FeedbackKind.RANKING: ("ranker", "candidates"),
}
_VALUES: Mapping[FeedbackKind, Callable[[Feedback], Row]] = {
    FeedbackKind.VERDICT: lambda f: {"choices": [f.value]},
    FeedbackKind.RATING: lambda f: {"number": float(f.value)},
    FeedbackKind.COMMENT: lambda f: {"text": [f.value]},
    FeedbackKind.CORRECTION: lambda f: {"text": [f.text]},
    FeedbackKind.PREFERENCE: lambda f: {"selected": "left"},
    FeedbackKind.RANKING: lambda f: {"ranker": {"candidates": [str(at) for at in range(len(f.ranked))]}},
}


def _result(said: Feedback) -> Row:
    kind, target = _NAMED[said.kind]
    return {"from_name": str(said.kind), "to_name": target, "type": kind, "value": _VALUES[said.kind](said)}


def _from_label_studio(path: Path) -> tuple[Feedback, ...]:
    """What the annotations of a Label Studio export say; those that were cancelled say nothing."""
    found, problems = [], []
    for number, task in enumerate(_tasks(path), start=1):
        try:
            found += list(_of_task(task))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, InputError) as error:
            told = f"{type(error).__name__}: {error}"
            problems.append(Problem(str(path), 0, f"task {number}", f"is not one of ours: {told}"))
    if problems:
        raise DataError(problems)
    return tuple(found)


def _tasks(path: Path) -> list[Any]:
    try:
        tasks = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError([Problem(str(path), 0, "", f"cannot be read as JSON: {error}")]) from None
    if not isinstance(tasks, list):
        raise DataError([Problem(str(path), 0, "", "a JSON list of tasks is needed")])
    return tasks


def _of_task(task: Row) -> Iterator[Feedback]:
    data, meta = task["data"], task.get("meta") or {}
    for annotation in task.get("annotations") or []:
        if annotation.get("was_cancelled"):
            continue
        source = meta.get("source") or _annotator(annotation.get("completed_by"))
        for result in annotation["result"]:
            kind = FeedbackKind(result["from_name"])
            text, value = _READ[kind](data, result["value"])
            yield _checked(
                Feedback(
                    data["question"], kind, text, value, source, meta.get("id"), meta.get("inference_id")
                )
            )


def _annotator(who: Any) -> str:
    """Who annotated: Label Studio gives an account, or its number."""
    if isinstance(who, dict):
        who = who.get("email") or who.get("id")
    return "human" if who is None else str(who)


def _pair(data: Row, value: Row) -> tuple[str, str]:
    pair = data["answer"], data["other"]
    return pair if {"left": True, "right": False}[value["selected"]] else (pair[1], pair[0])


def _ranking(data: Row, value: Row) -> tuple[str, str]:
    bodies = {each["id"]: each["body"] for each in data["candidates"]}
    (order,) = value["ranker"].values()
    best, *others = (bodies[each] for each in order)
    return best, json.dumps(others)


_READ: Mapping[FeedbackKind, Callable[[Row, Row], tuple[str, str]]] = {
    FeedbackKind.VERDICT: lambda data, value: (data["answer"], value["choices"][0]),
    FeedbackKind.RATING: lambda data, value: (data["answer"], repr(float(value["number"]))),
    FeedbackKind.COMMENT: lambda data, value: (data["answer"], value["text"][0]),
    FeedbackKind.CORRECTION: lambda data, value: (value["text"][0], ""),
    FeedbackKind.PREFERENCE: _pair,
    FeedbackKind.RANKING: _ranking,
}


def _checked(said: Feedback) -> Feedback:
    """The same. Raises ValueError where it says what no row of ours may."""
    texts = [said.question, said.text, said.value, said.source, said.id or "", said.inference_id or ""]
    if not all(isinstance(each, str) for each in texts) or not said.question.strip():
        raise ValueError("question, answer and source must be texts")
    if said.kind is FeedbackKind.VERDICT and said.value not in ("right", "wrong"):
        raise ValueError(f"a verdict is right or wrong, not {said.value!r}")
    if said.kind is FeedbackKind.RATING and not 0 <= float(said.value) <= 1:
        raise ValueError(f"a rating is from 0 to 1, not {said.value}")
    if said.kind is not FeedbackKind.COMMENT and not said.text.strip():
        raise ValueError("the text is empty")
    if said.kind is FeedbackKind.PREFERENCE and said.text == said.value:
        raise ValueError("the two answers are the same")
    return said
