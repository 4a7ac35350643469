"""Running hooks: those that an event is for, side by side, each through the gate, bounded, and recorded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import field, replace
from hashlib import sha256
from pathlib import PurePosixPath
from typing import Any, Protocol
from urllib.parse import urlsplit

from runner.dataclass import dataclass
from runner.effects import ConnectHost, Decision, Effect, RunCommand, RunOnHost
from runner.events import HookRan
from runner.hooks import box, host, http
from runner.hooks.config import Configured
from runner.hooks.kinds import BOX, COMMAND, EVENTS, FUNCTION, HTTP, Door, Handler, Ran, Wanted
from runner.hooks.outcome import Outcome, Result
from runner.hooks.output import Said, read

MODEL_ANSWER = 20_000
SHOWN = 10_000


class Record(Protocol):
    """Journals what a hook came to."""

    def __call__(self, body: HookRan, *, cause: str = "") -> object:
        """See Session.record."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The session that hooks run in. `cwd` and `mode`: as they are now. `ask`: the model's answer to a prompt
    (and the name of the model that it is put to, "" for the session's).
    """

    door: Door
    record: Record
    new_id: Callable[[], str]
    cwd: Callable[[], PurePosixPath]
    mode: Callable[[], str]
    spawn: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]
    ask: Callable[[str, str], Awaitable[str]] | None = None


@dataclass(slots=True, kw_only=True)
class Hooks:
    """One session's. `configured` gives what is in force now. `root`: the project's directory in the box;
    `homes`: the user's home on the host and the box's. `environ`: the host's. Nothing runs before `attach`.
    """

    configured: Callable[[], Configured]
    session: str
    root: PurePosixPath
    transcript: str = ""
    homes: tuple[str, str] = ("", "")
    environ: Mapping[str, str] = field(default_factory=dict)
    warden: tuple[str, ...] = box.IN_BOX
    client: Callable[[], Any] | None = None
    _stage: Stage | None = None

    def attach(self, stage: Stage) -> None:
        """The session is there."""
        self._stage = stage

    def any(self, event: str) -> bool:
        """Whether some hook waits for the event."""
        return any(handler.event == event for handler in self.configured().handlers)

    def longest(self, event: str) -> float:
        """The longest time in seconds that one of the event's hooks may take."""
        return max((handler.timeout for handler in self.configured().of(event)), default=0.0)

    async def fire(
        self,
        event: str,
        fields: Mapping[str, Any],
        *,
        cause: str = "",
        speaks: Callable[[str], bool] | None = None,
        box_ready: bool = True,
        usual: float = 0.0,
    ) -> Outcome:
        """Tell the hooks of an event, and hear them. `speaks`: whether a permission rule speaks of the call.
        `box_ready` False: those of the box are left out. `usual`: the time in seconds of those that have
        the event's usual one, 0 for that. Never raises but for cancellation.
        """
        stage = self._stage
        chosen = [h for h in self.configured().of(event) if _concerned(h, fields, speaks) and (box_ready or _out(h))]
        if not chosen or stage is None:
            return Outcome()
        if usual:
            chosen = [replace(h, timeout=usual) if h.timeout == EVENTS[event].seconds else h for h in chosen]
        told = {
            "session_id": self.session,
            "transcript_path": self.transcript,
            "cwd": str(stage.cwd()),
            "permission_mode": stage.mode(),
            "hook_event_name": event,
            **fields,
        }
        waiting = []
        for handler in chosen:
            work = self._one(stage, handler, told, cause)
            if handler.background:
                stage.spawn(work)
            else:
                waiting.append(work)
        return Outcome(results=tuple(await asyncio.gather(*waiting)))

    async def _one(self, stage: Stage, handler: Handler, told: dict[str, Any], cause: str) -> Result:
        sent = dict(told) if handler.where != BOX else told | {"transcript_path": ""}
        try:
            ran = await self._run(stage, handler, sent, cause)
        except asyncio.CancelledError:
            self._record(stage, Result(handler=handler, said=Said(failed="cancelled")), Ran(), cause, "cancelled")
            raise
        result = Result(handler=handler, said=read(handler.event, ran))
        outcome = "blocked" if result.refusal else "error" if result.said.failed else "success"
        self._record(stage, result, ran, cause, outcome)
        return result

    def _record(self, stage: Stage, result: Result, ran: Ran, cause: str, outcome: str) -> None:
        handler, said = result.handler, result.said
        output: dict[str, Any] = {
            "stdout": ran.stdout[:SHOWN],
            "stderr": ran.stderr[:SHOWN],
            "failure": said.failed,
            "systemMessage": said.message,
        }
        stage.record(
            HookRan(
                hook=handler.text[:500],
                event=handler.event,
                where=handler.where,
                source=f"{handler.source.layer.value}:{result.where}" if handler.source.file else result.where,
                outcome=outcome,
                exit_code=ran.code,
                output={name: text for name, text in output.items() if text},
                seconds=ran.seconds,
                digest=handler.digest,
                verdict=result.word(),
            ),
            cause=cause,
        )

    async def _run(self, stage: Stage, handler: Handler, told: dict[str, Any], cause: str) -> Ran:
        """Judged first, whatever it is; then run."""
        body = json.dumps(told, ensure_ascii=True).encode()
        argv = self._argv(handler)
        wanted = Wanted(
            call=f"hook-{stage.new_id()}",
            cause=cause,
            effects=_effects(handler, argv, stage.cwd()),
            sent={"hook": handler.digest, "argv": list(argv), "stdin": sha256(body).hexdigest()},
            source=handler.source,
            own=handler.own,
            digest=handler.digest,
        )
        verdict = stage.door.admit(wanted)
        if verdict.decision is not Decision.ALLOW:
            return Ran(failure=f"was not run: {verdict.reason}")
        match handler.type:
            case _ if handler.type == COMMAND and handler.where == BOX:
                return await box.run(
                    stage.door,
                    wanted,
                    argv,
                    cwd=stage.cwd(),
                    stdin=body,
                    environment=self._environment() | {"CLAUDE_PROJECT_DIR": str(self.root)},
                    seconds=handler.timeout,
                    warden=self.warden,
                )
            case _ if handler.type == COMMAND:
                environment = host.clean(self.environ, self._environment())
                return await host.run(argv, stdin=body, environment=environment, seconds=handler.timeout)
            case _ if handler.type == HTTP:
                return await http.post(handler, body, environ=self.environ, client=self.client)
            case _ if handler.type == FUNCTION:
                return await _called(handler, told)
            case _:
                return await _asked(stage, handler, body.decode())

    def _environment(self) -> dict[str, str]:
        return {"CLAUDECODE": "1", "CLAUDE_CODE_SESSION_ID": self.session}

    def _argv(self, handler: Handler) -> tuple[str, ...]:
        """What it runs, as the place that it runs in sees it."""
        if handler.type != COMMAND:
            return ()
        if handler.argv:
            root = str(self.root) if handler.where == BOX else ""
            placed = (text.replace("${CLAUDE_PROJECT_DIR}", root) for text in handler.argv)
            return tuple(self._moved(handler, text) for text in placed)
        return (handler.shell, "-c", self._moved(handler, handler.script))

    def _moved(self, handler: Handler, text: str) -> str:
        """The user's own `.claude` is in the box's home there."""
        theirs, boxes = self.homes
        return text.replace(f"{theirs}/.claude/", f"{boxes}/.claude/") if theirs and handler.where == BOX else text


def _out(handler: Handler) -> bool:
    return handler.where != BOX


def _concerned(handler: Handler, fields: Mapping[str, Any], speaks: Callable[[str], bool] | None) -> bool:
    field_name = EVENTS[handler.event].matches
    if field_name and not handler.matcher.matches(str(fields.get(field_name, ""))):
        return False
    rules = [rule for rule in (handler.matcher.rule, handler.condition) if rule]
    return all(speaks is not None and speaks(rule) for rule in rules)


def _effects(handler: Handler, argv: tuple[str, ...], cwd: PurePosixPath) -> tuple[Effect, ...]:
    text = handler.script or " ".join(argv)
    if handler.type == COMMAND:
        return (RunCommand(command=text, cwd=cwd),) if handler.where == BOX else (RunOnHost(command=text),)
    if handler.type == HTTP:
        parts = urlsplit(handler.url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return (
            ConnectHost(
                host=parts.hostname or "", port=port, scheme=parts.scheme, method="POST", path=parts.path or "/"
            ),
        )
    return ()


async def _called(handler: Handler, told: dict[str, Any]) -> Ran:
    """A function of the program that runs us."""
    assert handler.callback is not None
    try:
        async with asyncio.timeout(handler.timeout):
            body = await handler.callback(told)
    except TimeoutError:
        return Ran(failure=f"took longer than {handler.timeout:g} seconds")
    except Exception as error:  # noqa: BLE001 (somebody else's code: its failure is a failure of the hook)
        return Ran(failure=f"{type(error).__name__}: {error}"[:500])
    if not isinstance(body, Mapping):
        return Ran(failure="its answer is no object")
    return Ran(code=0, body=body)


async def _asked(stage: Stage, handler: Handler, arguments: str) -> Ran:
    """A question to the model, whose answer is `{"ok": bool, "reason": text}`."""
    if stage.ask is None:
        return Ran(failure="there is no model to ask")
    prompt = handler.prompt.replace("$ARGUMENTS", arguments)
    if prompt == handler.prompt:
        prompt = f"{prompt}\n\n{arguments}"
    try:
        async with asyncio.timeout(handler.timeout):
            text = await stage.ask(prompt, handler.model)
    except TimeoutError:
        return Ran(failure=f"took longer than {handler.timeout:g} seconds")
    except Exception as error:  # noqa: BLE001 (the provider's failure is a failure of the hook)
        return Ran(failure=f"{type(error).__name__}: {error}"[:500])
    text = text[:MODEL_ANSWER]
    begin, end = text.find("{"), text.rfind("}")
    try:
        found = json.loads(text[begin : end + 1]) if begin >= 0 else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("ok"), bool):
        return Ran(stdout=text, failure="the model's answer is no verdict")
    reason = str(found.get("reason", ""))[:SHOWN] or "a prompt hook said no"
    return Ran(code=0, stdout=text, body={} if found["ok"] else _refused(handler, reason))


def _refused(handler: Handler, reason: str) -> dict[str, Any]:
    """What a prompt hook's no means at its event."""
    ends = {"continue": False, "stopReason": reason}
    match handler.event:
        case "PreToolUse":
            specific = {"permissionDecision": "deny", "permissionDecisionReason": reason}
            return {"hookSpecificOutput": specific} | ({} if handler.goes_on else ends)
        case "PostToolUse":
            return {"decision": "block", "reason": reason} | ({} if handler.goes_on else ends)
        case "PostToolBatch":
            return ends
        case "PermissionRequest":
            return {}
        case _:
            return {"decision": "block", "reason": reason}
