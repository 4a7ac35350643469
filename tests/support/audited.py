"""A session told by hand in which everything that an auditor asks for happens, and ways to tamper with a journal."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

from runner.effects import Decision, RunCommand, Source, Verdict, WritePath, effect_to_json
from runner.events import (
    Applied,
    ApprovalAsked,
    ApprovalGiven,
    Body,
    BoxStarted,
    CheckpointTaken,
    Egress,
    Event,
    HeadMoved,
    HookRan,
    Judged,
    PolicyLoaded,
    PromptGiven,
    SessionStarted,
    ToolFinished,
    ToolRequested,
    TurnEnded,
    TurnStarted,
)
from runner.journal import Journal, Secrets, canonical, digest

SESSION = "4f2a91c0-1111-4222-8333-444455556666"


class Told:
    """A journal in `directory`, with ids and times that repeat."""

    def __init__(self, directory: Path, *, secrets: Secrets | None = None) -> None:
        self.directory = directory
        numbers, times = count(1), count(1_700_000_000)
        self.journal = Journal.create(
            directory,
            SESSION,
            lambda: float(next(times)),
            ids=lambda: f"id{next(numbers)}",
            secrets=secrets,
        )
        self.turn = 0

    def say(self, body: Body, *, cause: str = "") -> Event:
        return self.journal.append(body, turn=self.turn, cause=cause)

    def prompt(self, text: str) -> Event:
        self.turn += 1
        event = self.say(PromptGiven(content=[{"type": "text", "text": text}]))
        self.say(TurnStarted(number=self.turn))
        return event

    def ask(self, call: str, tool: str, sent: dict[str, Any]) -> None:
        self.say(ToolRequested(call=call, name=tool, input=sent), cause=call)

    def judge(self, call: str, tool: str, sent: dict[str, Any], effect: Any, verdict: Verdict) -> None:
        body = Judged(
            call=call, tool=tool, digest=digest(sent), effects=[effect_to_json(effect)], verdict=verdict.to_json()
        )
        self.say(body, cause=call)

    def finish(self, call: str, tool: str, *, error: bool = False, content: str = "ok") -> None:
        self.say(ToolFinished(call=call, name=tool, content=content, is_error=error, seconds=0.25), cause=call)

    def keep(self, number: int, label: str, *changed: str, before: str = "") -> None:
        body = CheckpointTaken(
            checkpoint=f"ck{number}",
            label=label,
            files=len(changed),
            size=10,
            seconds=0.01,
            before=before,
            changed=changed,
        )
        self.say(body, cause=before)

    def end(self) -> None:
        body = TurnEnded(
            number=self.turn,
            reason="completed",
            result="Done.",
            rounds=2,
            seconds=4.5,
            api_seconds=3.0,
            usage={"input_tokens": 10},
            cost=0.02,
        )
        self.say(body)


def tell(told: Told, word: str = "word") -> None:
    """Two turns, an apply, and an undo of the second turn. `word` stands wherever a secret could."""
    root = Path("/proj")
    told.say(SessionStarted(spec={"cwd": "/proj", "model": "opus"}, version="0.1.0"))
    told.say(PolicyLoaded(digest="d" * 64, mode="default", sources=("user:~/settings.yaml",)))
    told.prompt(f"make it pass, {word}")
    told.say(BoxStarted(container="c", image="base", engine="docker", runtime="runc", rungs={}))
    rule = Verdict(
        decision=Decision.ALLOW, source=Source.USER, rule="Bash(make *)", reason="a rule", file="~/s.yaml", line=3
    )
    make = {"command": f"make {word}"}
    told.ask("c1", "Bash", make)
    told.say(
        HookRan(
            hook="check",
            event="PreToolUse",
            where="box",
            source="user:~/s.yaml:9",
            outcome="success",
            exit_code=0,
            output={"stdout": f"fine {word}"},
            verdict="",
            digest="e" * 64,
        ),
        cause="c1",
    )
    told.judge("c1", "Bash", make, RunCommand(command=make["command"], cwd=root), rule)  # type: ignore[arg-type]
    told.keep(1, "start of turn", before="c1")
    told.finish("c1", "Bash", content=f"made {word}")
    edit = {"file_path": "/proj/a", "old": "1", "new": "2"}
    told.ask("c2", "Edit", edit)
    asked = Verdict(decision=Decision.ASK, source=Source.MODE, reason="mode default: no rule allows it")
    target: Any = root / "a"
    told.judge("c2", "Edit", edit, WritePath(path=target, link=target, target=root / "real"), asked)  # type: ignore[arg-type]
    told.say(ApprovalAsked(call="c2", tool="Edit", input=edit, reason=asked.reason), cause="c2")
    told.say(ApprovalGiven(call="c2", allowed=True, by="terminal", always=True, reason=word), cause="c2")
    told.keep(2, "call", "root/out", "root/log", before="c2")
    told.finish("c2", "Edit")
    told.keep(3, "end of turn", "root/a")
    told.end()
    told.say(Applied(paths=[{"root": "root", "path": "a", "action": "changed"}], count=1))
    second = told.prompt("push it\x1b[31m")
    push = {"command": "git push"}
    denied = Verdict(
        decision=Decision.DENY, source=Source.MANAGED, rule="Bash(git push *)", reason="no", file="/m", line=1
    )
    told.ask("c3", "Bash", push)
    told.judge("c3", "Bash", push, RunCommand(command="git push", cwd=root), denied)  # type: ignore[arg-type]
    told.finish("c3", "Bash", error=True)
    told.say(
        Egress(
            host="h", port=443, scheme="https", method="GET", path=f"/{word}", verdict={"decision": "deny", "rule": "r"}
        ),
        cause="c3",
    )
    told.end()
    last = told.journal.head()
    told.say(HeadMoved(to=second.parent, reason="the user took a turn back", left=last))


def lines_of(directory: Path) -> list[bytes]:
    return (directory / "journal.jsonl").read_bytes().splitlines()


def put_lines(directory: Path, lines: list[bytes]) -> None:
    (directory / "journal.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))


def made_anew(lines: list[bytes]) -> list[bytes]:
    """The whole chain computed again, numbers and all, as somebody would who knows how."""
    found, previous = [], ""
    for seq, line in enumerate(lines):
        record = json.loads(line) | {"seq": seq, "prev": previous}
        record.pop("hash")
        previous = digest(record)
        found.append(canonical(record)[:-1] + b',"hash":"' + previous.encode() + b'"}')
    return found
