"""What people say of answers, before anything is learnt from it. Pure functions: no store, no model.

    giving      what was said of a served answer's candidates, by number -> feedback by text
    votes       feedback -> votes for and against texts
    guards      whose votes count how much: repetitions, caps, trust, contradictions
    formats     feedback <-> JSONL, Label Studio's tasks, preference pairs

Rows are read in `data`, kept in `store`, and become training data in `adapt`.
"""

from __future__ import annotations

from trimtab.feedback.formats import (
    FORMATS,
    FormatName,
    as_json_lines,
    as_label_studio,
    as_preferences,
    read_feedback,
)
from trimtab.feedback.giving import Given, Preference, UnusableFeedbackError, feedback_from
from trimtab.feedback.guards import Guarded, GuardSettings, Standing, guarded, texts_of
from trimtab.feedback.votes import votes

__all__ = [
    "FORMATS",
    "FormatName",
    "Given",
    "GuardSettings",
    "Guarded",
    "Preference",
    "Standing",
    "UnusableFeedbackError",
    "as_json_lines",
    "as_label_studio",
    "as_preferences",
    "feedback_from",
    "guarded",
    "read_feedback",
    "texts_of",
    "votes",
]
