"""Makes the uvicorn server that BentoML starts speak Graft's protocol."""

import os
import socket
from collections.abc import Mapping

import uvicorn
import uvicorn.config

from . import connection
from .connection import HttpProtocol
from .route import Route
from .state import AppState

ACCEPTS_PER_LOOP = 4


def install(app_state: AppState, routes: Mapping[str, Route]) -> None:
    """Makes the uvicorn server that BentoML starts in this process use `HttpProtocol`."""
    HttpProtocol.service_state, HttpProtocol.routes = app_state, routes
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{connection.__name__}:{HttpProtocol.__name__}"
    _accept_several_per_loop()


def _accept_several_per_loop() -> None:
    """Makes uvicorn accept several connections per iteration of the event loop.

    uvloop accepts one connection per iteration and listening socket, and under load an iteration is slow: two thousand
    clients waited seconds to be accepted, only to be rejected. So each listening socket is duplicated.
    """
    start = uvicorn.Server.startup

    async def startup(self: uvicorn.Server, sockets: list[socket.socket] | None = None) -> None:
        await start(self, sockets and [_duplicate(listener) for listener in sockets for _ in range(ACCEPTS_PER_LOOP)])

    uvicorn.Server.startup = startup  # type: ignore[method-assign]


def _duplicate(listener: socket.socket) -> socket.socket:
    """A second descriptor of the same socket.

    `listener.dup()` would make the socket a blocking one for a moment, in all processes that listen on it: another worker,
    which accepts a connection just then, would wait in the next `accept` until a client comes, and be killed as one that hangs.
    """
    return socket.socket(fileno=os.dup(listener.fileno()))
