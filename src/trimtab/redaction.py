"""What must not be shown or stored is taken out here: one rule for records, adapters and messages."""

from __future__ import annotations

from urllib.parse import urlsplit

UNREADABLE = "***"


def without_url_secrets(url: str) -> str:
    """Scheme, host, port and path of a URL: no login, no query, no fragment.

    Of what cannot be read as a URL the scheme alone is left: a password with an unescaped `?` or `#` in it
    would else pass for a host and its port.
    """
    scheme, mark, rest = url.partition("://")
    if not mark:
        scheme, rest = "", url
    try:
        parts = urlsplit(f"//{rest}")
        _ = parts.port  # raises where it is no number
    except ValueError:
        return f"{scheme}{mark}{UNREADABLE}"
    return f"{scheme}{mark}{parts.netloc.rpartition('@')[2]}{parts.path}"
