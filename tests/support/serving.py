"""A model provider for commands that run as processes of their own: ModelServer in a thread beside the test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from runner.models.script import Script
from tests.support.model_server import ModelServer, WireReply, replies_of

KEY = "sk-ant-qa-secret"


def replies(*scripted: dict[str, Any]) -> list[WireReply]:
    """What a scripted model would say, on the wire."""
    return list(replies_of(Script.model_validate({"replies": list(scripted)})))


@contextmanager
def serving(wire: Sequence[WireReply]) -> Iterator[ModelServer]:
    """Serve the replies in order; `environment` names the server to a command."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = ModelServer(wire)
    try:
        asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(10)
        yield server
        asyncio.run_coroutine_threadsafe(server.__aexit__(None, None, None), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def environment(server: ModelServer) -> dict[str, Any]:
    """With which a command asks this server."""
    return {"ANTHROPIC_BASE_URL": server.url, "ANTHROPIC_API_KEY": KEY}
