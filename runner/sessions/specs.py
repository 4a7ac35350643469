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
from typing import Any

from runner.effects import Place
from runner.errors import UsageError
from runner.policy.policy import Policy, build_policy
from runner.sessions.store import Store, is_session_id, state_home
from runner.spec import BoxLimits, RootRef, SessionSpec, TurnLimits
from sandbox.roots import find_roots

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
    **more: Any,
) -> SessionSpec:
    """The spec of a new session in a directory. `fields` and any further keyword are SessionSpec's fields,
    `turn` those of TurnLimits, `box` those of BoxLimits. Raises UsageError, WorkspaceError.
    """
    environ = os.environ if environ is None else environ
    if session and not is_session_id(session):
        raise UsageError(f"{session!r} is not a UUID")
    store = Store(state_home(environ))
    if session and store.directory(session).exists():
        raise UsageError(f"there is a session {session} already; use --resume to go on with it")
    given = {**(fields or {}), **more}
    found = find_roots(Path(cwd), add_dirs, home=home_of(environ), state=store.home, really=really)
    for note in found.notes:
        notify(note)
    given = _with_model(given | {"model": given.get("model") or environ.get("FUMEHOOD_MODEL", "")}, environ)
    return _checked(
        SessionSpec(
            session=session or str(uuid.uuid4()),
            cwd=str(Path(cwd).resolve()),
            roots=tuple(
                RootRef(host=str(root.host), at=str(root.at), head=root.head, name=root.name) for root in found.roots
            ),
            limits=TurnLimits(**(turn or {})),
            box=BoxLimits(**(box or {})),
            **given,
        )
    )


def resume_spec(
    session: str | None = None,
    *,
    cwd: str | os.PathLike[str],
    environ: Mapping[str, str] | None = None,
    fields: Mapping[str, Any] | None = None,
    turn: Mapping[str, Any] | None = None,
    box: Mapping[str, Any] | None = None,
    **more: Any,
) -> SessionSpec:
    """The spec of a session in the store, to go on with it: by id or unique prefix, else the directory's
    latest; changed in what is given. Raises SessionNotFoundError, UsageError.
    """
    environ = os.environ if environ is None else environ
    store = Store(state_home(environ))
    spec = store.choose(session, Path(cwd).resolve()).spec
    given = _with_model({**(fields or {}), **more}, environ)
    if {"image", "packages"} & given.keys():
        given.setdefault("image_digest", "")
    return _checked(replace(spec, limits=TurnLimits(**(turn or {})), box=replace(spec.box, **(box or {})), **given))


def _with_model(given: dict[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """Models by their full names, a script by its absolute path."""
    model_id = import_module("runner.models.registry").model_id  # each provider is imported when named

    def full(name: str) -> str:
        provider, _, target = str(model_id(name, environ)).partition(":")
        return f"{provider}:{Path(target).absolute()}" if provider == "scripted" else f"{provider}:{target}"

    named = {"model": full(given["model"])} if "model" in given else {}
    others = {"fallback_models": tuple(map(full, given["fallback_models"]))} if "fallback_models" in given else {}
    return given | named | others


def _checked(spec: SessionSpec) -> SessionSpec:
    """What would fail late is refused early: rules and packages."""
    spec = replace(spec, policy_digest=policy_of(spec).digest)
    if spec.packages:
        import_module("sandbox.recipe").load_recipe("base", packages=spec.packages)  # it reads YAML: 50 ms
    return spec


def policy_of(spec: SessionSpec) -> Policy:
    """The policy of the command line's flags. Raises UsageError for a rule that is wrong."""
    return build_policy(
        mode=spec.mode,
        allow=spec.allow,
        deny=spec.deny,
        place=Place(cwd=box_cwd(spec), home=BOX_HOME, roots=tuple(PurePosixPath(root.at) for root in spec.roots)),
    )


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
