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

from runner.version import VERSION

if TYPE_CHECKING:
    from runner.app import new_spec, resume_spec, run
    from runner.effects import Mode
    from runner.errors import FumehoodError
    from runner.events import Event, TextDelta, ToolFinished, ToolRequested, TurnEnded
    from runner.loop.operations import Answer, Interrupt, Prompt, SetMode, SetModel
    from runner.loop.session import Session
    from runner.spec import BoxLimits, RootRef, SessionSpec, TurnLimits

__version__ = VERSION

__all__ = [
    "Answer",
    "BoxLimits",
    "Event",
    "FumehoodError",
    "Interrupt",
    "Mode",
    "Prompt",
    "RootRef",
    "Session",
    "SessionSpec",
    "SetMode",
    "SetModel",
    "TextDelta",
    "ToolFinished",
    "ToolRequested",
    "TurnEnded",
    "TurnLimits",
    "__version__",
    "new_spec",
    "resume_spec",
    "run",
]

_PUBLIC = {
    "runner.app": ("new_spec", "resume_spec", "run"),
    "runner.effects": ("Mode",),
    "runner.errors": ("FumehoodError",),
    "runner.events": ("Event", "TextDelta", "ToolFinished", "ToolRequested", "TurnEnded"),
    "runner.loop.operations": ("Answer", "Interrupt", "Prompt", "SetMode", "SetModel"),
    "runner.loop.session": ("Session",),
    "runner.spec": ("BoxLimits", "RootRef", "SessionSpec", "TurnLimits"),
}


def __getattr__(name: str) -> Any:
    for module, names in _PUBLIC.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'runner' has no attribute {name!r}")
