"""The policy in force in a session that runs: made from its settings chain at the start, looked at again before
each request, strictest where settings cannot be relied on any more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property, partial
from importlib import import_module
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Self

from runner.dataclass import dataclass
from runner.effects import Decision, Mode, RuleSource, Source
from runner.errors import FumehoodError, LockedError, ManagedError, PolicyChangedError
from runner.events import PolicyLoaded
from runner.loop.modes import Changed
from runner.policy.environment import overlaid
from runner.policy.grants import with_grant
from runner.policy.hiding import hides_logins
from runner.policy.layers import Settings
from runner.policy.locks import OWN_IMAGES, check_image, check_model, check_spec, network_limits, under_ceilings
from runner.policy.managed import PLACES, Places, stamp
from runner.policy.policy import Policy
from runner.policy.rules import Kind, Rule
from runner.policy.trust import Grants, keep_serials
from runner.sessions.agreed import Agreed, narrowed
from runner.sessions.chain import Chain, stamp_of
from runner.sessions.specs import chain_of, ground_of, home_of, policy_of, registries_of
from runner.sessions.store import state_home
from runner.spec import SessionSpec
from sandbox.masks import NO_MASKS, Masks

if TYPE_CHECKING:
    from runner.approval import Approver
    from runner.hooks.config import Configured
    from runner.hooks.kinds import Handler
    from runner.loop.background import Background
    from runner.loop.gate import Gate
    from runner.mcp.servers import Server
    from runner.sessions.credentials import Credential
    from runner.sessions.exposing import Exposing
    from runner.sessions.registries import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """See `runner.loop.modes.Change`."""

    policy: Policy
    event: PolicyLoaded | None
    problem: FumehoodError | None = None
    files: tuple[Changed, ...] = ()
    settle: Callable[[frozenset[str], Mode, str], Change | None] | None = None


class Enforced:
    """One session's policy. `policy` is the one it starts with; `environ` the environment under the variables of
    the settings. `masks`: what the policy that is in force by now keeps from the box. `named`: the full names of models
    that were made, by the names that they give themselves.
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
        self._given = environ
        self._chain: Chain = chain_of(spec, environ, places)
        if stored:
            spec, _ = under_ceilings(replace(spec, policy_digest=""), self._chain.settings)
            check_image(spec.image, self._chain.settings)  # its box is about to be made of it
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
        self._mark = (self._managed.stamp, self._chain.stamp)
        self._gist = gist(self.policy)
        self._broken: FumehoodError | None = None
        self._agreed = Agreed(self._chain, home_of(environ))
        self.named: dict[str, str] = {}
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

    def check_models(self, *names: str) -> str:
        """The first one's full name, `provider:name`. Raises LockedError for a model that settings do not allow, by
        whichever name it is asked for.
        """
        model_id = import_module("runner.models.registry").model_id
        full = [_full(model_id(name, self.environ)) for name in names]
        for name in full:
            check_model(name, self._settings)
        return full[0]

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
        """Before each request to the model and each round of calls: what changed of any settings. What tightens counts
        at once; what loosens does as it would at a start, but that a repository which is not trusted takes nothing
        back, and that ConfigChange hooks, where there are any, are heard first and may keep it from counting. Where a
        file cannot be relied on, or managed settings forbid what this session is, the change is the strictest policy
        there is, with the problem, time and again. Models, limits and the rest of what a session
        is made of are read once; hooks that come where there were none begin with the next session.
        """
        mark = (stamp(self._places), stamp_of(self._chain.watched))
        if mark == self._mark and not (self._broken is None and self._asking):  # a question may have been cut off
            return None if self._broken is None else self._lockdown(mode, self._broken)
        self._mark = mark
        try:
            fresh = chain_of(self.spec, self._given, self._places)
            chain = fresh.after(self._chain)
            if self._managed.loaded and not chain.managed.loaded:
                raise ManagedError("managed settings that were in force are gone")
            files = self._agreed.take(fresh)
            if not self._hears:
                self._agreed.agree()
            change = self._apply(chain, mode, model)
        except FumehoodError as error:
            self._broken = error
            return self._lockdown(mode, error)
        waiting = self._asking
        if not self._hears or not (files or waiting):
            return change
        change = change or Change(policy=self._under(self._chain, mode, model), event=None)
        return replace(change, files=(*files, *waiting), settle=partial(self._settled, waiting))

    @property
    def _hears(self) -> bool:
        """Whether a hook waits for files that change."""
        return self.hooks is not None and bool(self.hooks.of("ConfigChange"))

    @property
    def _asking(self) -> tuple[Changed, ...]:
        return self._agreed.waiting if self._hears else ()

    def _settled(self, asked: tuple[Changed, ...], declined: frozenset[str], mode: Mode, model: str) -> Change | None:
        """The hooks said no to some of the files that changed: of those only what tightens counts."""
        self._agreed.settle(asked, declined)
        try:
            return self._apply(self._chain, mode, model)
        except FumehoodError as error:
            self._broken = error
            return self._lockdown(mode, error)

    def _apply(self, chain: Chain, mode: Mode, model: str) -> Change | None:
        """Make a chain the one in force; None where its policy is no other. Raises what makes it impossible, be it in
        files that nobody agreed to.
        """
        policy = self._under(chain, mode, model)
        managed, settings = chain.managed, self._agreed.within(chain).settings
        configured(chain.settings, self._functions)
        hooks = configured(settings, self._functions)
        if hooks is not None and self.hooks is None:
            if any(one.document.value.get("hooks") for one in managed.loaded):
                raise PolicyChangedError("managed settings have hooks by now: end this session and begin anew")
            hooks = None
        if settings.value("requiredAuditSink") != self.sink:
            raise PolicyChangedError("another audit sink is required by now: end this session and go on with it anew")
        was, self._broken, before = self._broken, None, self._gist
        self._chain, self._managed, self._settings, self.hooks = chain, managed, settings, hooks
        self._gist, self.masks = gist(policy), masked(policy, self._roots)
        keep_serials(self._home, managed.serials)
        if was is None and self._gist == before:
            return None
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
        policy = self._under(self._chain, mode, model)
        return Change(policy=policy, event=self.loaded(policy))

    def _under(self, chain: Chain, mode: Mode, model: str) -> Policy:
        """The policy of a chain; where hooks did not agree to all of it, the stricter of what they agreed to and it."""
        agreed = self._agreed.within(chain)
        policy = self._of(chain, mode, model)
        return policy if agreed is chain else narrowed(self._of(agreed, mode, model), policy)

    def _of(self, chain: Chain, mode: Mode, model: str) -> Policy:
        settings = chain.settings
        mode = mode if mode in settings.modes else settings.start_mode
        spec = replace(self.spec, mode=mode)
        check_spec(spec, settings)
        self._check_servers(settings)
        check_model(self.named.get(model) or _full(model), settings)
        return policy_of(spec, chain, self.environ).policy

    def _lockdown(self, mode: Mode, error: FumehoodError) -> Change:
        policy = locked_down(mode)
        return Change(policy=policy, event=self.loaded(policy, str(error)), problem=error)

    def background(self) -> Callable[[Gate], Background] | None:
        """What runs the background commands that settings declare, None where there are none. Of several with one
        name the highest source's counts.
        """
        entries = self._settings.all("background")
        if not entries:
            return None
        background = import_module("runner.loop.background")
        found = {entry.value["name"]: entry for entry in reversed(entries)}
        declared = [background.Declared(**one.value, source=one.source) for one in reversed(found.values())]
        return lambda gate: background.Background(gate, declared)

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
        self._mark = (self._mark[0], stamp_of(self._chain.watched))
        policy = with_grant(policy, rule, place, self.approvals_file)
        self._gist = gist(policy)
        return policy


def _full(model: str) -> str:
    return model if ":" in model else f"anthropic:{model}"


def gist(policy: Policy) -> frozenset[object]:
    """What of a policy is another one when it changes, whatever its mode and the lines that its rules stand in."""
    rules = ((rule.decision, rule.text, rule.source.layer, rule.source.file) for rule in policy.rules)
    return frozenset((*rules, *policy.locks, *policy.modes, policy.hosts_asked))


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
