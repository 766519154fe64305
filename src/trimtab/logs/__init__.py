"""Logged completions as others write them, read into rows of recorded answers: `read_logs`, `LOG_FORMATS`.

What a format's rows look like is `openai`'s and `langfuse`'s business, what stands in a file `documents`',
and which answers belong to one question `grouping`'s. Rows of our own are `trimtab.data`'s.
"""

from __future__ import annotations

from trimtab.logs.grouping import LOG_FORMATS, Imported, LogFormat, read_logs

__all__ = ["LOG_FORMATS", "Imported", "LogFormat", "read_logs"]
