"""WebSearch: a query to the search service that settings name, sent from the box, and what it found."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import quote, urlencode, urlsplit

from pydantic import Field, model_validator

from runner.dataclass import dataclass
from runner.effects import ConnectHost, Effect, Place
from runner.tools.arguments import Arguments
from runner.tools.base import Tool, ToolContext, ToolResult, described, tool_error
from runner.tools.helpers import TOOLBOX, Helpers, ask
from runner.tools.paths import RefusedError
from runner.tools.text import showable
from runner.tools.webfetch import SECONDS, FetchReply
from runner.variables import count

DESCRIPTION = described(__file__)
MOST = 20
SEARCHES = 200  # of one session
LONGEST = 1000
FIELDS = {"title": "title", "url": "url", "snippet": "content"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A search service: `url` with {query} where the query goes, or to which `parameters` are added. `results`: where
    in its JSON the list stands, names joined by dots; `fields`: what it calls title, url and snippet.
    """

    url: str
    parameters: Mapping[str, str]
    results: str
    fields: Mapping[str, str]

    @classmethod
    def of(cls, wanted: Mapping[str, Any]) -> Self:
        """The setting `search`."""
        match wanted["kind"]:
            case "searxng":
                return cls(
                    url=wanted["url"], parameters={"q": "{query}", "format": "json"}, results="results", fields=FIELDS
                )
            case "brave":
                names = FIELDS | {"snippet": "description"}
                return cls(url=wanted["url"], parameters={"q": "{query}"}, results="web.results", fields=names)
            case _:
                fields = FIELDS | dict(wanted.get("fields", {}))
                return cls(url=wanted["url"], parameters={}, results=str(wanted.get("results", "")), fields=fields)

    def address(self, query: str) -> str:
        """Where the query is sent."""
        url = self.url.replace("{query}", quote(query, safe=""))
        if not self.parameters:
            return url
        return f"{url}{'&' if '?' in url else '?'}" + urlencode(
            {name: value.replace("{query}", query) for name, value in self.parameters.items()}
        )

    def read(self, text: str) -> Iterator[dict[str, str]]:
        """The results of a reply. Raises RefusedError for one of another form."""
        try:
            found = json.loads(text)
            for name in filter(None, self.results.split(".")):
                found = found[name]
        except (ValueError, KeyError, TypeError, RecursionError):
            found = None
        if not isinstance(found, list):
            raise RefusedError("the search service answers in a form that its settings do not describe.")
        for entry in found:
            if isinstance(entry, dict) and isinstance(address := entry.get(self.fields["url"]), str):
                rest = {name: str(entry.get(self.fields[name]) or "") for name in ("title", "snippet")}
                yield {name: showable(value)[:LONGEST] for name, value in (rest | {"url": address}).items()}


class WebSearchArguments(Arguments):
    """What a WebSearch call may say."""

    query: str = Field(min_length=2, max_length=1000, description="What to search for")
    allowed_domains: list[str] | None = Field(None, description="Only results of these hosts")
    blocked_domains: list[str] | None = Field(None, description="No results of these hosts")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.allowed_domains and self.blocked_domains:
            raise ValueError("allowed_domains and blocked_domains exclude each other")
        return self

    def takes(self, url: str) -> bool:
        """Whether a result is wanted."""
        host = (urlsplit(url).hostname or "").rstrip(".")
        if self.allowed_domains:
            return _below(host, self.allowed_domains)
        return not _below(host, self.blocked_domains or [])


def _below(host: str, domains: list[str]) -> bool:
    names = [name.lower().strip(".").removeprefix("*.") for name in domains]
    return any(host == name or host.endswith(f".{name}") for name in names)


class WebSearch(Tool[WebSearchArguments]):
    """Offered where settings name a service."""

    name = "WebSearch"
    args = WebSearchArguments

    def __init__(self, endpoint: Endpoint, helpers: Helpers = TOOLBOX) -> None:
        self.endpoint, self.helpers = endpoint, helpers

    @property
    def description(self) -> str:
        """The text for the model."""
        return DESCRIPTION

    def effects(self, args: WebSearchArguments, place: Place) -> tuple[Effect, ...]:  # noqa: ARG002 (the same anywhere)
        """A request to the service."""
        parts = urlsplit(self.endpoint.address(args.query))
        port = parts.port or (443 if parts.scheme == "https" else 80)
        host = (parts.hostname or "").lower().rstrip(".")
        return (ConnectHost(host=host, port=port, scheme=parts.scheme, method="GET", path=parts.path or "/"),)

    async def run(self, args: WebSearchArguments, ctx: ToolContext) -> ToolResult:
        """Ask the service from the box."""
        began = time.monotonic()
        most = count(ctx.environment, "CLAUDE_CODE_MAX_WEB_SEARCHES_PER_SESSION", SEARCHES)
        if ctx.state.searches >= most:
            return tool_error(f"this session has made its {most} searches; it may make no more.")
        ctx.state.searches += 1
        result = await self._search(args, ctx, began)
        if result.is_error:
            ctx.state.searches -= 1
        return result

    async def _search(self, args: WebSearchArguments, ctx: ToolContext, began: float) -> ToolResult:
        argv = (*self.helpers.helper, "fetch", self.endpoint.address(args.query))
        try:
            reply = await ask(FetchReply, argv, ctx, path="the search service", seconds=SECONDS)
            if reply.code != HTTPStatus.OK:
                return tool_error(f"the search service answers with status {reply.code} {reply.reason}.")
            results = [entry for entry in self.endpoint.read(reply.text) if args.takes(entry["url"])][:MOST]
        except RefusedError as error:
            return tool_error(str(error))
        lines = [f"{entry['title']}\n{entry['url']}\n{entry['snippet']}".strip() for entry in results]
        user = {
            "query": args.query,
            "results": [{"tool_use_id": ctx.call, "content": results}],
            "durationSeconds": round(time.monotonic() - began, 3),
            "searchCount": 1,
        }
        text = "\n\n".join(lines) if lines else "No results."
        return ToolResult(for_model=f'Results for "{args.query}":\n\n{text}', for_user=user)
