"""Hooks that are a POST: the event as JSON, the answer as section 3.4 of the reference has it. From the host, so
judged as what leaves it.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from runner.hooks.kinds import Handler, Ran

MOST = 1 << 20
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


def headers_of(handler: Handler, environ: Mapping[str, str]) -> dict[str, str]:
    """The handler's headers; a variable stands for its value only where the handler lists it and its owner may
    read it.
    """
    allowed = set(handler.variables) if handler.own else set()

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        return environ.get(name, "") if name in allowed else ""

    made = {name: _VARIABLE.sub(value, text) for name, text in handler.headers.items()}
    return {name: re.sub(r"[\r\n\0]", "", text).strip() for name, text in made.items()}


async def post(handler: Handler, body: bytes, *, environ: Mapping[str, str], client: Callable[[], Any] | None) -> Ran:
    """Never raises but for cancellation."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(handler.timeout):
            ran = await _post(handler, body, environ, client)
    except TimeoutError:
        ran = Ran(failure=f"took longer than {handler.timeout:g} seconds")
    except Exception as error:  # noqa: BLE001 (whatever goes wrong out there is a failure of the hook)
        ran = Ran(failure=f"{type(error).__name__}: {error}"[:500])
    return Ran(
        code=ran.code, stdout=ran.stdout, failure=ran.failure, body=ran.body, seconds=round(time.monotonic() - began, 6)
    )


async def _post(handler: Handler, body: bytes, environ: Mapping[str, str], client: Callable[[], Any] | None) -> Ran:
    make = client or import_module("httpx2").AsyncClient
    headers = {"content-type": "application/json"} | headers_of(handler, environ)
    text = bytearray()
    async with (
        make() as http,
        http.stream(
            "POST", handler.url, content=body, headers=headers, timeout=handler.timeout, follow_redirects=False
        ) as reply,
    ):
        async for piece in reply.aiter_bytes():
            text += piece
            if len(text) > MOST:
                return Ran(failure=f"its answer is longer than {MOST >> 20} MiB")
        status = int(reply.status_code)
    if not 200 <= status < 300:
        return Ran(failure=f"it answers with status {status}")
    if not text.strip():
        return Ran(code=0)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        return Ran(failure="its answer is no JSON object")
    return Ran(code=0, stdout=text.decode("utf-8", "replace")[:MOST], body=found)
