"""The shape of our own settings and policy files, and what is wrong with a document that has another.

Imported where there is such a file only: pydantic takes its time. What the keys do is `runner.policy.keys`'s.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from runner.policy.documents import Document, Where

PACKAGE = r"^[a-z0-9][a-z0-9+.-]*$"
SIZE = r"^\d+(\.\d+)?\s*[kKmMgGtT]?([iI]?[bB])?$"
VERSION = r"^\d+(\.\d+){0,3}$"
PUBLIC_KEY = r"^[A-Za-z0-9+/]{56}$"
NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"

ModeName = Literal["default", "manual", "acceptEdits", "plan", "auto", "dontAsk", "bypassPermissions"]
Package = Annotated[str, Field(pattern=PACKAGE)]
Version = Annotated[str, Field(pattern=VERSION)]
Switch = Literal["disable"]
Count = Annotated[int, Field(gt=0)]
Size = Annotated[int, Field(gt=0)] | Annotated[str, Field(pattern=SIZE)]


class Shape(BaseModel):
    """What all parts share: names as in Claude Code's files, nothing unknown, no conversion of types."""

    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel, frozen=True)


class RuleEntry(Shape):
    """A rule with texts that it must match, or must not: commands, paths or hosts of its own tool."""

    rule: str
    match: list[str] = []
    not_match: list[str] = []
    reason: str = ""


class NetworkRule(RuleEntry):
    """A network rule. `priority`: an allow rule goes above the ask rules of a lower one, but for those of a higher
    source; what is denied stays denied.
    """

    priority: Annotated[int, Field(ge=0, le=1000)] = 0


class Case(Shape):
    """An example that must hold whenever the policy is loaded: what a call like this is decided as."""

    call: str
    expect: Literal["allow", "ask", "deny", "not_allow"]
    mode: ModeName | None = None
    comment: str = ""


Rules = list[str | RuleEntry]
NetworkRules = list[str | NetworkRule]


class Permissions(Shape):
    """Rules, the start mode, and what no other source may loosen."""

    allow: Rules = []
    ask: Rules = []
    deny: Rules = []
    default_mode: ModeName | None = None
    additional_directories: list[str] = []
    disable_bypass_permissions_mode: Switch | None = None
    disable_auto_mode: Switch | None = None
    deny_instead_of_prompting: bool = False
    block_reads_outside_working_directories: bool = False
    block_writes_outside_working_directories: bool = False


class Limits(Shape):
    """Bounds of a turn and of the box. In managed settings nobody may go over them."""

    max_turns: Count | None = None
    max_budget_usd: Annotated[float | int, Field(gt=0)] | None = None
    max_tokens: Count | None = None
    max_seconds: Annotated[float | int, Field(gt=0)] | None = None
    memory: Size | None = None
    disk: Size | None = None
    cpus: Annotated[float | int, Field(gt=0)] | None = None
    pids: Count | None = None


class HostLimits(Shape):
    """What a session may take of one host: bytes up and down, requests in a minute."""

    up: Size | None = None
    down: Size | None = None
    requests_per_minute: Count | None = None


class NetworkLimits(HostLimits):
    """What a session may take of all hosts together, of each (`per_host`), and in each request: bytes of its `body`,
    `seconds` until it is over. In managed settings nobody may go over them; a repository's only tighten.
    """

    body: Size | None = None
    seconds: Annotated[float | int, Field(gt=0)] | None = None
    per_host: HostLimits = HostLimits()


class Network(Shape):
    """What leaves the box. `allow`, `ask` and `deny`: `[METHODS ][scheme://]host[:port][/path][ to RANGES]`. `closed`:
    nothing, whatever a rule says; `strict`: what no rule allows is denied, and nobody is asked.
    """

    limits: NetworkLimits = NetworkLimits()

    closed: bool = False
    strict: bool = False
    allow: NetworkRules = []
    ask: NetworkRules = []
    deny: Rules = []
    answers: Literal["turn", "session"] | None = Field(default=None, description="how long a yes to a question counts")
    pass_through: list[Annotated[str, Field(min_length=1)]] = Field(
        default=[], description="hosts whose TLS is never looked into, for programs that pin certificates"
    )
    allowed_domains: list[str] = []
    denied_domains: list[str] = []
    allow_managed_domains_only: bool = False


