"""Who may ask: the key that a request brings, held against those in the store.

While there is no key at all, a server on the loopback needs none. A key that was ever made, revoked ones too,
ends that. Limits on how much a key may ask stand in `limits`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import secrets
import time
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection, Request

from trimtab.serve.errors import ApiError
from trimtab.serve.limits import Rates
from trimtab.store import ApiKey, Scope, Store, key_digest

FRESH_S = 1.0  # how long the store's keys are believed: so long a revoked one works on
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SAFE = ("GET", "HEAD", "OPTIONS")

Guarding = Callable[[Request], Awaitable[ApiKey | None]]
Guard = Callable[[Scope | None], Guarding]  # scope -> dependency; None: any key


class KeyRing:
    """The store's keys, read again every second."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._clock = store, clock
        self._keys: tuple[ApiKey, ...] = ()
        self._read_at: float | None = None
        self._reading = asyncio.Lock()

    async def keys(self) -> tuple[ApiKey, ...]:
        """All keys, as of a second ago at most."""
        if self._is_stale():
            async with self._reading:
                if self._is_stale():
                    asked_at = self._clock()
                    self._keys = await asyncio.to_thread(self._store.keys)
                    self._read_at = asked_at
        return self._keys

    def _is_stale(self) -> bool:
        return self._read_at is None or self._clock() - self._read_at > FRESH_S

    async def find(self, presented: str | None) -> ApiKey | None:
        """The key presented, None where none is needed. Raises ApiError (401)."""
        keys = await self.keys()
        if not keys:
            return None
        digest = key_digest(presented or "")
        found = [key for key in keys if secrets.compare_digest(key.digest, digest)]
        if presented is None or not found or found[0].revoked_at is not None:
            raise _unknown()
        return found[0]


def guard_of(ring: KeyRing, rates: Rates) -> Guard:
    """What makes a route need a key: `Depends(guard(scope))` gives it, or None where none is needed.

    Raises (in the route):
        ApiError: 401 without a good key, 403 for one that may not do this, 429 for one that asks too often.
    """

    def guard(scope: Scope | None) -> Guarding:
        async def guarded(request: Request) -> ApiKey | None:
            _refuse_other_sites(request)
            try:
                key = await ring.find(presented_key(request))
            except ApiError as refused:
                raise _with_challenge(refused, scope) from None
            if key is None:
                _refuse_other_hosts(request)
                return None
            if scope is not None and not key.may(scope):
                raise ApiError(403, f"this key has not the scope '{scope}'", code="missing_scope")
            await rates.admit(key)
            request.state.key_id = key.id
            return key

        return guarded

    return guard


def presented_key(request: HTTPConnection) -> str | None:
    """The key that a request brings: as bearer token, `x-api-key`, or the password of a browser's login."""
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and given.strip():
        return given.strip()
    if kind.lower() == "basic":
        return _password(given)
    return request.headers.get("x-api-key")


def _password(given: str) -> str | None:
    try:
        login = base64.b64decode(given, validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return None
    return login.partition(":")[2] or None


def _refuse_other_sites(request: Request) -> None:
    """A browser sends logins, and reaches the loopback, for any page it shows: none but ours may write."""
    origin = request.headers.get("origin")
    if origin is None or request.method in SAFE:
        return
    host = request.headers.get("host", "")
    is_login = request.headers.get("authorization", "")[:6].lower() == "basic "
    brings_key = presented_key(request) is not None and not is_login
    if _netloc(origin) != host and not brings_key:
        raise ApiError(403, "this came from a page of another site", code="cross_site")


def _refuse_other_hosts(request: Request) -> None:
    """Without keys, a name that only claims to be ours (DNS rebinding) is not answered."""
    try:
        name = urlsplit(f"//{request.headers.get('host', '')}").hostname
    except ValueError:
        name = None
    if name not in LOOPBACK:
        raise ApiError(403, "without keys this server answers to 127.0.0.1 and localhost alone", code="host")


def _netloc(origin: str) -> str | None:
    """The host and port of an origin; None where it is none."""
    try:
        return urlsplit(origin).netloc or None
    except ValueError:
        return None


def _unknown() -> ApiError:
    return ApiError(401, "a valid API key is needed: Authorization: Bearer tt-…", code="invalid_api_key")


def _with_challenge(refused: ApiError, scope: Scope | None) -> ApiError:
    """Pages are opened in a browser, which asks for a login where it is told that one is needed."""
    scheme = 'Basic realm="trimtab: any name, your key as password"' if scope is Scope.REVIEW else "Bearer"
    return ApiError(401, refused.message, code=refused.code, headers={"WWW-Authenticate": scheme})
