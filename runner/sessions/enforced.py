"""The policy in force in a session that runs: made from its settings chain at the start, looked at again before each
turn, strictest where managed settings cannot be relied on any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from importlib import import_module
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Self

from runner.effects import Decision, Mode, RuleSource, Source
from runner.errors import FumehoodError, LockedError, ManagedError, PolicyChangedError
from runner.events import PolicyLoaded
from runner.policy.environment import overlaid
from runner.policy.grants import with_grant
from runner.policy.hiding import hides_logins
from runner.policy.layers import Settings
from runner.policy.locks import OWN_IMAGES, check_model, check_spec, network_limits, under_ceilings
from runner.policy.managed import PLACES, Managed, Places, read_managed, stamp
from runner.policy.policy import Policy
from runner.policy.rules import Kind, Rule
from runner.policy.trust import Grants, keep_serials, read_serials
from runner.sessions.chain import Chain
from runner.sessions.specs import chain_of, ground_of, home_of, policy_of, registries_of
from runner.sessions.store import state_home
from runner.spec import SessionSpec
from sandbox.masks import NO_MASKS, Masks

if TYPE_CHECKING:
    from runner.approval import Approver
    from runner.hooks.config import Configured
    from runner.hooks.kinds import Handler
    from runner.mcp.servers import Server
    from runner.sessions.credentials import Credential
    from runner.sessions.exposing import Exposing
    from runner.sessions.registries import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Another policy from here on. `problem`: why nothing goes on, None where it does."""

    policy: Policy
    event: PolicyLoaded
    problem: FumehoodError | None = None


