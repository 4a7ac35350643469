"""The Tool ABC: what a tool declares (name, arguments, effects) and how it runs in the box.

A tool lives in one module with its description in a `.md` of the same name beside it. Only the
gate (`runner.loop.gate`) calls `run`, after the verdict, with paths already resolved.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import field
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from runner.dataclass import dataclass
from runner.effects import Effect, Place
from runner.events import TaskUpdated
from sandbox.spec import Box, Stat

if TYPE_CHECKING:
    from runner.tools.arguments import Arguments

OUTPUT_LIMIT = 30_000


A = TypeVar("A", bound="Arguments")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """`for_model`: text or content blocks (text, image, document). `for_user`: the structured
    object that clients get (reference section 4).
    """

    for_model: str | list[dict[str, Any]]
    for_user: dict[str, Any] = field(default_factory=dict)
    is_error: bool = False
    truncated: bool = False


def tool_error(message: str) -> ToolResult:
    """A failure as a value, in the form that models of this field are used to."""
    return ToolResult(for_model=f"<tool_use_error>{message}</tool_use_error>", is_error=True)


@dataclass(slots=True, kw_only=True)
class Task:
    """A background command: its output file in the box, and its state
    (running, completed, failed, killed). `ended` is set when its end was journalled.
    """

    id: str
    command: str
    output: PurePosixPath
    state: str = "running"
    code: int | None = None
    stop: Callable[[], Awaitable[None]] | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedPage:
    """A page as it was fetched `at` a moment of the monotonic clock, in seconds. `text`: as Markdown; `cut`: there
    is more; `redirect`: where it leads instead.
    """

    at: float
    url: str
    code: int
    reason: str = ""
    bytes: int = 0
    text: str = ""
    cut: bool = False
    redirect: str = ""


@dataclass(slots=True, kw_only=True)
class ToolState:
    """What tools remember between calls of one session: nothing else in a tool is mutable.
    `seen`: files read or written, with their stat then (read-before-edit, staleness); `partial`: those of
    which only a part was shown. `pages`: web pages by address, the latest last. `start`: where the session began,
    to which a lost cwd is reset.
    """

    cwd: PurePosixPath
    start: PurePosixPath = field(default_factory=PurePosixPath)
    seen: dict[PurePosixPath, Stat] = field(default_factory=dict)
    partial: set[PurePosixPath] = field(default_factory=set)
    todos: list[dict[str, Any]] = field(default_factory=list)
    tasks: dict[str, Task] = field(default_factory=dict)
    pages: dict[str, FetchedPage] = field(default_factory=dict)
    searches: int = 0

    def __post_init__(self) -> None:
        """`start` is the first cwd, unless given."""
        if self.start == PurePosixPath():
            self.start = self.cwd


class Planning(Protocol):
    """Mode plan, as the two tools for it see it."""

    def enter(self) -> bool:
        """Change to mode plan; False when it is in force already."""
        ...

    def leave(self) -> str:
        """Back to the mode before it: its name, "" when mode plan is not in force."""
        ...


Exposed = Callable[[str], Mapping[str, str]]


def nothing_exposed(_command: str) -> Mapping[str, str]:
    """An Exposed of no variables."""
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolContext:
    """What the gate hands to a running tool. `targets` maps each path that the effects name to the
    path that was judged: open exactly that. `show` sends live output; `record` journals a
    TaskUpdated. `spawn_task` runs a coroutine that outlives the call (background commands). `answers`: what
    the user said to the questions of the call, by question. `consult`: a small model's answer to a prompt, None
    where there is no model to ask. `exposed`: variables that one command alone gets.
    """

    call: str
    box: Box
    place: Place
    state: ToolState
    targets: Mapping[PurePosixPath, PurePosixPath]
    show: Callable[[str], None]
    record: Callable[[TaskUpdated], None]
    spawn_task: Callable[[Any], Any]
    environment: Mapping[str, str] = field(default_factory=dict)
    planning: Planning | None = None
    answers: Mapping[str, str] = field(default_factory=dict)
    consult: Callable[[str], Awaitable[str]] | None = None
    exposed: Exposed = nothing_exposed


def described(module: str) -> str:
    """The description beside a tool's module: `described(__file__)` reads its `.md`."""
    return Path(module).with_suffix(".md").read_text(encoding="utf-8").strip()


class Tool(ABC, Generic[A]):
    """One tool. Stateless: two sessions may share an instance."""

    name: str
    asks: bool = False
    """True: it needs somebody who answers; not offered where nobody can be asked."""
    optional: bool = False
    """True: offered only when named in `--tools` or `--allowedTools`."""

    @property
    @abstractmethod
    def args(self) -> type[A]:
        """What a call's input is parsed into."""

    @property
    @abstractmethod
    def description(self) -> str:
        """The text for the model (from the `.md` file)."""

    def schema(self) -> dict[str, Any]:
        """The JSON Schema of the arguments, as the model sees it."""
        made: dict[str, Any] = import_module("runner.tools.schema").schema_of(self.args)
        return made

    @abstractmethod
    def effects(self, args: A, place: Place) -> tuple[Effect, ...]:
        """What this call would do. Pure; relative paths are joined to `place.cwd`, not resolved."""

    @abstractmethod
    async def run(self, args: A, ctx: ToolContext) -> ToolResult:
        """Do it. Failures of the work are values (`tool_error`); BoxLostError and its like pass."""
