"""One gate: the ways to run something in the box are counted here, and each is judged before it runs."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

import runner
from runner.approval import ClientApprover
from runner.effects import Decision, Effect, Mode, Place, RunCommand
from runner.events import ApprovalAsked, ApprovalGiven, Judged, ToolFinished, TurnEnded
from runner.hooks.config import Configured, function
from runner.hooks.run import Hooks
from runner.loop.operations import Answer, Interrupt, Prompt
from runner.tools.base import ToolContext, ToolResult
from runner.tools.registry import default_tools
from sandbox.spec import Command
from tests.unit.loop.conftest import Probe, ProbeArguments, Stage, until

ROOT = Path(runner.__file__).parent


def uses() -> Iterator[tuple[str, str]]:
    """(what, file) for every place that starts a process of the box, hands a box out, or runs a tool; and every
    process of the host.
    """
    for file in sorted(ROOT.rglob("*.py")):
        where = str(file.relative_to(ROOT))
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            if name.endswith(".exec"):
                yield "exec", where
            elif name == "ToolContext":
                yield "ToolContext", where
            elif name.endswith("tool.run"):
                yield "tool.run", where
            elif name.endswith("box.get"):
                yield "box.get", where
            elif (
                name.split(".")[0] in {"subprocess", "pty"}
                or "create_subprocess" in name
                or name.endswith("stdio_client")
                or name in {"os.system", "os.posix_spawn", "os.fork", "printed"}
            ):
                yield "host process", where


def test_there_is_one_gate() -> None:
    assert Counter((what, where) for what, where in uses() if not where.startswith("demo/")) == {
        ("box.get", "loop/gate.py"): 1,  # a call of the model
        ("tool.run", "loop/gate.py"): 1,  # the same, after its Judged
        ("tool.run", "tools/registry.py"): 1,  # the same call, handed to the tool that was imported for it
        ("ToolContext", "loop/gate.py"): 1,  # what a tool gets: the only box that it ever sees
        ("exec", "tools/bash.py"): 1,  # through that
        ("exec", "tools/helpers.py"): 1,  # through that
        ("box.get", "loop/own.py"): 3,  # helper, carry, user_command
        ("exec", "loop/own.py"): 3,  # the same, after their Judged
        ("host process", "hooks/host.py"): 1,  # a hook that its owner places there, after its Judged
        ("host process", "sessions/sink.py"): 1,  # the command that managed settings require as audit sink
        ("host process", "sessions/programs.py"): 1,  # `printed`, for these two:
        ("host process", "sessions/credentials.py"): 1,  # the command that the user's settings name for a key
        ("host process", "sessions/registries.py"): 1,  # package tools by fixed words, in an empty directory
        ("host process", "mcp/prompt_tool.py"): 1,  # the server that the command line places there, after its Judged
        ("exec", "loop/door.py"): 1,  # a hook, in the box that the gate gives it after its Judged
    }


def test_no_parameter_of_a_tool_changes_what_its_effects_are_judged_as() -> None:
    place = Place(cwd=PurePosixPath("/repo"), home=PurePosixPath("/home/box"), roots=(PurePosixPath("/repo"),))
    bash = next(tool for tool in default_tools() if tool.name == "Bash")
    plain = bash.args.model_validate({"command": "rm x"})
    for more in ({"dangerouslyDisableSandbox": True}, {"description": "ls"}, {"timeout": 1}):
        assert bash.effects(bash.args.model_validate({"command": "rm x"} | more), place) == bash.effects(plain, place)


class Shell(Probe):
    name = "Bash"

    def effects(self, args: ProbeArguments, place: Place) -> tuple[Effect, ...]:
        return (RunCommand(command=args.say, cwd=place.cwd),)

    async def run(self, args: ProbeArguments, ctx: ToolContext) -> ToolResult:
        await ctx.box.exec(Command(argv=(args.say,), cwd=ctx.place.cwd))
        return ToolResult(for_model="ran")


async def test_each_way_of_running_something_leaves_a_judged_before_it_runs(stage: Stage) -> None:
    stage.look = Shell()  # type: ignore[assignment]
    stage.script({"tools": [{"name": "Bash", "id": "t1", "input": {"say": "make"}}]}, {"text": "ok"})
    ran: list[tuple[str, ...]] = []
    run = stage.box.exec

    async def watched(command: Command) -> Any:
        judged = [
            body.effects[0]["command"] for body in (e.body for e in stage.journal.read()) if isinstance(body, Judged)
        ]
        assert " ".join(command.argv) in judged, "it ran before it was judged"
        ran.append(command.argv)
        return await run(command)

    stage.box.exec = watched  # type: ignore[method-assign]
    async with stage.open() as session:
        await stage.play(session)
        await session.gate.helper("git_state")
        await session.gate.carry("branch_pack", PurePosixPath("/repo"), b"", 10)
        await session.gate.user_command(Command(argv=("sh",), cwd=PurePosixPath("/repo")))
    assert {("make",), ("sh",)} < set(ran)
    assert len(ran) == sum(isinstance(event.body, Judged) for event in stage.journal.read())


async def test_a_denied_call_is_judged_and_nothing_runs(stage: Stage) -> None:
    stage.look = Shell()  # type: ignore[assignment]
    stage.script({"tools": [{"name": "Bash", "id": "t1", "input": {"say": "ls; sudo rm x"}}]}, {"text": "ok"})
    async with stage.open(deny=("Bash(rm *)",)) as session:
        await stage.play(session)
    assert [body.verdict["rule"] for body in stage.bodies(Judged)] == ["Bash(rm *)"]
    assert all(command.argv != ("ls; sudo rm x",) for command in stage.box.commands)


async def test_what_a_hook_puts_in_its_place_is_judged_anew(stage: Stage) -> None:
    stage.look = Shell()  # type: ignore[assignment]
    stage.script({"tools": [{"name": "Bash", "id": "t1", "input": {"say": "ls"}}]}, {"text": "ok"})

    async def other(told: dict[str, Any]) -> dict[str, Any]:
        return {"hookSpecificOutput": {"permissionDecision": "allow", "updatedInput": {"say": "rm x"}}}

    configured = Configured(handlers=(function("PreToolUse", other),))
    hooks = Hooks(configured=lambda: configured, session="s1", root=PurePosixPath("/repo"))
    async with stage.open(deny=("Bash(rm *)",), hooks=hooks) as session:
        await stage.play(session)
    _, judged = stage.bodies(Judged)
    assert judged.verdict["decision"] == "deny"


@pytest.mark.parametrize(("put", "decision"), [("make x", Decision.ALLOW), ("rm x", Decision.DENY)])
async def test_what_a_client_puts_in_its_place_is_judged_anew(stage: Stage, put: str, decision: Decision) -> None:
    stage.look = Shell()  # type: ignore[assignment]
    stage.script({"tools": [{"name": "Bash", "id": "t1", "input": {"say": "make"}}]}, {"text": "ok"})
    async with stage.open(mode=Mode.DEFAULT, deny=("Bash(rm *)",), approver=ClientApprover()) as session:
        await session.submit(Prompt.text("go"))
        asked = (await until(session, ApprovalAsked)).body
        assert isinstance(asked, ApprovalAsked)
        await session.submit(Answer(call=asked.call, allowed=True, input={"say": put}))
        await until(session, TurnEnded)
    first, second = stage.bodies(Judged)
    assert (first.verdict["decision"], second.verdict["decision"]) == ("ask", decision.name.lower())
    assert first.digest != second.digest
    (finished,) = stage.bodies(ToolFinished)
    assert finished.is_error is (decision is Decision.DENY)


class Slow(ClientApprover):
    """Says yes after an hour of the clock that it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 5.0

    async def ask(self, asked: ApprovalAsked) -> ApprovalGiven:
        self.now += 3600
        return ApprovalGiven(call=asked.call, allowed=True, by="client")


async def test_the_time_of_a_call_is_without_the_wait_for_an_answer(stage: Stage) -> None:
    stage.script({"tools": [{"name": "Change", "id": "t1", "input": {}}]}, {"text": "ok"})
    slow = Slow()
    async with stage.open(mode=Mode.DEFAULT, approver=slow) as session:
        session.gate.monotonic = lambda: slow.now
        await stage.play(session)
    (finished,) = stage.bodies(ToolFinished)
    assert (finished.is_error, finished.seconds, slow.now) == (False, 0.0, 3605.0)


async def test_a_call_that_still_waits_for_its_answer_is_told_as_not_run(stage: Stage) -> None:
    calls = [{"name": "Change", "id": f"t{number}", "input": {"name": str(number)}} for number in (1, 2)]
    stage.script({"tools": calls}, {"text": "ok"})
    async with stage.open(mode=Mode.DEFAULT, approver=ClientApprover()) as session:
        await session.submit(Prompt.text("go"))
        await until(session, ApprovalAsked)
        await session.submit(Interrupt())
        await until(session, TurnEnded)
    assert stage.change.diary == []
    first, second = stage.bodies(ToolFinished)
    assert first.content == second.content
    assert "Not run: the user or a limit ended the turn" in first.content
