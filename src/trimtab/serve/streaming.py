"""Answers as server-sent events: comments while candidates are drawn, and errors told in the stream."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TypeVar

from starlette.responses import StreamingResponse

from trimtab.errors import LLMError, RunError
from trimtab.serve.errors import ApiError, of_llm
from trimtab.serve.wire import KEEP_ALIVE, event

LOGGER = logging.getLogger("trimtab.serve")
KEEP_ALIVE_S = 3.0  # well under the shortest idle limits of proxies
Result = TypeVar("Result")


def events(pieces: AsyncIterator[bytes], headers: dict[str, str]) -> StreamingResponse:
    """The response that sends these pieces as they come."""
    unbuffered = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", **headers}
    return StreamingResponse(told(pieces), headers=unbuffered, media_type="text/event-stream")


async def told(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces; where they end in an error, that is the last event, in OpenAI's shape."""
    try:
        async for piece in pieces:
            yield piece
    except ApiError as error:
        yield event(error.body())
    except LLMError as error:
        LOGGER.warning("%s", error)
        yield event(of_llm(error).body())
    except RunError:
        LOGGER.exception("an answer could not be kept")
        yield event(ApiError(503, "the store cannot be used at present", code="store").body())


async def once_there(
    work: Awaitable[Result], pieces: Callable[[Result], Iterable[bytes]], every_s: float = KEEP_ALIVE_S
) -> AsyncIterator[bytes]:
    """The pieces of what the work gives; comments until it is there. The work ends with who listens."""
    task = asyncio.ensure_future(work)
    try:
        yield KEEP_ALIVE
        while not (await asyncio.wait([task], timeout=every_s))[0]:
            yield KEEP_ALIVE
        for piece in pieces(task.result()):
            yield piece
    finally:
        task.cancel()
