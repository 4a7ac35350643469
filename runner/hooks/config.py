"""Hooks out of the settings chain: every handler with its source, where it runs, and what does not count and why.

A handler that cannot be understood is never passed over in silence: in managed settings and in our own files
nothing starts, and elsewhere neither, but for what Claude Code knows and this program does not have; that is named.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from runner.dataclass import dataclass
from runner.effects import RuleSource, Source
from runner.errors import ManagedError, SettingsError
from runner.hooks.kinds import BOX, COMMAND, EVENTS, FUNCTION, HOST, HTTP, OWN, PROMPT, TOOL_EVENTS, Callback, Handler
from runner.hooks.matchers import Matcher, matcher_of
from runner.policy.layers import Loaded, Settings

LONGEST_TIMEOUT = 3600.0
MOST_HANDLERS = 500
ELSEWHERE = ("mcp_tool", "agent")
HOOKS_LOCKED = "managed settings allow managed hooks only"
HOOKS_OFF = "hooks are switched off (disableAllHooks)"
UNTRUSTED = "it asks the model: counts once the repository is trusted (fumehood trust)"
URL_LOCKED = "its url is not one of allowedHttpHookUrls"
NOT_ASKED = "managed settings deny instead of asking (denyInsteadOfPrompting)"
Seconds = Annotated[float | int, Field(gt=0, le=LONGEST_TIMEOUT)]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, populate_by_name=True)


class _Common(_Shape):
    condition: str = Field(default="", alias="if")
    timeout: Seconds | None = None
    status_message: str = Field(default="", alias="statusMessage")
    once: bool = False
    on_failure: Literal["continue", "block"] | None = Field(default=None, alias="onFailure")
    where: Literal["box", "host"] | None = None


class _Command(_Common):
    type: Literal["command"]
    command: str = Field(min_length=1)
    args: list[str] | None = None
    shell: Literal["bash", "sh"] | None = None
    asynchronous: bool = Field(default=False, alias="async")
    async_rewake: bool = Field(default=False, alias="asyncRewake")


class _Http(_Common):
    type: Literal["http"]
    url: str
    headers: dict[str, str] = {}
    allowed_env_vars: list[str] = Field(default=[], alias="allowedEnvVars")


class _Prompt(_Common):
    type: Literal["prompt"]
    prompt: str = Field(min_length=1)
    model: str = ""
    continue_on_block: bool = Field(default=False, alias="continueOnBlock")


_SHAPES: dict[str, type[_Command | _Http | _Prompt]] = {COMMAND: _Command, HTTP: _Http, PROMPT: _Prompt}


@dataclass(frozen=True, slots=True, kw_only=True)
class Configured:
    """`handlers`: lowest source first, so that what a higher one says of an input comes last. `notes`: what does
    not count, or means something else than its author may think, each with file and line.
    """

    handlers: tuple[Handler, ...] = ()
    notes: tuple[str, ...] = ()

    def told(self, *, trusted: bool) -> tuple[str, ...]:
        """What the user hears at the start: the notes, and that a repository which is not trusted has hooks."""
        theirs = sorted({handler.source.file for handler in self.handlers if handler.from_repository})
        if trusted or not theirs:
            return self.notes
        return (*self.notes, f"{', '.join(theirs)}: the repository's hooks run, in the box (fumehood policy show)")

    def of(self, event: str) -> tuple[Handler, ...]:
        """The handlers of one event."""
        return tuple(handler for handler in self.handlers if handler.event == event)


def read_hooks(settings: Settings, functions: tuple[Handler, ...] = ()) -> Configured:
    """What counts of all sources. `functions`: those of the Python API. Raises SettingsError (ManagedError for
    managed files).
    """
    handlers: list[Handler] = []
    notes: list[str] = []
    for one in sorted(settings.loaded, key=lambda one: _ORDER[one.layer], reverse=True):
        found = _all(one, notes)
        kept = []
        for handler in found:
            if why := _refused(settings, handler):
                notes.append(f"{_where(handler.source)}: hooks {handler.event} does not count: {why}")
            else:
                kept.append(_limited(settings, handler))
        handlers += kept
    handlers += [handler for handler in functions if not _refused(settings, handler)]
    if len(handlers) > MOST_HANDLERS:
        raise SettingsError(f"there are {len(handlers)} hooks; {MOST_HANDLERS} at most are run")
    unique: dict[Any, Handler] = {}
    for handler in handlers:  # identical ones run once, as the highest source's whose own they are
        key = (handler.event, handler.matcher.text, handler.condition, handler.digest, handler.callback)
        if key not in unique or handler.own or not unique[key].own:
            unique[key] = handler
    return Configured(handlers=tuple(unique.values()), notes=tuple(dict.fromkeys(notes)))


def _all(one: Loaded, notes: list[str]) -> list[Handler]:
    try:
        return list(_handlers(one, notes))
    except SettingsError as error:
        if one.layer is not Source.MANAGED:
            raise
        raise ManagedError(error.problem, file=error.file, line=error.line, column=error.column) from error


_ORDER = {
    layer: number
    for number, layer in enumerate(
        (Source.MANAGED, Source.COMMAND_LINE, Source.LOCAL, Source.PROJECT, Source.USER), start=0
    )
}


def _limited(settings: Settings, handler: Handler) -> Handler:
    """Of the variables in headers those that settings leave."""
    names = settings.value("httpHookAllowedEnvVars")
    if names is None or not handler.variables:
        return handler
    return replace(handler, variables=tuple(name for name in handler.variables if name in names))


def _refused(settings: Settings, handler: Handler) -> str:
    managed = handler.source.layer is Source.MANAGED
    if handler.event == "PermissionRequest" and settings.locked("permissions.denyInsteadOfPrompting"):
        return NOT_ASKED
    if handler.type == PROMPT and handler.from_repository and not settings.trusted:
        return UNTRUSTED
    urls = settings.value("allowedHttpHookUrls")
    if handler.type == HTTP and urls is not None and not any(fnmatch.fnmatchcase(handler.url, text) for text in urls):
        return URL_LOCKED
    off = settings.all("disableAllHooks")
    if any(entry.source.layer is Source.MANAGED for entry in off) or (off and not managed):
        return HOOKS_OFF
    if settings.locked("allowManagedHooksOnly") and not managed and handler.callback is None:
        return HOOKS_LOCKED
    return ""


def _where(source: RuleSource) -> str:
    return f"{source.file}:{source.line}" if source.file else source.layer.value


def _handlers(one: Loaded, notes: list[str]) -> Iterator[Handler]:
    """Those of one file. Raises SettingsError."""
    document = one.document
    strict = one.layer is Source.MANAGED or document.name.endswith((".yaml", ".yml"))
    hooks = document.value.get("hooks") or {}
    if not isinstance(hooks, Mapping):
        raise document.error("hooks holds no object", ("hooks",))
    for event, groups in hooks.items():
        place: tuple[str | int, ...] = ("hooks", event)
        kind = EVENTS.get(event)
        line = document.mark(place)[0]
        if kind is None:
            near = "".join(f"; did you mean {name!r}?" for name in difflib.get_close_matches(event, EVENTS, n=1))
            if strict:
                raise document.error(f"there is no hook event {event!r}{near}", place)
            notes.append(f"{one.file}:{line}: hooks {event} does not count: there is no such event{near}")
            continue
        if not isinstance(groups, list):
            raise document.error(f"hooks.{event} holds no list", place)
        if kind.why:
            notes.append(f"{one.file}:{line}: hooks {event} is never fired: {kind.why}")
        for number, group in enumerate(groups):
            yield from _group(one, event, (*place, number), group, notes, strict=strict)


def _group(
    one: Loaded, event: str, place: tuple[str | int, ...], group: Any, notes: list[str], *, strict: bool
) -> Iterator[Handler]:
    document = one.document
    if not isinstance(group, Mapping) or not isinstance(group.get("hooks"), list):
        raise document.error("a hook stands in an object with a list `hooks`", place)
    _unknown(one, place, group, {"matcher", "hooks"}, notes, strict=strict)
    text = group.get("matcher", "")
    if not isinstance(text, str):
        raise document.error("matcher is no text", (*place, "matcher"))
    matcher = matcher_of(text if EVENTS[event].matches else "")
    if matcher.problem:
        if strict:
            raise document.error(f"matcher {text!r}: {matcher.problem}", (*place, "matcher"))
        line = document.mark((*place, "matcher"))[0]
        notes.append(f"{one.file}:{line}: matcher {text[:60]!r} matches everything: {matcher.problem}")
    for number, raw in enumerate(group["hooks"]):
        handler = _handler(one, event, (*place, "hooks", number), raw, notes, matcher=matcher, strict=strict)
        if handler is not None:
            yield handler


def _handler(
    one: Loaded,
    event: str,
    place: tuple[str | int, ...],
    raw: Any,
    notes: list[str],
    *,
    matcher: Matcher,
    strict: bool,
) -> Handler | None:
    document = one.document
    if not isinstance(raw, Mapping):
        raise document.error("a hook is no object", place)
    kind = raw.get("type")
    line = document.mark(place)[0]
    if kind in ELSEWHERE and one.layer is not Source.MANAGED:
        notes.append(f"{one.file}:{line}: hooks {event} does not count: {kind} hooks are not run by this version")
        return None
    shape = _SHAPES.get(kind) if isinstance(kind, str) else None
    if shape is None:
        raise document.error(f"hooks of type {str(kind)[:40]!r} are not run by this version", place)
    try:
        made = shape.model_validate(dict(raw))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        name = ".".join(map(str, problem["loc"]))
        raise document.error(f"{name}: {problem['msg']}", (*place, *problem["loc"])) from error
    known = {info.alias or name for name, info in shape.model_fields.items()}
    _unknown(one, place, raw, known, notes, strict=strict)
    host = _placed(one, made, place)
    common: dict[str, Any] = {
        "event": event,
        "type": kind,
        "source": RuleSource(layer=one.layer, file=one.file, line=line),
        "where": host,
        "matcher": matcher,
        "timeout": float(made.timeout or (30.0 if kind == PROMPT else EVENTS[event].seconds)),
        "strict": made.on_failure == "block" or (made.on_failure is None and one.layer is Source.MANAGED),
        "from_repository": one.from_repository,
        "condition": made.condition,
    }
    if made.condition and event not in TOOL_EVENTS:
        notes.append(f"{one.file}:{line}: hooks {event} never runs: `if` speaks of tool calls")
        return None
    return Handler(**common, **_of_type(one, made, place))


def _of_type(one: Loaded, made: _Command | _Http | _Prompt, place: tuple[str | int, ...]) -> dict[str, Any]:
    match made:
        case _Command(args=None):
            return {
                "script": made.command,
                "shell": made.shell or "sh",
                "background": made.asynchronous or made.async_rewake,
            }
        case _Command():
            return {
                "argv": (made.command, *(made.args or ())),
                "background": made.asynchronous or made.async_rewake,
            }
        case _Http():
            parts = urlsplit(made.url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
                raise one.document.error("url: an http:// or https:// address without credentials", (*place, "url"))
            return {"url": made.url, "headers": dict(made.headers), "variables": tuple(made.allowed_env_vars)}
        case _Prompt():
            return {"prompt": made.prompt, "model": made.model, "goes_on": made.continue_on_block}


def _placed(one: Loaded, made: _Command | _Http | _Prompt, place: tuple[str | int, ...]) -> str:
    """Where it runs. What is no command acts from the host in any case."""
    if made.type != COMMAND:
        return HOST
    if one.layer is Source.MANAGED:
        return made.where or HOST
    if made.where == HOST and one.layer not in OWN:
        raise one.document.error("where: host is for managed and user settings only", (*place, "where"))
    return made.where or BOX


def _unknown(
    one: Loaded,
    place: tuple[str | int, ...],
    raw: Mapping[str, Any],
    known: set[str],
    notes: list[str],
    *,
    strict: bool,
) -> None:
    for key in raw.keys() - known:
        if strict:
            raise one.document.error(f"unknown key {str(key)[:60]!r} of a hook", (*place, key))
        notes.append(f"{one.file}:{one.document.mark((*place, key))[0]}: {str(key)[:60]} of a hook means nothing here")


def function(
    event: str, callback: Callback, *, matcher: str = "", timeout: float = 60.0, block_on_failure: bool = True
) -> Handler:
    """A hook of the Python API: it runs in this process. Raises SettingsError for what is no event of ours."""
    kind = EVENTS.get(event)
    if kind is None or kind.why:
        raise SettingsError(f"hook event {event!r} is not fired: {kind.why if kind else 'there is no such event'}")
    return Handler(
        event=event,
        type=FUNCTION,
        source=RuleSource(layer=Source.COMMAND_LINE),
        where=HOST,
        matcher=matcher_of(matcher),
        timeout=timeout,
        strict=block_on_failure,
        callback=callback,
    )
