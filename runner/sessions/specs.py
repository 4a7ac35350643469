"""SessionSpecs made from a directory and what a user asked for, or taken from the store; and what follows
from a spec alone.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from runner.effects import Decision, Mode, Place
from runner.errors import UsageError
from runner.policy.compose import Composed, Ground, check_versions, compose
from runner.policy.environment import denied_by, fields_of, overlaid, passes
from runner.policy.layers import Settings
from runner.policy.locks import box_limits, check_image, check_mode, check_spec, turn_limits, under_ceilings
from runner.policy.managed import PLACES, Places
from runner.policy.trust import Grants
from runner.sessions.chain import SOURCES, Chain, Seen, read_chain
from runner.sessions.store import Store, is_session_id, state_home
from runner.spec import BoxLimits, RootRef, SessionSpec, TurnLimits
from runner.variables import tuning
from runner.version import VERSION
from sandbox.roots import find_roots

if TYPE_CHECKING:
    from runner.sessions.registries import Registry

BOX_HOME = PurePosixPath("/home/box")
Notify = Callable[[str], None]


def silent(_line: str) -> None:
    """A Notify that drops what it hears."""


def new_spec(
    cwd: str | os.PathLike[str],
    *,
    environ: Mapping[str, str] | None = None,
    session: str = "",
    add_dirs: tuple[Path, ...] = (),
    really: bool = False,
    notify: Notify = silent,
    fields: Mapping[str, Any] | None = None,
    turn: Mapping[str, Any] | None = None,
    box: Mapping[str, Any] | None = None,
    places: Places = PLACES,
    **more: Any,
) -> SessionSpec:
    """The spec of a new session in a directory. `fields` and any further keyword are SessionSpec's fields,
    `turn` those of TurnLimits, `box` those of BoxLimits; what is not named comes from the settings. Raises
    UsageError, WorkspaceError, SettingsError, LockedError.
    """
    environ = os.environ if environ is None else environ
    if session and not is_session_id(session):
        raise UsageError(f"{session!r} is not a UUID")
    store = Store(state_home(environ))
    if session and store.directory(session).exists():
        raise UsageError(f"there is a session {session} already; use --resume to go on with it")
    given = {**(fields or {}), **more}
    here = Path(cwd).resolve()
    chain = _chain(here, environ, store, places, given)
    for note in chain.notes:
        notify(note)
    settings = chain.settings
    environ = overlaid(environ, settings)
    add_dirs = (*add_dirs, *_directories(settings, here, home_of(environ)))
    found = find_roots(Path(cwd), add_dirs, home=home_of(environ), state=store.home, really=really)
    for note in found.notes:
        notify(note)
    given = _filled(given, settings, environ)
    given = _with_model(given | {"model": given.get("model") or environ.get("FUMEHOOD_MODEL", "")}, environ)
    spec = SessionSpec(
        session=session or str(uuid.uuid4()),
        cwd=str(here),
        roots=tuple(
            RootRef(host=str(root.host), at=str(root.at), head=root.head, name=root.name) for root in found.roots
        ),
        limits=TurnLimits(**(turn_limits(settings) | fields_of(environ, TurnLimits) | dict(turn or {}))),
        box=BoxLimits(**(box_limits(settings) | dict(box or {}))),
        **given,
    )
    return _checked(_denied(spec, environ), environ, places, notify)


def resume_spec(
    session: str | None = None,
    *,
    cwd: str | os.PathLike[str],
    environ: Mapping[str, str] | None = None,
    notify: Notify = silent,
    fields: Mapping[str, Any] | None = None,
    turn: Mapping[str, Any] | None = None,
    box: Mapping[str, Any] | None = None,
    places: Places = PLACES,
    **more: Any,
) -> SessionSpec:
    """The spec of a session in the store, to go on with it: by id or unique prefix, else the directory's
    latest; changed in what is given, and brought under what managed settings want by now. Raises
    SessionNotFoundError, UsageError, SettingsError, LockedError.
    """
    environ = os.environ if environ is None else environ
    store = Store(state_home(environ))
    spec = store.choose(session, Path(cwd).resolve()).spec
    given = {**(fields or {}), **more}
    chain = _chain(Path(spec.cwd), environ, store, places, given, spec=spec)
    for note in chain.notes:
        notify(note)
    environ = overlaid(environ, chain.settings)
    given = _with_model(given, environ)
    if {"image", "packages"} & given.keys():
        given.setdefault("image_digest", "")
    if "mode" in given:
        check_mode(given["mode"], chain.settings)
    limits = TurnLimits(**(turn_limits(chain.settings) | fields_of(environ, TurnLimits)))
    variables = {**spec.variables, **tuning(environ)}
    stored, before = replace(spec, limits=limits, variables=variables), spec.policy_digest
    stored, notes = under_ceilings(stored, chain.settings)
    for note in notes:
        notify(note)
    limits = replace(stored.limits, **(turn or {}))
    spec = replace(stored, limits=limits, box=replace(stored.box, **(box or {})), **given)
    spec = _checked(_denied(spec, environ), environ, places, notify)
    if before and before != spec.policy_digest and not given:
        notify("the policy is another one than when this session was last started: see fumehood policy show")
    return spec


def _chain(
    cwd: Path,
    environ: Mapping[str, str],
    store: Store,
    places: Places,
    given: Mapping[str, Any],
    *,
    spec: SessionSpec | None = None,
) -> Chain:
    return read_chain(
        cwd,
        environ=environ,
        home=home_of(environ),
        state=store.home,
        places=places,
        sources=given.get("setting_sources", spec.setting_sources if spec else SOURCES),
        given=given.get("settings", spec.settings if spec else ""),
        seen=_seen(spec) if spec else None,
    )


def chain_of(spec: SessionSpec, environ: Mapping[str, str], places: Places = PLACES) -> Chain:
    """The settings chain of a spec, as it is now. Raises SettingsError."""
    return _chain(Path(spec.cwd), environ, Store(state_home(environ)), places, {}, spec=spec)


def standing_policy(
    cwd: Path, *, environ: Mapping[str, str], places: Places = PLACES, mode: Mode | None = None
) -> tuple[Chain, Composed, Ground]:
    """What would be in force in a session that starts in a directory, be it one that locks forbid to start. Raises
    SettingsError, WorkspaceError, UsageError.
    """
    here, home, store = cwd.resolve(), home_of(environ), Store(state_home(environ))
    found = find_roots(here, (), home=home, state=store.home, really=True)
    roots = tuple(RootRef(host=str(root.host), at=str(root.at)) for root in found.roots)
    spec = SessionSpec(session="", cwd=str(here), roots=roots, model="")
    chain = chain_of(spec, environ, places)
    mode = chain.settings.start_mode if mode is None else mode
    return chain, policy_of(spec, chain, environ, mode=mode), ground_of(spec, environ)


def check_image_here(cwd: Path, image: str, environ: Mapping[str, str], places: Places = PLACES) -> None:
    """Raises LockedError for an image that managed settings forbid whoever makes or takes it, SettingsError."""
    store = Store(state_home(environ))
    check_image(image, _chain(cwd.resolve(), environ, store, places, {"setting_sources": ()}).settings)


def _seen(spec: SessionSpec) -> Seen:
    return Seen(home=BOX_HOME, cwd=box_cwd(spec), root=PurePosixPath(spec.roots[0].at))


def _directories(settings: Settings, cwd: Path, home: Path) -> tuple[Path, ...]:
    """Further directories of the settings: from the home directory, or from the one the session starts in."""
    texts = settings.value("permissions.additionalDirectories")
    return tuple(home / text[2:] if text.startswith("~/") else cwd / text for text in texts)


def _filled(given: Mapping[str, Any], settings: Settings, environ: Mapping[str, str]) -> dict[str, Any]:
    """What was not asked for, from the settings; a mode that was asked for and is locked is an error."""
    if "mode" in given:
        check_mode(given["mode"], settings)
    made: dict[str, Any] = {"mode": settings.start_mode}
    if not any(environ.get(name) for name in ("FUMEHOOD_MODEL", "ANTHROPIC_MODEL")):
        made["model"] = settings.value("model")
    made |= {
        "fallback_models": tuple(settings.value("fallbackModel") or ()),
        "image": settings.value("image"),
        "packages": tuple(settings.value("packages")),
        "system_writable": settings.value("system") == "writable",
        "runtime": settings.value("runtime"),
        "environment": tuple(name for name in settings.env if passes(name)),
    }
    named = {name: value for name, value in made.items() if value is not None and value not in ((), False)}
    both = tuple(dict.fromkeys((*named.get("environment", ()), *given.get("environment", ()))))
    return named | fields_of(environ, SessionSpec) | dict(given) | ({"environment": both} if both else {})


def _denied(spec: SessionSpec, environ: Mapping[str, str]) -> SessionSpec:
    """With what variables take away."""
    return replace(spec, deny=tuple(dict.fromkeys((*spec.deny, *denied_by(environ)))))


def _with_model(given: dict[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """Models by their full names, a script by its absolute path."""
    model_id = import_module("runner.models.registry").model_id  # each provider is imported when named

    def full(name: str) -> str:
        provider, _, target = str(model_id(name, environ)).partition(":")
        return f"{provider}:{Path(target).absolute()}" if provider == "scripted" else f"{provider}:{target}"

    named = {"model": full(given["model"])} if "model" in given else {}
    others = {"fallback_models": tuple(map(full, given["fallback_models"]))} if "fallback_models" in given else {}
    return given | named | others


def _checked(spec: SessionSpec, environ: Mapping[str, str], places: Places, notify: Notify) -> SessionSpec:
    """What would fail late is refused early: locks, rules and packages."""
    chain = chain_of(spec, environ, places)
    check_spec(spec, chain.settings)
    composed = policy_of(spec, chain, environ)
    for note in composed.notes:
        notify(note)
    hooks = import_module("runner.sessions.enforced").configured(chain.settings)
    for note in hooks.told(trusted=chain.trusted) if hooks is not None else ():
        notify(note)
    spec = replace(spec, policy_digest=composed.policy.digest)
    if spec.packages:
        import_module("sandbox.recipe").load_recipe("base", packages=spec.packages)  # it reads YAML: 50 ms
    return spec


def policy_of(spec: SessionSpec, chain: Chain, environ: Mapping[str, str], *, mode: Mode | None = None) -> Composed:
    """The policy of a spec under its settings chain, its examples tried. `mode`: another than the spec's. Raises
    SettingsError, UsageError for a rule that is wrong.
    """
    settings = chain.settings
    check_versions(settings, VERSION)
    registries = registries_of(spec, settings, environ)
    grants = Grants(state_home(environ))
    composed = compose(
        settings,
        mode=spec.mode if mode is None else mode,
        ground=ground_of(spec, environ),
        flags=((Decision.DENY, spec.deny), (Decision.ALLOW, spec.allow)),
        approvals=tuple(one.rule for one in grants.approvals(chain.workspace)),
        approvals_file=str(grants.approvals_file),
        registries=tuple((each.tool, each.rules) for each in registries),
    )
    if notes := tuple(each.note for each in registries if each.note):
        composed = replace(composed, notes=(*composed.notes, *notes))
    if composed.examples or settings.cases:
        import_module("runner.policy.cases").check(composed, settings, ground_of(spec, environ))
    return composed


def registries_of(spec: SessionSpec, settings: Settings, environ: Mapping[str, str]) -> tuple[Registry, ...]:
    """What the tools that `registries:` lists say of where they get their packages. Blocks, the first time."""
    tools = settings.value("registries")
    if not tools:
        return ()
    found: tuple[Registry, ...] = import_module("runner.sessions.registries").registries_of(
        tools, overlaid(environ, settings), tuple(Path(root.host) for root in spec.roots)
    )
    return found


def ground_of(spec: SessionSpec, environ: Mapping[str, str]) -> Ground:
    """Where the rules of a session are read."""
    place = Place(cwd=box_cwd(spec), home=BOX_HOME, roots=tuple(PurePosixPath(root.at) for root in spec.roots))
    moved = tuple((PurePosixPath(r.host), PurePosixPath(r.at)) for r in spec.roots if r.host != r.at)
    return Ground(place=place, home=PurePosixPath(home_of(environ)), moved=moved)


def box_cwd(spec: SessionSpec) -> PurePosixPath:
    """Where the box sees the directory that the session was started in."""
    cwd = PurePosixPath(spec.cwd)
    for root in spec.roots:
        if cwd.is_relative_to(root.host):
            return PurePosixPath(root.at) / cwd.relative_to(root.host)
    return PurePosixPath(spec.roots[0].at)


def home_of(environ: Mapping[str, str]) -> Path:
    """The user's home directory."""
    return Path(environ.get("HOME") or Path.home())
