"""The service with a leak, which a soak must notice: ten kilobytes of every request stay for ever."""

from typing import Any, cast

import bentoml

from graft.service import app
from graft.service.http import middleware
from graft.service.http.exchange import Visit

LEAK = 10_000  # bytes
kept: list[bytes] = []


class LeakyVisit(Visit):
    """A visit that is not forgotten."""

    def __init__(self, *channel: Any) -> None:
        super().__init__(*channel)
        kept.append(bytes([len(kept) % 255 + 1]) * LEAK)  # no zeros, which may cost nothing


middleware.Visit = LeakyVisit  # type: ignore[misc]


@bentoml.service(name="graft", workers=1, metrics={"enabled": False}, logging={"access": {"enabled": False}})
class Leaky(app.Graft.inner):  # type: ignore[name-defined, misc]
    """The same under another name, so that BentoML's worker finds it here."""


cast(bentoml.Service[Any], Leaky).add_asgi_middleware(middleware.Gate, serving=app.serving, routes=app.routes)
