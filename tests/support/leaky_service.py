"""The service with a deliberate memory leak of 10 KB per request, which the soak test must detect."""

from typing import Any, cast

import bentoml

from graft.service import app
from graft.service.http import middleware
from graft.service.http.exchange import Exchange

LEAK_BYTES = 10_000  # bytes per request
leaked: list[bytes] = []


class LeakyExchange(Exchange):
    """An exchange that leaks memory."""

    def __init__(self, *channel: Any) -> None:
        super().__init__(*channel)
        leaked.append(bytes([len(leaked) % 255 + 1]) * LEAK_BYTES)  # not zeros: pages of zeros may take no memory


middleware.Exchange = LeakyExchange  # type: ignore[misc]


@bentoml.service(name="graft", workers=1, metrics={"enabled": False}, logging={"access": {"enabled": False}})
class Leaky(app.Graft.inner):  # type: ignore[name-defined, misc]
    """The service under another name, so that BentoML's worker finds it in this module."""


cast(bentoml.Service[Any], Leaky).add_asgi_middleware(middleware.Middleware, app_state=app.app_state, routes=app.routes)
