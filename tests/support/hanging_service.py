"""The service with a request that hangs the worker for good: a regular expression that holds Python's lock for centuries."""

import re
from typing import Any, cast

import bentoml

from graft.service import app, supervision
from graft.service.http import middleware
from graft.service.http.exchange import Exchange

supervision.HANG_TICKS = 4
HEADER = "x-hang"


class HangingExchange(Exchange):
    """An exchange that hangs if the request has the header."""

    def __init__(self, *channel: Any) -> None:
        super().__init__(*channel)
        if HEADER in self.request.headers:
            re.fullmatch("(a*)*b", "a" * 60)


middleware.Exchange = HangingExchange  # type: ignore[misc]


@bentoml.service(name="graft", workers=1, metrics={"enabled": False}, logging={"access": {"enabled": False}})
class Hanging(app.Graft.inner):  # type: ignore[name-defined, misc]
    """The service under another name, so that BentoML's worker finds it in this module."""


cast(bentoml.Service[Any], Hanging).add_asgi_middleware(middleware.Middleware, app_state=app.app_state, routes=app.routes)