def _remote(url: str) -> str:
    if not url.startswith(("https://", "http://127.0.0.1:", "http://[::1]:", "http://localhost:")):
        raise ValueError("https:// is needed, or http:// on this machine")
    return url


def _service(url: str) -> str:
    if not re.match(r"https?://[^/\s@]+(/|$)", url):
        raise ValueError("an address with https:// or http://, a host and no login is needed")
    return url


class Keyring(Shape):
    """An entry of this machine's keyring."""

    service: Annotated[str, Field(min_length=1)]
    user: str = ""


class Credential(Shape):
    """A key for some hosts, put into their requests on the way out (https only): from the variable `env`, from `file`,
    from the `keyring`, or what a `command` of this machine prints; as a bearer token where neither `header` nor
    `basic` (a user's name, for git over https too) says otherwise. `pin`: requests to there with another key are
    refused.
    """

    hosts: Annotated[list[str], Field(min_length=1)]
    env: Annotated[str, Field(pattern=NAME)] | None = None
    file: str | None = None
    keyring: Keyring | None = None
    command: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)] | None = None
    header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")] | None = None
    basic: Annotated[str, Field(pattern=r"^[!-9;-~]+$")] | None = None
    bearer: bool = False
    pin: bool = False

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        sources = (self.env, self.file, self.keyring, self.command)
        if sum(source is not None for source in sources) != 1:
            raise ValueError("one of env, file, keyring and command is needed")
        if bool(self.header) + bool(self.basic) + self.bearer > 1:
            raise ValueError("one of header, basic and bearer")
        return self


class Exposure(Shape):
    """A variable of your environment for the one `command` of the box (its whole text), or the one MCP `server`, that
    needs it in its own.
    """

    env: Annotated[str, Field(pattern=NAME)]
    command: Annotated[str, Field(min_length=1)] | None = None
    server: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if bool(self.command) is bool(self.server):
            raise ValueError("one of command and server is needed")
        return self


class RemoteApprover(Shape):
    """Who answers where no terminal is: POST to `url`, signed with the secret in `secret_file` or in the variable
    `secret_env`. No answer within `deadline` seconds is a no.
    """

    url: Annotated[str, AfterValidator(_remote)]
    secret_file: str = ""
    secret_env: str = ""
    deadline: Annotated[float | int, Field(gt=0, le=3600)] = 60


class Search(Shape):
    """The service that WebSearch asks. `searxng` and `brave` speak as those do; `json`: any that answers a GET of
    `url`, with {query} in it, by JSON that holds a list at `results` (names joined by dots) of objects whose `fields`
    are named so.
    """

    kind: Literal["searxng", "brave", "json"]
    url: Annotated[str, AfterValidator(_service)]
    results: str = ""
    fields: dict[Literal["title", "url", "snippet"], str] = {}


class AuditSink(Shape):
    """Who must acknowledge the head of every session's journal, by a signature with the key that `public_key` is the
    other half of: a service (POST to `url`, signed with the secret as an approver's requests are), or a `command` on
    this machine. Asked at the start, before and after each turn, and every `every` seconds; within `deadline` seconds.
    """

    url: Annotated[str, AfterValidator(_remote)] | None = None
    command: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)] | None = None
    public_key: Annotated[str, Field(pattern=PUBLIC_KEY)]
    secret_file: str = ""
    secret_env: str = ""
    deadline: Annotated[float | int, Field(gt=0, le=600)] = 10
    every: Annotated[float | int, Field(gt=0, le=3600)] = 60

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.url is None) is (self.command is None):
            raise ValueError("name one of url and command")
        if self.url is not None and not (self.secret_file or self.secret_env):
            raise ValueError("secretFile or secretEnv is needed with url")
        return self


class PolicyFile(Shape):
    """One settings or policy file of ours, in YAML or JSON. Marked M: in managed settings only."""

    description: str = ""
    model: str | None = None
    fallback_model: list[str] | None = None
    available_models: list[str] | None = None
    denied_models: list[str] = []
    permissions: Permissions = Permissions()
    hidden: list[Annotated[str, Field(min_length=1)]] = Field(
        default=[], description="places that a box does not get to see; .git/config: the logins in it"
    )
    network: Network = Network()
    limits: Limits = Limits()
    image: str | None = None
    packages: list[Package] = []
    system: Literal["readonly", "writable"] | None = None
    runtime: str | None = None
    env: dict[Annotated[str, Field(pattern=NAME)], str] = {}
    credentials: list[Credential] = []
    expose: list[Exposure] = []
    registries: list[Literal["pip", "npm", "cargo", "go", "apt"]] = Field(
        default=[], description="opens what these tools of the host are set to, for reading"
    )
    approver: RemoteApprover | None = None
    search: Search | None = None
    hooks: dict[str, Any] = {}
    disable_all_hooks: bool = False
    allowed_http_hook_urls: list[str] | None = None
    http_hook_allowed_env_vars: list[str] | None = None
    cases: list[Case] = []
    allow_managed_permission_rules_only: bool = Field(default=False, description="M")
    allow_managed_hooks_only: bool = Field(default=False, description="M")
    allow_managed_mcp_servers_only: bool = Field(default=False, description="M")
    forced_mode: ModeName | None = Field(default=None, description="M")
    disable_shell: bool = Field(default=False, description="M")
    allowed_images: list[str] | None = Field(default=None, description="M")
    allowed_registries: list[str] | None = Field(default=None, description="M")
    required_minimum_version: Version | None = Field(default=None, description="M")
    required_maximum_version: Version | None = Field(default=None, description="M")
    required_audit_sink: AuditSink | None = Field(default=None, description="M")
    serial: Annotated[int, Field(ge=0)] | None = Field(default=None, description="M")
    expires: str | None = Field(default=None, description="M")


def check_shape(document: Document) -> None:
    """Raises SettingsError, with line and column and for an unknown key with what may have been meant, unless the
    document is one of ours.
    """
    try:
        PolicyFile.model_validate(document.value)
    except ValidationError as error:
        where, problem = next(_explained(error))
        raise document.error(problem, where) from error


def shape_errors(document: Document) -> list[tuple[Where, str]]:
    """All that is wrong with the document's shape: where, and what."""
    try:
        PolicyFile.model_validate(document.value)
    except ValidationError as error:
        return list(dict.fromkeys(_explained(error)))
    return []


def _explained(error: ValidationError) -> Iterator[tuple[Where, str]]:
    for problem in error.errors(include_url=False, include_context=False):
        where = tuple(part for part in problem["loc"] if not _is_branch(part))
        if problem["type"] == "extra_forbidden":
            key = str(where[-1])
            near = suggestion(key, _siblings(where[:-1]))
            yield where, f"unknown key {key!r}" + (f"; did you mean {near!r}?" if near else "")
        else:
            yield where, f"{'.'.join(map(str, where))}: {problem['msg'].removeprefix('Value error, ')}"


def _is_branch(part: str | int) -> bool:
    """Pydantic names the branch of a union in the path."""
    return isinstance(part, str) and (
        part in ("str", "int", "float", "RuleEntry", "NetworkRule") or part.startswith("constrained-")
    )


def _siblings(where: Where) -> tuple[str, ...]:
    """The keys that may stand at a place of our own files."""
    shape: Any = PolicyFile
    for part in where:
        if isinstance(part, int):
            continue
        found = {name.alias or key: name.annotation for key, name in shape.model_fields.items()}.get(part)
        shape = _shape_in(found)
        if shape is None:
            return ()
    return tuple(field.alias or key for key, field in shape.model_fields.items())


def _shape_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, Shape):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if (found := _shape_in(inner)) is not None:
            return found
    return None


def suggestion(word: str, known: tuple[str, ...]) -> str:
    """The known word that this one was probably meant to be, "" when there is none."""
    folded = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower().replace("_", "").replace("-", ""), folded, n=1, cutoff=0.7)
    return folded[near[0]] if near else ""


def json_schema() -> dict[str, Any]:
    """The JSON Schema of our files, for editors."""
    schema = PolicyFile.model_json_schema(by_alias=True)
    return schema | {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "fumehood settings"}
