"""WebFetch: a page, fetched and made Markdown in the box, and a question about it, answered by a model."""

from __future__ import annotations

import ipaddress
import time
from hashlib import sha256
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, Field, field_validator

from runner.effects import ConnectHost, Effect, Place, RunCommand
from runner.tools.arguments import Arguments
from runner.tools.base import FetchedPage, Tool, ToolContext, ToolResult, described, tool_error
from runner.tools.helpers import TOOLBOX, Helpers, ask
from runner.tools.paths import RefusedError
from runner.tools.text import showable
from runner.variables import count

DESCRIPTION = described(__file__)
KEPT_MS = 15 * 60_000
KEPT_PAGES = 20
SHOWN = 100_000  # characters that the model reads of a page at once
SECONDS = 90.0
QUESTION = """A page was fetched from {url}. It stands between the two marks below, as Markdown.

Question: {prompt}

<page-{mark}>
{page}
</page-{mark}>"""


class WebFetchArguments(Arguments):
    """What a WebFetch call may say."""

    url: str = Field(max_length=4000, description="The whole address, with https://")
    prompt: str = Field(min_length=1, max_length=10_000, description="What you want to know of the page")
    offset: int = Field(0, ge=0, description="Characters of a long page to leave out before")

    @field_validator("url")
    @classmethod
    def _whole(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
            raise ValueError("an address with http:// or https:// and a host is needed")
        if parts.username is not None or parts.password is not None:
            raise ValueError("an address with a user name or a password is not fetched")
        if any(character <= " " or character == "\x7f" for character in url):
            raise ValueError("an address has no blanks and no control characters")
        _ = parts.port
        return url


class FetchReply(BaseModel):
    """What the helper found: a page, or where a redirect leads."""

    url: str
    code: int
    reason: str = ""
    bytes: int = 0
    kind: str = ""
    text: str = ""
    cut: bool = False
    redirect: str = ""


def upgraded(url: str) -> str:
    """Http becomes https, unless a port is named or the place is the box itself."""
    parts = urlsplit(url)
    if parts.scheme.lower() == "http" and parts.port is None and not is_local(parts.hostname or ""):
        return urlunsplit(parts._replace(scheme="https"))
    return url


def is_local(host: str) -> bool:
    """Whether it is the box's own loopback interface."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


class WebFetch(Tool[WebFetchArguments]):
    """Stateless but for the session's pages."""

    name = "WebFetch"
    args = WebFetchArguments

    def __init__(self, helpers: Helpers = TOOLBOX) -> None:
        self.helpers = helpers

    @property
    def description(self) -> str:
        """The text for the model."""
        return DESCRIPTION

    def effects(self, args: WebFetchArguments, place: Place) -> tuple[Effect, ...]:
        """A request to a host; of the box's own servers a command in the box."""
        url = upgraded(args.url)
        parts = urlsplit(url)
        host, scheme = (parts.hostname or "").lower().rstrip("."), parts.scheme.lower()
        if is_local(host):
            return (RunCommand(command=f"fetch {url}", cwd=place.cwd),)
        port = parts.port or (443 if scheme == "https" else 80)
        return (ConnectHost(host=host, port=port, scheme=scheme, method="GET", path=parts.path or "/"),)

    async def run(self, args: WebFetchArguments, ctx: ToolContext) -> ToolResult:
        """Fetch it, or take what was kept, and ask."""
        began = time.monotonic()
        url = upgraded(args.url)
        try:
            page = self._kept(url, ctx, began) or await self._fetched(url, ctx, began)
        except RefusedError as error:
            return tool_error(str(error))
        if page.redirect:
            text = (
                f"{url} redirects to another place ({page.code}): {showable(page.redirect)}\n"
                "It was not followed. Call WebFetch with that address if you want it."
            )
            return self._result(page, text, began)
        if page.code >= HTTPStatus.BAD_REQUEST:
            body = f":\n{page.text[:2000]}" if page.text.strip() else "."
            return tool_error(f"{url} answers with status {page.code} {page.reason}{body}")
        answer = await self._answer(args, page, ctx)
        return self._result(page, answer, began)

    def _kept(self, url: str, ctx: ToolContext, now: float) -> FetchedPage | None:
        page = ctx.state.pages.get(url)
        kept = count(ctx.environment, "CLAUDE_CODE_WEBFETCH_CACHE_TTL_MS", KEPT_MS) / 1000
        return page if page is not None and now - page.at < kept else None

    async def _fetched(self, url: str, ctx: ToolContext, now: float) -> FetchedPage:
        argv = (*self.helpers.helper, "fetch", url)
        reply = await ask(FetchReply, argv, ctx, path=url[:300], seconds=SECONDS)
        page = FetchedPage(
            at=now,
            url=reply.url,
            code=reply.code,
            reason=reply.reason,
            bytes=reply.bytes,
            text=showable(reply.text),
            cut=reply.cut,
            redirect=reply.redirect,
        )
        if page.code < HTTPStatus.BAD_REQUEST:
            ctx.state.pages.pop(url, None)
            ctx.state.pages[url] = page
            while len(ctx.state.pages) > KEPT_PAGES:
                del ctx.state.pages[next(iter(ctx.state.pages))]
        return page

    async def _answer(self, args: WebFetchArguments, page: FetchedPage, ctx: ToolContext) -> str:
        """The small model's; where there is none, or it fails, the page itself."""
        part = page.text[args.offset : args.offset + SHOWN]
        if not part.strip():
            return "The page has no text there." if args.offset else "The page has no text."
        rest = len(page.text) - args.offset - len(part)
        note = ""
        if rest > 0:
            note = f"\n\n({rest} characters of the page follow: offset {args.offset + len(part)}.)"
        elif page.cut:
            note = "\n\n(The page is longer than what was fetched.)"
        if ctx.consult is not None:
            mark = sha256(ctx.call.encode()).hexdigest()[:12]
            try:
                said = await ctx.consult(QUESTION.format(url=page.url, prompt=args.prompt, page=part, mark=mark))
            except Exception as error:  # noqa: BLE001 (whatever the provider says, the page is there)
                note += f"\n\n(No model could be asked about it: {type(error).__name__}. This is the page itself.)"
            else:
                if said.strip():
                    return said + note
        return part[:30_000] + note

    def _result(self, page: FetchedPage, text: str, began: float) -> ToolResult:
        user: dict[str, Any] = {
            "bytes": page.bytes,
            "code": page.code,
            "codeText": page.reason,
            "result": text,
            "durationMs": int((time.monotonic() - began) * 1000),
            "url": page.url,
        }
        return ToolResult(for_model=text, for_user=user, truncated=page.cut)
