"""Listening sockets, which several workers share."""

import asyncio
import os
import socket
from typing import Any

import pytest
import uvicorn

from graft.service.http import server


@pytest.fixture
def accepting_several(monkeypatch):
    """uvicorn with a startup that only notes its sockets, made to accept several connections per loop."""
    seen: list[tuple[list[socket.socket], list[bool]]] = []

    async def startup(_: Any, sockets: list[socket.socket]) -> None:
        seen.append((sockets, [os.get_blocking(listener.fileno()) for listener in sockets]))

    monkeypatch.setattr(uvicorn.Server, "startup", startup)
    server._accept_several_per_loop()
    return seen


def test_a_starting_worker_leaves_the_listening_socket_of_the_others_non_blocking(accepting_several):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        os.set_blocking(listener.fileno(), False)  # as a worker that already accepts connections has made it
        with socket.socket(fileno=os.dup(listener.fileno())) as inherited:
            assert inherited.gettimeout() is None  # Python does not know that it is non-blocking
            asyncio.run(uvicorn.Server.startup(object(), [inherited]))  # type: ignore[arg-type]
            [(sockets, are_blocking)] = accepting_several
            assert are_blocking == [False] * server.ACCEPTS_PER_LOOP
            assert {duplicate.getsockname() for duplicate in sockets} == {listener.getsockname()}
            assert len({duplicate.fileno() for duplicate in sockets}) == server.ACCEPTS_PER_LOOP
            for duplicate in sockets:
                duplicate.close()
