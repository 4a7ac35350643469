"""Our own programs in the box (sandbox/server/helper.py, rg, qpdf) and how they are asked: fixed argument vectors,
bounded answers. They take apart what may not be decoded on the host, and search where the files are.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from runner.dataclass import dataclass
from runner.tools.base import ToolContext
from runner.tools.paths import RefusedError
from runner.tools.text import show_path
from sandbox.errors import PathError
from sandbox.spec import Capture, Command, Exited, Stderr, Stdout
from sandbox.toolbox import SERVER, TOOLBOX_PYTHON, TOOLBOX_QPDF, TOOLBOX_RG

ROOT = PurePosixPath("/")
REPLY_LIMIT = 32 << 20
SECONDS = 60.0
Reply = TypeVar("Reply", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Helpers:
    """Where our programs are in the box: argument vectors to begin with."""

    helper: tuple[str, ...] = (*TOOLBOX_PYTHON, f"{SERVER}/sandbox/server/helper.py")
    rg: tuple[str, ...] = TOOLBOX_RG
    qpdf: tuple[str, ...] = TOOLBOX_QPDF


TOOLBOX = Helpers()


class ErrorReply(BaseModel):
    """The helper's no: a sentence for the model."""

    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a helper printed, and how it ended."""

    out: bytes
    complaint: str
    end: Exited


async def run_helper(
    argv: tuple[str, ...],
    ctx: ToolContext,
    *,
    cwd: PurePosixPath = ROOT,
    seconds: float = SECONDS,
    keep: int = REPLY_LIMIT,
    limit: int = REPLY_LIMIT,
) -> Answer:
    """Run one of our programs as the box's user. `keep` bytes of output come back; more than `limit` kills it.
    Raises PathError when it cannot be started.
    """
    capture = Capture(inline=keep, tail=0, path=None, limit=limit)
    command = Command(argv=argv, cwd=cwd, timeout=seconds, grace=0.2, capture=capture)
    out, complaint = bytearray(), bytearray()
    end = Exited(code=-1, killed="lost")
    async for item in await ctx.box.exec(command):
        match item:
            case Stdout():
                out += item.data
            case Stderr():
                complaint += item.data[: max(0, 4000 - len(complaint))]
            case Exited():
                end = item
    return Answer(out=bytes(out), complaint=complaint.decode("utf-8", "replace").strip(), end=end)


async def ask(
    kind: type[Reply], argv: tuple[str, ...], ctx: ToolContext, *, path: PurePosixPath | str, seconds: float = SECONDS
) -> Reply:
    """Run a helper that prints one JSON object, and parse it. Raises RefusedError for the helper's no, for an
    answer that is too large or of another shape, and when it takes too long. `path`: what it is about.
    """
    name = show_path(str(path))
    try:
        answer = await run_helper(argv, ctx, seconds=seconds)
    except PathError as error:
        raise RefusedError(f"{name}: our helper in the box could not be started ({error}).") from error
    if answer.end.killed:
        reasons = {"timeout": f"it took longer than {seconds:g} s", "output": "there is too much of it"}
        raise RefusedError(f"{name} cannot be shown: {reasons.get(answer.end.killed, 'the helper was killed')}.")
    try:
        if answer.end.code != 0:
            raise RefusedError(f"{name}: {ErrorReply.model_validate_json(answer.out).error}")
        return kind.model_validate_json(answer.out)
    except ValidationError as error:
        last = answer.complaint.rsplit("\n", 1)[-1][:300]
        raise RefusedError(f"{name}: our helper in the box gave no usable answer. {last}".rstrip()) from error
