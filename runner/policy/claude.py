"""Claude Code's settings files: their keys with a meaning here, brought into the shape of ours; and the rest, sorted
into what means nothing here and what a managed file may not ask of us in vain.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

from pydantic import Field, ValidationError

from runner.dataclass import dataclass
from runner.policy.documents import Document, Where
from runner.policy.settings import Permissions, Shape, check_shape, suggestion

_OURS = frozenset(
    [
        "model",
        "fallbackModel",
        "availableModels",
        "deniedModels",
        "env",
        "hooks",
        "disableAllHooks",
        "allowedHttpHookUrls",
        "httpHookAllowedEnvVars",
        "allowManagedPermissionRulesOnly",
        "allowManagedHooksOnly",
        "allowManagedMcpServersOnly",
        "requiredMinimumVersion",
        "requiredMaximumVersion",
    ]
)
_PERMISSIONS = frozenset(info.alias or name for name, info in Permissions.model_fields.items())

# Of what does not exist here, or holds in every box: forbidding it needs nothing.
_HOLDS = frozenset(
    [
        "disableAgentView",
        "disableArtifact",
        "disableAutoUpload",
        "disableBundledSkills",
        "disableClaudeAiConnectors",
        "disableBrowserExternalNavigation",
        "disableCommandPluginSources",
        "disableDeepLinkRegistration",
        "disableMobileSimulatorTools",
        "disableRemoteControl",
        "disableReplyCheck",
        "disableSideloadFlags",
        "disableSkillShellExecution",
        "disableWindowsBashCommandSplit",
        "disableWorkflows",
        "disabledMcpjsonServers",
        "deniedMcpServers",
        "disableAutoMode",
    ]
)
_SANDBOX = frozenset(
    [
        "enabled",
        "failIfUnavailable",
        "autoAllowBashIfSandboxed",
        "allowUnsandboxedCommands",
        "excludedCommands",
        "ignoreViolations",
        "filesystem",
        "network",
        "credentials",
        "enableWeakerNestedSandbox",
        "enableWeakerNetworkIsolation",
        "allowAppleEvents",
        "ripgrep",
        "bwrapPath",
        "socatPath",
        "allowNestedUserNamespaces",
    ]
)
_FILESYSTEM = frozenset(["allowWrite", "denyWrite", "denyRead", "allowRead", "allowManagedReadPathsOnly", "disabled"])
_NETWORK = frozenset(
    [
        "allowedDomains",
        "deniedDomains",
        "strictAllowlist",
        "allowManagedDomainsOnly",
        "allowUnixSockets",
        "allowAllUnixSockets",
        "allowLocalBinding",
        "allowMachLookup",
        "httpProxyPort",
        "socksProxyPort",
        "tlsTerminate",
    ]
)
_CREDENTIALS = frozenset(["files", "envVars", "allowPlaintextInject", "awsPairs", "sigv4"])
_LOCKING = ("allowManaged", "disable", "deny", "denied", "force")


class _Filesystem(Shape):
    deny_read: list[str] = Field(default=[])
    deny_write: list[str] = Field(default=[])


class _Hosts(Shape):
    allowed_domains: list[str] = Field(default=[])
    denied_domains: list[str] = Field(default=[])
    allow_managed_domains_only: bool = False
    strict_allowlist: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Translated:
    """`document` in our shape, with the marks of the original. `idle`: keys without a meaning here.
    `unheld`: those of them that forbid something which this program cannot forbid.
    """

    document: Document
    idle: tuple[Where, ...]
    unheld: tuple[Where, ...]


@lru_cache(maxsize=32)
def translate(document: Document) -> Translated:
    """Raises SettingsError where a key that means something here has a value that it cannot have."""
    idle: list[Where] = []
    unheld: list[Where] = []
    kept: dict[str, Any] = {}
    marks = dict(document.marks)
    for key, value in document.value.items():
        if key in _OURS:
            kept[key] = value
        elif key == "permissions":
            kept[key] = _part(document, (key,), _PERMISSIONS, idle, unheld)
        elif key == "sandbox":
            _sandbox(document, kept, marks, idle, unheld)
        else:
            idle.append((key,))
            if key.startswith(_LOCKING) and key not in _HOLDS:
                unheld.append((key,))
    if document.value.get("disableAutoMode") == "disable":
        permissions = kept.setdefault("permissions", {})
        permissions["disableAutoMode"] = "disable"
        marks["permissions", "disableAutoMode"] = document.mark(("disableAutoMode",))
    made = replace(document, value=kept, marks=marks)
    check_shape(made)
    return Translated(document=made, idle=tuple(idle), unheld=tuple(unheld))


def meant(where: Where) -> str:
    """The known key that an unknown one was probably meant to be, "" when there is none."""
    sections: dict[Where, frozenset[str]] = {(): _OURS, ("permissions",): _PERMISSIONS, ("sandbox",): _SANDBOX}
    known = sections.get(where[:-1], frozenset())
    return suggestion(str(where[-1]), tuple(sorted(known)))


def _part(
    document: Document, where: Where, known: frozenset[str], idle: list[Where], unheld: list[Where]
) -> dict[str, Any]:
    """The known keys of an object; every other one below permissions or sandbox might forbid something."""
    part: Any = document.value
    for key in where:
        part = part[key]
    if not isinstance(part, dict):
        raise document.error(f"{'.'.join(map(str, where))} holds no object", where)
    strange = [(*where, key) for key in part if key not in known]
    idle += strange
    unheld += strange
    return {key: value for key, value in part.items() if key in known}


def _sandbox(
    document: Document, kept: dict[str, Any], marks: dict[Where, Any], idle: list[Where], unheld: list[Where]
) -> None:
    """What the sandbox settings forbid becomes rules here; what they allow inside is the box's anyway."""
    sandbox = _part(document, ("sandbox",), _SANDBOX, idle, unheld)
    permissions = kept.setdefault("permissions", {})
    deny = list(permissions.get("deny", ())) if isinstance(permissions.get("deny", []), list) else []
    found: list[tuple[str, Where]] = []
    if "filesystem" in sandbox:
        found += _files(document, idle, unheld)
    if "network" in sandbox:
        kept["network"] = _hosts(document, marks, idle, unheld)
    if "credentials" in sandbox:
        found += _credentials(document, idle, unheld)
    for rule, where in found:
        marks["permissions", "deny", len(deny)] = document.mark(where)
        deny.append(rule)
    if found:
        permissions["deny"] = deny


