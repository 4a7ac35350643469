"""Our own commands in the box, and the user's: the part of the gate that no call of the model reaches. Each gets a
Judged with source fumehood or user before it runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import PurePosixPath
from typing import Any

from runner.effects import Decision, Effect, RunCommand, Source, Verdict
from runner.errors import LockedError, UsageError
from runner.loop.boxes import BoxHandle
from runner.loop.fixed import CARRIED_SECONDS, HELPER_OUTPUT, HELPER_SECONDS, HELPERS
from runner.policy.policy import Policy
from runner.tools.base import ToolState
from sandbox.errors import SandboxError
from sandbox.spec import Box, Command, Exited, Process, Stderr, Stdout


class OwnCommands:
    """What the gate has and this part needs."""

    __slots__ = ()
    new_id: Callable[[], str]
    box: BoxHandle
    state: ToolState
    policy: Callable[[], Policy]

    def _record_judged(
        self, call: str, tool: str, sent: dict[str, Any], effects: tuple[Effect, ...], verdict: Verdict
    ) -> None:
        raise NotImplementedError

    async def _guard(self, box: Box, work: Awaitable[Any]) -> Any:
        raise NotImplementedError

    async def helper(self, name: str) -> str:
        """Output of one of our own fixed commands (HELPERS), "" when it fails. Judged like everything
        else, with source fumehood; tool rules do not speak of it.
        """
        argv, cwd = HELPERS[name], self.state.cwd
        box = await self.box.get()
        call = f"fumehood-{self.new_id()}"
        verdict = Verdict(decision=Decision.ALLOW, source=Source.FUMEHOOD, reason=f"helper {name}")
        effect = RunCommand(command=" ".join(argv), cwd=cwd)
        self._record_judged(call, name, {"argv": list(argv), "cwd": str(cwd)}, (effect,), verdict)
        out = bytearray()
        try:
            async for item in await box.exec(Command(argv=argv, cwd=cwd, timeout=HELPER_SECONDS)):
                if isinstance(item, Stdout) and len(out) < HELPER_OUTPUT:
                    out += item.data
                elif isinstance(item, Exited) and item.code != 0:
                    return ""
        except SandboxError:
            return ""
        return out.decode("utf-8", errors="replace")

    async def carry(self, name: str, cwd: PurePosixPath, stdin: bytes, limit: int) -> bytes:
        """All that one of our own fixed commands gives for `stdin`. Raises UsageError when it fails or gives
        more than `limit` bytes. Judged as `helper` is.
        """
        argv = HELPERS[name]
        box = await self.box.get()
        call = f"fumehood-{self.new_id()}"
        verdict = Verdict(decision=Decision.ALLOW, source=Source.FUMEHOOD, reason=f"helper {name}")
        effect = RunCommand(command=" ".join(argv), cwd=cwd)
        sent = {"argv": list(argv), "cwd": str(cwd), "stdin": hashlib.sha256(stdin).hexdigest()}
        self._record_judged(call, name, sent, (effect,), verdict)
        out, problem, code = bytearray(), bytearray(), -1
        command = Command(argv=argv, cwd=cwd, stdin=True, timeout=CARRIED_SECONDS)
        process: Process = await self._guard(box, box.exec(command))
        await process.write_stdin(stdin)
        await process.write_stdin(None)
        async for item in process:
            match item:
                case Stdout(data=data):
                    out += data
                case Stderr(data=data) if len(problem) < HELPER_OUTPUT:
                    problem += data
                case Exited():
                    code = item.code
            if len(out) > limit:
                await process.kill()
                raise UsageError(f"{name} in the box gives more than {limit >> 20} MiB")
        if code != 0:
            said = problem.decode("utf-8", "replace").strip().split("\n")
            why = next((line for line in said if line.startswith("fatal: ")), said[-1]).removeprefix("fatal: ")
            raise UsageError(f"{name} in the box failed: {why or f'exit {code}'}")
        return bytes(out)

    async def user_command(self, command: Command) -> Process:
        """A command of the user's own (`fumehood shell`, `!`): recorded with source user, then started. Raises
        LockedError where managed settings disable it.
        """
        call = f"user-{self.new_id()}"
        verdict = Verdict(decision=Decision.ALLOW, source=Source.USER, reason="the user's own command")
        if locked := "disableShell" in self.policy().locks:
            verdict = Verdict(decision=Decision.DENY, source=Source.MANAGED, rule="disableShell", reason="disableShell")
        box = await self.box.get() if not locked else None
        effect = RunCommand(command=" ".join(command.argv), cwd=command.cwd)
        sent = {"argv": list(command.argv), "cwd": str(command.cwd)}
        self._record_judged(call, "shell", sent, (effect,), verdict)
        if box is None:
            raise LockedError("managed settings disable fumehood shell")
        process: Process = await self._guard(box, box.exec(command))
        return process
