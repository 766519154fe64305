"""Laws of rows set aside on disk: what comes back is what was read, and as often as it is asked for."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from trimtab.cli.spooling import spooled
from trimtab.data import read_recorded
from trimtab.types import Question, Recorded, Sample

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
SAMPLES = st.builds(Sample, TEXTS, st.none() | st.booleans(), st.none() | TEXTS)
ROWS = st.builds(Recorded, st.builds(Question, TEXTS, TEXTS), st.lists(SAMPLES, min_size=1).map(tuple))


@given(st.lists(ROWS))
def test_rows_come_back_as_they_were_as_often_as_they_are_asked_for(rows: list[Recorded]) -> None:
    with spooled(iter(rows)) as kept:
        assert list(kept) == list(kept) == rows
        assert kept.questions == tuple(row.question for row in rows)


def test_rows_out_of_a_pipe_can_be_looked_at_twice(tmp_path: Path) -> None:
    pipe = tmp_path / "rows"
    os.mkfifo(pipe)
    line = '{"id": "a", "question": "2+2?", "answer": "4", "samples": [{"text": "4\\u2028"}]}\n'
    writer = threading.Thread(target=pipe.write_text, args=(line,))
    writer.start()
    with spooled(read_recorded(pipe)) as kept:
        assert list(kept) == list(kept) == [Recorded(Question("a", "2+2?", "4"), (Sample("4\u2028"),))]
    writer.join()
