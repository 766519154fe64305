"""The pages' frame: templates that escape everything, one style sheet, one script, and strict headers.

Data reach a page as text alone; no template marks any of it as safe. The only markup that is not a template's
own are drawings made here (`drawing`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import Response

from trimtab.serve.errors import ApiError, invalid_request

ASSETS = {"style.css": "text/css; charset=utf-8", "keys.js": "text/javascript; charset=utf-8"}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # without any, a form's POST would come from the origin "null"
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
A_DAY = {"Cache-Control": "private, max-age=86400"}  # their address changes with their content
NEVER = {"Cache-Control": "no-store"}


def page(template: str, status: int = 200, **values: Any) -> Response:
    """A page; half a surrogate pair, which black boxes do send, becomes a question mark."""
    text = _templates().get_template(template).render(values)
    headers = {**HEADERS, **NEVER}
    return Response(text.encode("utf-8", "replace"), status, headers, "text/html; charset=utf-8")


class PageRoute(APIRoute):
    """A route whose reader is a person: what was asked wrongly is told on a page."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The route's handler."""
        handle = super().get_route_handler()

        async def told(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                refused = invalid_request(error.errors())
            except ApiError as error:
                if error.status_code not in (400, 404):
                    raise
                refused = error
            return page("message.html", refused.status_code, here="", text=refused.message)

        return told


def asset(name: str) -> Response | None:
    """The style sheet or the script; None for any other name."""
    if name not in ASSETS:
        return None
    return Response(_content(name), 200, {**HEADERS, **A_DAY, "Content-Type": ASSETS[name]})


def drawing(svg: str) -> Markup:
    """One of our own drawings, its styles as attributes: a page takes no style but from its style sheet.

    Text in it was escaped where it was drawn.
    """
    return Markup(re.sub(r' style="([^"]*)"', lambda found: _attributes(found[1]), svg))  # noqa: S704


def _attributes(style: str) -> str:
    pairs = (part.partition(":")[::2] for part in style.split(";") if ":" in part)
    return "".join(f" {_named(name.strip(), value.strip())}" for name, value in pairs)


def _named(name: str, value: str) -> str:
    """One declaration as an attribute; of `font`, which is none, the size."""
    if name != "font":
        return f'{name}="{value}"'
    size = re.search(r"[\d.]+px", value)
    return f'font-size="{size[0]}"' if size else ""


@cache
def _templates() -> Environment:
    found = Environment(
        loader=PackageLoader("trimtab.serve", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(percent=_percent, moment=_moment, opening=_opening)
    found.globals.update(address=_address)
    return found


@cache
def _content(name: str) -> bytes:
    return files("trimtab.serve.pages").joinpath(name).read_bytes()


def _address(name: str) -> str:
    """The path of an asset, which changes with its content."""
    return f"/review/assets/{name}?v={hashlib.sha256(_content(name)).hexdigest()[:8]}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _moment(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _opening(text: str, most: int = 110) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1].rstrip(" .,;:") + "…"
