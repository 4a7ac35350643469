"""Access to a session that this process owns: its workspace, and its box where a command needs one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from runner.errors import UsageError
from runner.events import Applied, Recorded
from runner.sessions.access import Selection
from runner.sessions.branches import Carry, make_branch
from runner.sessions.forking import Forker, Request
from runner.sessions.travel import Journey, Travel
from sandbox.apply import Applied as Done
from sandbox.compare import NOW
from sandbox.diff import FileDiff, format_stat
from sandbox.gitpatch import quoted
from sandbox.hunks import to_hunks
from sandbox.selection import PlanError
from sandbox.selection import Selection as Chosen
from sandbox.spec import Command, Process, Pty
from sandbox.workspace import Workspace

LOGIN_SHELL = "if [ -x /bin/bash ]; then exec /bin/bash -l; else exec /bin/sh -l; fi"
APPLIED_PATHS = 500


class Desk:
    """`workspace` gives it with its layers made; `run` starts the user's own commands in the box and
    records them (None: there is no box to be had), `carry` our own fixed ones; `record` journals.
    """

    def __init__(
        self,
        *,
        workspace: Callable[[], Awaitable[Workspace]],
        record: Callable[[Recorded], object],
        run: Callable[[Command], Awaitable[Process]] | None,
        cwd: PurePosixPath,
        carry: Carry | None = None,
        session: str = "",
        travel: Travel,
        forker: Forker | None = None,
    ) -> None:
        self._forker = forker
        self._workspace = workspace
        self._record = record
        self._run = run
        self._cwd = cwd
        self._carry = carry
        self._session = session
        self._travel = travel

    async def changes(self, paths: tuple[str, ...] = (), points: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        """See Access."""
        return [item.to_json() | {"digest": _digest(item)} async for item in self._diffs(paths, points)]

    async def diff(self, paths: tuple[str, ...] = (), points: tuple[str, ...] = ()) -> AsyncIterator[bytes]:
        """See Access."""
        workspace = await self._workspace()
        hosts = {root.name: root.host for root in workspace.roots}
        told = workspace.roots[0].name
        async for item in self._diffs(paths, points):
            root = item.change.root
            if root != told and not points:  # what stands before `diff --git` is no part of the patch
                told = root
                yield b"# in " + quoted(b"", os.fsencode(hosts[root])) + b"\n"
            if item.patch.text:
                yield item.patch.text

    async def stat(self, paths: tuple[str, ...] = (), points: tuple[str, ...] = ()) -> AsyncIterator[bytes]:
        """See Access."""
        workspace = await self._workspace()
        items = [item async for item in self._diffs(paths, points)]
        yield os.fsencode(format_stat([workspace.past.named(item) for item in items] if points else items))

    async def _diffs(self, paths: tuple[str, ...], points: tuple[str, ...] = ()) -> AsyncIterator[FileDiff]:
        workspace = await self._workspace()
        if points:
            old, new = (*points, NOW)[:2]
            found = workspace.past.compare(old, new, paths)
        else:
            found = workspace.diffs(_pairs(workspace, paths) if paths else None)
        async for item in found:
            yield item

    async def apply(self, selection: Selection) -> dict[str, Any]:
        """See Access."""
        workspace = await self._workspace()
        chosen = _chosen(workspace, selection)
        await self._still_as_seen(selection)
        report = await workspace.apply(chosen, dry=selection.dry)
        if report.applied and not selection.dry:
            self._record(Applied(paths=_rows(report.applied[:APPLIED_PATHS]), count=len(report.applied)))
        hosts = {root.name: root.host for root in workspace.roots}
        remarks = {
            name: [asdict(item) | {"file": str(hosts[item.root] / item.path)} for item in getattr(report, name)]
            for name in _REMARKS
        }
        refs = [asdict(move) for move in await workspace.commits()]
        done = [row | {"new": item.new} for row, item in zip(_rows(report.applied), report.applied, strict=True)]
        return {"applied": done, "dry": report.dry, "refs": refs, **remarks}

    async def undo_apply(self) -> dict[str, Any]:
        """See Access."""
        workspace = await self._workspace()
        done = _rows(await workspace.undo_apply())
        if done:
            self._record(Applied(paths=done[:APPLIED_PATHS], count=len(done), undone=True))
        return {"applied": done, "undone": True}

    async def patch(self, selection: Selection) -> AsyncIterator[bytes]:
        """See Access."""
        workspace = await self._workspace()
        async for piece in workspace.patch(_chosen(workspace, selection)):
            yield piece

    async def branch(self, name: str, message: str) -> dict[str, Any]:
        """See Access."""
        if self._carry is None:
            raise UsageError("this session has no box")
        root = (await self._workspace()).roots[0]
        made = await make_branch(self._carry, root, name=name, message=message, session=self._session)
        self._record(Applied(paths=[made], count=1))
        return made

    async def hunks(self, paths: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        """See Access."""
        workspace = await self._workspace()
        hosts = {root.name: root.host for root in workspace.roots}
        return [
            {**found, "file": str(hosts[item.change.root] / item.change.path)}
            async for item in self._diffs(paths)
            if (found := to_hunks(item))
        ]

    async def _still_as_seen(self, selection: Selection) -> None:
        """A box that works on may have changed what the user chose from."""
        if not selection.seen:
            return
        rows = await self.hunks(tuple(path for path, _ in selection.seen))
        now = {row["file"]: sha256(row["text"].encode("utf-8", "surrogateescape")).hexdigest() for row in rows}
        for path, digest in selection.seen:
            if now.get(path) != digest:
                raise PlanError(f"{path} changed in the box while you chose", hint="choose again")

    async def checkpoints(self) -> dict[str, Any]:
        """See Access."""
        timeline = await self._travel.timeline()
        kept = await self._travel.kept()
        for row in timeline.checkpoints:
            row["kept"] = row["checkpoint"] in kept
        turns = [asdict(turn) for turn in timeline.turns]
        places = {layer.name: str(layer.host or layer.at) for layer in (await self._workspace()).layers}
        return {"present": timeline.present, "checkpoints": timeline.checkpoints, "turns": turns, "places": places}

    async def travel(self, journey: dict[str, Any]) -> dict[str, Any]:
        """See Access."""
        return await self._travel.go(Journey.from_json(journey))

    async def fork(self, request: dict[str, Any]) -> dict[str, Any]:
        """See Access."""
        if self._forker is None:
            raise UsageError("this session cannot be forked from here")
        return await self._forker.fork(await self._workspace(), Request.from_json(request))

    async def show(self, checkpoint: str, path: str) -> AsyncIterator[bytes]:
        """See Access."""
        workspace = await self._workspace()
        pieces = await asyncio.to_thread(workspace.past.content_at, checkpoint, path)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield piece

    async def shell(self, argv: tuple[str, ...], pty: Pty | None) -> Process:
        """See Access."""
        if self._run is None:
            raise UsageError("this session has no box")
        command = Command(
            argv=argv or ("/bin/sh", "-c", LOGIN_SHELL),
            cwd=self._cwd,
            environment={"TERM": "xterm-256color"} if pty else {},
            stdin=True,
            pty=pty,
        )
        return await self._run(command)


_REMARKS = ("held_back", "dropped", "pointed_out", "merged", "kept", "conflicts")


def _digest(item: FileDiff) -> str:
    """Of what a changed path is in the box, mode and content, for comparing sessions; "" where it is not there, and
    "?" where it was too large to be read.
    """
    change, new = item.change, item.sides[1]
    if change.new is None:
        return ""
    if new is not None and new.content is None:
        return "?"
    head = f"{change.new.mode:o} {change.new.device if change.special else 0}\n".encode()
    return sha256(head + (new.content or b"" if new is not None else b"")).hexdigest()


def _chosen(workspace: Workspace, selection: Selection) -> Chosen:
    named = _pairs(workspace, selection.paths) + _pairs(workspace, selection.include)
    if not selection.paths:
        named = tuple((root.name, "") for root in workspace.roots) + named
    everything = not (selection.paths or selection.include)
    hunks = {_pairs(workspace, (path,))[0]: frozenset(numbers) for path, numbers in selection.hunks}
    return Chosen(
        paths=None if everything else named,
        held=selection.held,
        force=selection.force,
        ours=selection.ours,
        merge=selection.merge,
        markers=selection.markers,
        hunks=hunks,
    )


def _rows(done: Sequence[Done]) -> list[dict[str, Any]]:
    return [{"root": item.root, "path": item.path, "action": item.action.value} for item in done]


def _pairs(workspace: Workspace, paths: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    return workspace.locate(paths, cwd=Path("/"))
