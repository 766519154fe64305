"""What one thing that was said comes to, as votes for and against texts."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.data import Feedback, FeedbackKind


def votes(said: Feedback) -> Iterator[tuple[str, float]]:
    """Each text that it speaks of, and how much for it: from -1, against, to 1.

    A rating of a half is no vote. Of a ranking the first has 1, the last -1, the others lie evenly between.
    A comment is read by people alone.
    """
    match said.kind:
        case FeedbackKind.VERDICT:
            yield said.text, 1.0 if said.value == "right" else -1.0
        case FeedbackKind.RATING:
            yield said.text, 2 * float(said.value) - 1
        case FeedbackKind.PREFERENCE:
            yield said.text, 1.0
            yield said.value, -1.0
        case FeedbackKind.CORRECTION:
            yield said.text, 1.0
        case FeedbackKind.RANKING:
            last = len(said.ranked) - 1
            yield from ((text, 1 - 2 * place / last) for place, text in enumerate(said.ranked))
        case FeedbackKind.COMMENT:
            return