class Enforced:
    """One session's policy. `policy` is the one it starts with; `environ` the environment under the variables of
    the settings. `masks`: what the policy that is in force by now keeps from the box.
    """

    def __init__(
        self,
        spec: SessionSpec,
        environ: Mapping[str, str],
        *,
        places: Places = PLACES,
        stored: bool = False,
        functions: tuple[Handler, ...] = (),
    ) -> None:
        """`stored`: a session at rest is reached for a command, no model is asked: it is brought under the locks of
        today instead of refused. `functions`: hooks of the Python API.
        Raises SettingsError, LockedError, PolicyChangedError, UsageError.
        """
        self._places, self._home, self._stored = places, state_home(environ), stored
        self._chain: Chain = chain_of(spec, environ, places)
        if stored:
            spec, _ = under_ceilings(replace(spec, policy_digest=""), self._chain.settings)
        else:
            check_spec(spec, self._chain.settings)
        if any(self._chain.settings.value(key) is not None for key in ("allowedImages", "allowedRegistries")):
            spec = replace(spec, image_digest="")  # a list of names is kept by the name, not by what a spec pins
        self.environ = dict(overlaid(environ, self._chain.settings))
        self.policy = policy_of(spec, self._chain, environ).policy
        if spec.policy_digest not in ("", self.policy.digest):
            raise PolicyChangedError(
                f"this session was specified for policy {spec.policy_digest[:12]}, "
                f"and {self.policy.digest[:12]} is in force"
            )
        self.spec = replace(spec, policy_digest=self.policy.digest)
        self._settings = self._chain.settings
        self._roots = tuple(PurePosixPath(root.at) for root in spec.roots)
        self.masks = masked(self.policy, self._roots)
        self._managed = self._chain.managed
        self._broken: FumehoodError | None = None
        self._functions = functions
        self._servers: tuple[Server, ...] = ()
        self.hooks = configured(self._settings, functions)

    @classmethod
    def of(
        cls,
        spec: SessionSpec,
        environ: Mapping[str, str],
        *,
        places: Places,
        stored: bool,
        functions: tuple[Handler, ...] = (),
    ) -> Self:
        """As the constructor, for `app`'s lazy import."""
        return cls(spec, environ, places=places, stored=stored, functions=functions)

    def credentials(self) -> tuple[Credential, ...]:
        """Keys for requests of the box; none where a session is only reached for a command. Raises SettingsError."""
        if self._stored or not self._settings.all("credentials"):
            return ()
        found: tuple[Credential, ...] = import_module("runner.sessions.credentials").read_credentials(
            self._settings, self.environ, home_of(self.environ)
        )
        return found

    @cached_property
    def exposing(self) -> Exposing:
        """What one command or server gets of the environment. Raises SettingsError."""
        exposing = import_module("runner.sessions.exposing")
        found: Exposing = exposing.Exposing() if self._stored else exposing.read_exposing(self._settings, self.environ)
        return found

    @property
    def registries(self) -> tuple[Registry, ...]:
        """What points the box's package tools to where the host's get theirs from. Apt's is for our own images."""
        found = registries_of(self.spec, self._settings, self.environ)
        return tuple(each for each in found if each.tool != "apt" or self.spec.image in OWN_IMAGES)

    @property
    def lasting(self) -> bool:
        """Whether a yes to a question about a host counts until the session ends, and not the turn."""
        return bool(self._settings.value("network.answers") == "session")

    @property
    def network_limits(self) -> Mapping[str, Any]:
        """What requests of the box may take now: see `runner.policy.locks.NETWORK`."""
        return network_limits(self._settings)

    def begin(self) -> None:
        """The session starts under these managed settings: older ones do not count here any more."""
        if self._managed.serials:
            keep_serials(self._home, self._managed.serials)

    def loaded(self, policy: Policy | None = None, problem: str = "") -> PolicyLoaded:
        """The event that names the policy in force and every file that counts."""
        policy = policy or self.policy
        files = tuple(f"{one.layer.value}:{one.file}" for one in self._settings.loaded)
        flags = ("command_line",) if self.spec.allow or self.spec.deny else ()
        return PolicyLoaded(digest=policy.digest, mode=policy.mode.value, sources=(*files, *flags), problem=problem)

    def hides(self, path: PurePosixPath) -> bool:
        """Whether policy hides a path of the box."""
        return bool(self.masks) and self.masks.hides(path)

    def check_models(self, *names: str) -> None:
        """Raises LockedError for a model that settings do not allow, by whichever name it is asked for."""
        model_id = import_module("runner.models.registry").model_id
        for name in names:
            full = model_id(name, self.environ)
            check_model(full if ":" in full else f"anthropic:{full}", self._settings)

    def place(self, server: Server) -> None:
        """The command line brings this server to the host. Raises LockedError where settings forbid it, then and
        whenever they change.
        """
        self._servers = (*self._servers, server)
        self._check_servers(self._settings)

    def _check_servers(self, settings: Settings) -> None:
        if self._servers:
            import_module("runner.mcp.servers").check_servers(self._servers, settings)

    def look(self, mode: Mode, model: str) -> Change | None:
        """Before each turn: what changed of the managed settings. Where they cannot be relied on, or forbid what
        this session is, the change is the strictest policy there is, with the problem, before every turn again.
        """
        mark = stamp(self._places)
        if mark == self._managed.stamp:
            return None if self._broken is None else self._lockdown(mode, self._broken)
        try:
            managed = read_managed(self._places, now=datetime.now(UTC), seen=read_serials(self._home))
            if self._managed.loaded and not managed.loaded:
                raise ManagedError("managed settings that were in force are gone")
            settings = self._chain.again(managed)
            policy = self._under(settings, mode, model)
            hooks = configured(settings, self._functions)
            if hooks is not None and self.hooks is None:
                raise PolicyChangedError("managed settings have hooks by now: end this session and go on with it anew")
            if settings.value("requiredAuditSink") != self.sink:
                raise PolicyChangedError(
                    "another audit sink is required by now: end this session and go on with it anew"
                )
        except FumehoodError as error:
            self._managed = Managed(loaded=self._managed.loaded, serials=self._managed.serials, stamp=mark)
            self._broken = error
            return self._lockdown(mode, error)
        self._managed, self._settings, self._broken, self.hooks = managed, settings, None, hooks
        self.masks = masked(policy, self._roots)
        keep_serials(self._home, managed.serials)
        return Change(policy=policy, event=self.loaded(policy))

    @property
    def sink(self) -> Mapping[str, Any] | None:
        """The audit sink that managed settings require."""
        found: Mapping[str, Any] | None = self._settings.value("requiredAuditSink")
        return found

    def unheard(self, mode: Mode, error: FumehoodError) -> Change:
        """The audit sink does not acknowledge what happens: nothing is allowed until it does."""
        return self._lockdown(mode, error)

    def heard(self, mode: Mode, model: str) -> Change:
        """It does again: what stood before. Raises what settings refuse."""
        policy = self._under(self._settings, mode, model)
        return Change(policy=policy, event=self.loaded(policy))

    def _under(self, settings: Settings, mode: Mode, model: str) -> Policy:
        mode = mode if mode in settings.modes else settings.start_mode
        spec = replace(self.spec, mode=mode)
        check_spec(spec, settings)
        self._check_servers(settings)
        check_model(model if ":" in model else f"anthropic:{model}", settings)
        return policy_of(spec, self._chain, self.environ, settings=settings).policy

    def _lockdown(self, mode: Mode, error: FumehoodError) -> Change:
        policy = locked_down(mode)
        return Change(policy=policy, event=self.loaded(policy, str(error)), problem=error)

    @property
    def search(self) -> Mapping[str, Any] | None:
        """The setting of that name."""
        found: Mapping[str, Any] | None = self._settings.value("search")
        return found

    def approver(self, given: Approver | None) -> Approver:
        """Who is asked: nobody where settings say so; who was given; else the settings' remote approver."""
        approvals = import_module("runner.approval")
        deny: Approver = approvals.DenyApprover()
        if self._settings.locked("permissions.denyInsteadOfPrompting"):
            return deny
        wanted = self._settings.value("approver")
        if given is not None or wanted is None:
            return given if given is not None else deny
        remote: Approver = import_module("runner.remote_approval").RemoteApprover(
            url=wanted["url"],
            secret=import_module("runner.remote_approval").read_secret(wanted, self.environ),
            deadline=float(wanted.get("deadline", 60)),
            session=self.spec.session,
        )
        return remote

    @property
    def approvals_file(self) -> str:
        """Where an "always" is written."""
        return str(Grants(self._home).approvals_file)

    def remember(self, policy: Policy, rule: str) -> Policy:
        """Keep an "always" of the user's, outside the repository, and the policy with it. Raises LockedError where
        managed rules alone count.
        """
        if self._settings.locked("allowManagedPermissionRulesOnly"):
            raise LockedError("managed settings allow managed rules only: nothing is allowed for always")
        place = ground_of(self.spec, self.environ).place
        Grants(self._home).approve(self._chain.workspace, rule, datetime.now(UTC), self.spec.session)
        return with_grant(policy, rule, place, self.approvals_file)


def configured(settings: Settings, functions: tuple[Handler, ...] = ()) -> Configured | None:
    """The hooks that count, None where there are none: then nothing of them is imported. Raises SettingsError."""
    if not functions and not any(one.document.value.get("hooks") for one in settings.loaded):
        return None
    found: Configured = import_module("runner.hooks.config").read_hooks(settings, functions)
    return found


def masked(policy: Policy, roots: tuple[PurePosixPath, ...]) -> Masks:
    """What the policy keeps from a box."""
    if not any(rule.pattern is not None for rule in policy.of(Decision.DENY)) and not hides_logins(policy):
        return NO_MASKS
    found: Masks = import_module("runner.sessions.masking").masks_of(policy, roots)
    return found


def locked_down(mode: Mode) -> Policy:
    """The strictest policy: nothing is allowed."""
    everything = Rule(
        text="*", decision=Decision.DENY, source=RuleSource(layer=Source.MANAGED), tool="*", kind=Kind.USE
    )
    return Policy(mode=mode, rules=(everything,), locks=("disableShell", "locked-down"))
