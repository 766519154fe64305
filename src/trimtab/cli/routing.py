"""What the classifier is not sure of: it abstains, and the LLM itself may be asked instead.

Pure functions of probabilities and of what the LLM said; asking is `labelling`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trimtab.cli.labelling import Labelled
from trimtab.cli.weighing import share
from trimtab.crosstune.network import Array
from trimtab.crosstune.rows import LabelledText


def unsure(probabilities: Array, below: float) -> list[int]:
    """Places of the rows whose likeliest label is less likely than this."""
    found: list[int] = np.flatnonzero(probabilities.max(axis=1) < below).tolist()
    return found


def rows_of(
    rows: Sequence[LabelledText],
    names: Sequence[str],
    probabilities: Array,
    below: float,
    routed: Labelled | None,
) -> list[dict[str, Any]]:
    """One row a text, as it is written: `by` says whose the label is, `status` why there is none.

    Args:
        rows: the texts.
        names: of the columns of `probabilities`.
        probabilities: (texts, classes), the classifier's.
        below: what is less likely is no answer.
        routed: what the LLM said of the rows without an answer, in their order; None where it was not asked.
    """
    found = [_sure(row, names, each.tolist()) for row, each in zip(rows, probabilities, strict=True)]
    places = unsure(probabilities, below)
    for number, at in enumerate(places):
        found[at] |= {"label": None, "by": None, "status": "abstained"}
        if routed is not None:
            found[at] |= _by_llm(routed, number)
    return found


def _sure(row: LabelledText, names: Sequence[str], found: list[float]) -> dict[str, Any]:
    best = max(range(len(names)), key=found.__getitem__)
    parts = (row.text,) if isinstance(row.text, str) else row.text
    text = dict(zip(("text", "text_pair"), parts, strict=False))
    said = {"label": names[best], "by": "classifier", "probability": found[best]}
    return {**text, **said, "probabilities": dict(zip(names, found, strict=True))}


def _by_llm(routed: Labelled, number: int) -> dict[str, Any]:
    said = routed.said[number]
    if said.is_unasked:
        return {}
    if said.label is None:
        return {"by": "llm", "status": str(said.status)}
    return {"label": said.label, "by": "llm", "status": "answered"}


def abstention(
    probabilities: Array,
    truth: Sequence[str],
    names: Sequence[str],
    below: float,
    routed: Labelled | None,
) -> dict[str, Any]:
    """How much is answered, how well, and what routing the rest to the LLM makes of it.

    `accuracy_after_routing` counts what the LLM failed at as wrong; it is None where a limit stopped it.
    """
    right = np.array([names[at] for at in probabilities.argmax(axis=1)]) == np.array(truth)
    places = unsure(probabilities, below)
    answered = np.delete(right, places)
    found: dict[str, Any] = {
        "below": below,
        "answered": len(answered),
        "abstained": len(places),
        "coverage": share(len(answered), len(right)),
        "accuracy_on_answered": share(int(answered.sum()), len(answered)) if len(answered) else None,
    }
    return found if routed is None else {**found, **_after(routed, places, truth, int(answered.sum()))}


def _after(routed: Labelled, places: Sequence[int], truth: Sequence[str], right: int) -> dict[str, Any]:
    by_llm = sum(said.label == truth[at] for said, at in zip(routed.said, places, strict=True))
    return {
        "accuracy_after_routing": None if routed.is_cut else share(right + by_llm, len(truth)),
        "right_by_llm": by_llm,
        "llm": routed.to_json(),
    }


def table_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """The shares of `abstention` as a table has them."""
    named = {
        "coverage": "answered by the classifier",
        "accuracy_on_answered": "right, of these",
        "accuracy_after_routing": "right, with the rest asked of the LLM",
    }
    return [
        [said, f"{found[key]['value']:.3f}", f"{found[key]['low']:.3f} to {found[key]['high']:.3f}"]
        for key, said in named.items()
        if found.get(key)
    ]