def _files(document: Document, idle: list[Where], unheld: list[Where]) -> Iterator[tuple[str, Where]]:
    place: Where = ("sandbox", "filesystem")
    files = _part(document, place, _FILESYSTEM, idle, unheld)
    if files.get("allowManagedReadPathsOnly"):
        unheld.append((*place, "allowManagedReadPathsOnly"))
    wanted = {key: value for key, value in files.items() if key in ("denyRead", "denyWrite")}
    _shaped(_Filesystem, document, wanted, place)
    for key, tool in (("denyRead", "Read"), ("denyWrite", "Edit")):
        for number, path in enumerate(wanted.get(key, ())):
            yield f"{tool}({_anchored(path)})", (*place, key, number)


def _hosts(document: Document, marks: dict[Where, Any], idle: list[Where], unheld: list[Where]) -> dict[str, Any]:
    place: Where = ("sandbox", "network")
    hosts = _part(document, place, _NETWORK, idle, unheld)
    names = ("allowedDomains", "deniedDomains", "allowManagedDomainsOnly", "strictAllowlist")
    wanted = {key: value for key, value in hosts.items() if key in names}
    _shaped(_Hosts, document, wanted, place)
    for where in [mark for mark in document.marks if mark[:2] == place]:
        marks["network", *where[2:]] = document.marks[where]
    if (strict := wanted.pop("strictAllowlist", None)) is not None:
        wanted["strict"] = strict
        marks["network", "strict"] = document.mark((*place, "strictAllowlist"))
    return wanted


def _credentials(document: Document, idle: list[Where], unheld: list[Where]) -> Iterator[tuple[str, Where]]:
    place: Where = ("sandbox", "credentials")
    secrets = _part(document, place, _CREDENTIALS, idle, unheld)
    for number, file in enumerate(secrets.get("files") or ()):
        path = file.get("path") if isinstance(file, dict) else None
        if not isinstance(path, str):
            raise document.error("sandbox.credentials.files holds objects with a path", (*place, "files", number))
        yield f"Read({_anchored(path)})", (*place, "files", number)


def _anchored(path: str) -> str:
    """Paths of the sandbox settings are absolute with one slash; those of rules with two."""
    return f"/{path}" if path.startswith("/") and not path.startswith("//") else path


def _shaped(shape: type[Shape], document: Document, value: dict[str, Any], where: Where) -> None:
    try:
        shape.model_validate(value)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise document.error(
            f"{'.'.join(map(str, (*where, *problem['loc'])))}: {problem['msg']}", (*where, *problem["loc"])
        ) from error
