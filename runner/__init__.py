"""fumehood's host-side controller, and its public Python API.

A session is started from one serialisable spec, driven by operations and watched as events:

    import asyncio, os
    from runner import Prompt, TurnEnded, new_spec, run

    async def main():
        spec = new_spec(cwd="/path/to/repository", model="scripted:/path/to/script.yaml")
        async with run(spec, environ=os.environ) as session:
            await session.submit(Prompt.text("make the tests pass"))
            async for event in session.events():
                print(event.type)
                if isinstance(event.body, TurnEnded):
                    break

    asyncio.run(main())

`async for event in session.turn("…")` is the same in one line. The names are imported when first
used, so that `import runner` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.app import new_spec, resume_spec, run

__version__ = "0.1.0"

_PUBLIC = {
    "run": "runner.app",
    "new_spec": "runner.app",
    "resume_spec": "runner.app",
    "SessionSpec": "runner.spec",
    "RootRef": "runner.spec",
    "TurnLimits": "runner.spec",
    "BoxLimits": "runner.spec",
    "Mode": "runner.effects",
    "Session": "runner.loop.session",
    "Prompt": "runner.loop.operations",
    "Interrupt": "runner.loop.operations",
    "Answer": "runner.loop.operations",
    "SetMode": "runner.loop.operations",
    "SetModel": "runner.loop.operations",
    "Event": "runner.events",
    "TurnEnded": "runner.events",
    "TextDelta": "runner.events",
    "ToolRequested": "runner.events",
    "ToolFinished": "runner.events",
    "FumehoodError": "runner.errors",
}
__all__ = [
    "__version__",
    "new_spec",
    "resume_spec",
    "run",
    *sorted(_PUBLIC.keys() - {"run", "new_spec", "resume_spec"}),
]


def __getattr__(name: str) -> Any:
    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module 'runner' has no attribute {name!r}")
    return getattr(import_module(module), name)
