"""Who may call: decided by the API key, the host, and the origin of a request, before its body is read.

A web page can make its visitor's browser send requests to a service on localhost. It cannot read the answers of another
origin, but it can make the service work for it, and with DNS rebinding (its own host name, which then resolves to 127.0.0.1)
the browser takes the service for the page's own origin. So requests from foreign origins and for foreign names are refused.
"""

import ipaddress
from functools import lru_cache

from starlette.datastructures import Headers
from starlette.types import Scope

from ..settings import ANY, Settings
from .api_keys import ApiKeys

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})  # they change and compute nothing
# Names that no stranger can register: public host names have a dot, and these domains are reserved.
_PRIVATE_DOMAINS = (".localhost", ".internal")


def refusal(scope: Scope, method: str, settings: Settings, *keys: ApiKeys) -> tuple[str, str] | None:
    """The code and detail of the problem if this caller may not use the service; None if it may.

    Args:
        scope: with `headers` and `server`, the address of this end of the connection.
        keys: the sets of keys of which any key will do.
    """
    headers = Headers(scope=scope)
    needs_key = any(some.required for some in keys)
    if needs_key and not any(some.accept(headers.get("authorization", "")) for some in keys):
        return "unauthorized", "Send the header `Authorization: Bearer KEY`."
    host = headers.get("host", "")
    # A page that rebinds its name does not know the key.
    if not needs_key and _is_loopback((scope.get("server") or ("",))[0]) and not _is_own_host(host, settings):
        name = _host_name(host)[:100]
        return "wrong_host", f"This service does not answer to the name {name!r}; allow it with GRAFT_ALLOWED_HOSTS={name}."
    origin = headers.get("origin", "")
    if method not in SAFE_METHODS and not _may_post(origin, headers.get("sec-fetch-site", ""), host, settings):
        return "origin_not_allowed", origin_detail(origin)
    return None


def is_allowed_origin(origin: str, settings: Settings) -> bool:
    return ANY in settings.cors_origins or origin in settings.cors_origins


def origin_detail(origin: str) -> str:
    """The detail of the problem for an origin that is not allowed."""
    shown = origin[:100] or "another origin"
    return f"Web pages of {shown} may not call this service; allow an origin with GRAFT_CORS_ORIGINS."


def _may_post(origin: str, fetch_site: str, host: str, settings: Settings) -> bool:
    """Whether a request is of this origin, of an allowed one, or of no browser; as Go's http.CrossOriginProtection decides."""
    if is_allowed_origin(origin, settings):
        return True
    if fetch_site:
        return fetch_site in ("same-origin", "none")  # none: typed into the address bar
    return not origin or origin.partition("://")[2] == host.lower()


def _is_own_host(host: str, settings: Settings) -> bool:
    """Whether a Host header names this machine, so that no page of a stranger can have this origin."""
    name = _host_name(host)
    if "." not in name or name.endswith(_PRIVATE_DOMAINS):
        return True
    return _is_address(name) or name in settings.allowed_hosts or ANY in settings.allowed_hosts


def _host_name(host: str) -> str:
    """A Host header without its port, in lower case. A final dot marks a name as complete, and means the same."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower().removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=64)
def _is_loopback(address: str) -> bool:
    if not _is_address(address):  # a Unix socket, which only programs of this machine can reach
        return False
    ip = ipaddress.ip_address(address)
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback
