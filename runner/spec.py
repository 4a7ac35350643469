"""SessionSpec: all that is needed to start a session, as one frozen JSON object without secrets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, field
from typing import Any

from runner.dataclass import dataclass
from runner.effects import Mode

SPEC_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RootRef:
    """One root: a host directory, where the box sees it, its base (HEAD id, "" where none), and the
    name of its layers' directory.
    """

    host: str
    at: str
    head: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnLimits:
    """Bounds of one turn; None means none. Tokens count input and output together."""

    max_turns: int | None = None
    max_budget_usd: float | None = None
    max_tokens: int | None = None
    max_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxLimits:
    """Bounds of the box. Sizes in bytes. `disk` covers the session's layers and store;
    `disk_floor` is the free space that the host keeps.
    """

    pids: int = 512
    memory: int = 2 << 30
    cpus: float | None = None
    nofile: int = 4096
    file_size: int = 5 << 30
    disk: int = 10 << 30
    disk_floor: int = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSpec:
    """Frozen and serialisable: `app.run(spec)` is the only way to start a session.

    `model` is `provider:name` (`anthropic:claude-sonnet-5`, `scripted:/path/to/script.yaml`); a bare name
    means anthropic; `fallback_models` are tried in order while it is overloaded. `image`: a name that the
    engine knows, or "base". `environment` lists the *names* of variables that pass into the box.
    `variables`: those that tune tools and loop, checked (`runner.variables`).
    `clock`: "" or a fixed ISO time for replay. `settings`: what `--settings` gave, read and without variables, ""
    for nothing; `setting_sources`: which of user, project and local settings count (managed ones always do).
    `policy_digest`: of the policy it was made for; "" takes whichever is in force. `record_net`: bytes that a recording
    of its exchanges may take, 0 for none; `replay_net`: the file of the recording that answers in place of the network.
    """

    session: str
    cwd: str
    roots: tuple[RootRef, ...]
    model: str
    fallback_models: tuple[str, ...] = ()
    mode: Mode = Mode.BYPASS
    image: str = "base"
    image_digest: str = ""
    toolbox_digest: str = ""
    policy_digest: str = ""
    packages: tuple[str, ...] = ()
    system_writable: bool = False
    runtime: str = ""
    cow: str = ""
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    settings: str = ""
    setting_sources: tuple[str, ...] = ("user", "project", "local")
    tools: tuple[str, ...] = ()
    limits: TurnLimits = field(default_factory=TurnLimits)
    box: BoxLimits = field(default_factory=BoxLimits)
    thinking_tokens: int | None = None
    max_output_tokens: int | None = None
    system_prompt: str = ""
    append_system_prompt: str = ""
    environment: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict, hash=False)
    locale: str = "C.UTF-8"
    timezone: str = "UTC"
    clock: str = ""
    record_net: int = 0
    replay_net: str = ""
    version: int = SPEC_VERSION

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` turns back into an equal spec."""
        return asdict(self) | {"mode": self.mode.value}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SessionSpec:
        """Raises ValueError for a version or a field that this program does not know."""
        if data.get("version") != SPEC_VERSION:
            msg = f"session spec of version {data.get('version')!r}; this program reads {SPEC_VERSION}"
            raise ValueError(msg)
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        try:
            fields["roots"] = tuple(RootRef(**root) for root in data["roots"])
            fields["mode"] = Mode(data["mode"])
            fields["limits"] = TurnLimits(**data["limits"])
            fields["box"] = BoxLimits(**data["box"])
            fields["variables"] = {str(name): str(value) for name, value in dict(data.get("variables", {})).items()}
            return cls(**fields)
        except (TypeError, KeyError) as error:
            msg = f"session spec: {error}"
            raise ValueError(msg) from error
