"""The adapted model behind OpenAI's wire format: `create_app` puts the parts together.

    wire, errors            what goes over the wire, and what is said where something is wrong
    keys, limits            who may ask, and how much at once
    adapters, answering     what a model's name means; one adapted answer
    passing, streaming      the black box's own answers; answers as they come
    chat, scoring, classifying, operating   the routes
    recording, metrics, tracing, edge       what is kept, what is counted, the edge
    upkeep, app                             what goes on between requests, the whole

Flags and environment are read by `cli.serving`; SQL stands in `store`, the network's other side in `llm`.
"""

from __future__ import annotations

from trimtab.serve.app import Parts, create_app

__all__ = ["Parts", "create_app"]
