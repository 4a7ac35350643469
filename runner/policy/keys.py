"""The keys of settings: who may set each, and how several sources join."""

from __future__ import annotations

from enum import StrEnum

from runner.dataclass import dataclass


class How(StrEnum):
    """How the values of several sources join. All but `first` do so in any order."""

    FIRST = "the highest source decides"
    UNION = "all of them together"
    LOCK = "one source is enough"
    LEAST = "the lowest value"
    MOST = "the highest value"
    STRICTEST = "the strictest"
    COMMON = "what all that name a list have in common"


class Scope(StrEnum):
    """Who may set a key. What `tightens` counts from an untrusted repository too, what is `trusted` from one that
    was trusted as it is; what is the user's `own` never from a repository.
    """

    MANAGED = "managed"
    OWN = "own"
    TRUSTED = "trusted"
    TIGHTENS = "tightens"


@dataclass(frozen=True, slots=True)
class Key:
    """One setting. `name`: its place in the file, with dots."""

    name: str
    how: How
    scope: Scope

    @property
    def where(self) -> tuple[str, ...]:
        """The keys that lead to it."""
        return tuple(self.name.split("."))


STRICTNESS = ("plan", "dontAsk", "default", "acceptEdits", "auto", "bypassPermissions")

KEYS = tuple(
    Key(name, how, scope)
    for how, scope, names in (
        (
            How.UNION,
            Scope.TIGHTENS,
            "permissions.deny permissions.ask deniedModels network.deniedDomains network.deny network.ask hidden",
        ),
        (
            How.UNION,
            Scope.TRUSTED,
            (
                "permissions.allow permissions.additionalDirectories network.allowedDomains network.allow packages "
                "background registries"
            ),
        ),
        (How.FIRST, Scope.TIGHTENS, "permissions.defaultMode"),
        (
            How.FIRST,
            Scope.TIGHTENS,
            (
                "network.limits.up network.limits.down network.limits.requestsPerMinute network.limits.body "
                "network.limits.seconds network.limits.perHost.up network.limits.perHost.down "
                "network.limits.perHost.requestsPerMinute"
            ),
        ),
        (
            How.LOCK,
            Scope.TIGHTENS,
            (
                "permissions.disableBypassPermissionsMode permissions.disableAutoMode "
                "permissions.denyInsteadOfPrompting permissions.blockReadsOutsideWorkingDirectories "
                "permissions.blockWritesOutsideWorkingDirectories network.closed network.strict"
            ),
        ),
        (How.FIRST, Scope.TRUSTED, "image system runtime limits.maxTurns limits.maxBudgetUsd limits.maxTokens"),
        (How.FIRST, Scope.TRUSTED, "limits.maxSeconds limits.memory limits.disk limits.cpus limits.pids"),
        (How.FIRST, Scope.OWN, "model fallbackModel approver search network.answers"),
        (How.COMMON, Scope.OWN, "availableModels allowedHttpHookUrls httpHookAllowedEnvVars"),
        (How.UNION, Scope.OWN, "credentials expose network.passThrough"),
        (How.LOCK, Scope.OWN, "disableAllHooks"),
        (
            How.LOCK,
            Scope.MANAGED,
            (
                "allowManagedPermissionRulesOnly allowManagedHooksOnly allowManagedMcpServersOnly disableShell "
                "network.allowManagedDomainsOnly"
            ),
        ),
        (How.COMMON, Scope.MANAGED, "allowedImages allowedRegistries"),
        (How.STRICTEST, Scope.MANAGED, "forcedMode"),
        (How.MOST, Scope.MANAGED, "requiredMinimumVersion"),
        (How.LEAST, Scope.MANAGED, "requiredMaximumVersion"),
        (How.FIRST, Scope.MANAGED, "requiredAuditSink"),
    )
    for name in names.split()
)
BY_NAME = {key.name: key for key in KEYS}

# Not settings of their own: read beside them.
BESIDE = frozenset({"description", "cases", "hooks", "env", "serial", "expires"})
