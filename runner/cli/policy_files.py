"""Work on one policy file for `fumehood policy`: its errors, its examples, its policy at some place, signatures and
presets.
"""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path, PurePosixPath

from runner.dataclass import dataclass
from runner.effects import Mode, Place, Source, Verdict
from runner.errors import ManagedError, SettingsError, UsageError
from runner.policy import claude, settings, signing
from runner.policy.calls import call_of, judge
from runner.policy.cases import Failure, Tried, failures, try_cases
from runner.policy.compose import Composed, Ground, compose, settings_error, wrong_rules
from runner.policy.documents import Document, parse, read_file
from runner.policy.layers import Loaded, Settings, join, mode_of
from runner.policy.managed import KEYS_FILE, PLACES, SIGNATURE, expiry, read_managed
from runner.policy.policy import Policy
from runner.policy.trust import read_serials
from runner.sessions.enforced import configured
from runner.sessions.store import state_home

PRESETS = Path(__file__).resolve().parents[2] / "policies"
HERE = Place(cwd=PurePosixPath("/work"), home=PurePosixPath("/home/box"), roots=(PurePosixPath("/work"),))


@dataclass(frozen=True, slots=True, kw_only=True)
class Differing:
    """A call that two policies decide otherwise."""

    call: str
    mode: str
    a: Verdict
    b: Verdict


def _document(file: Path) -> Document:
    data = read_file(file)
    if data is None:
        raise UsageError(f"there is no file {file}")
    return parse(data, str(file))


def _loaded(document: Document) -> Loaded:
    """A file on its own counts as managed: the strictest reading of everything in it."""
    if document.name.endswith(".json") and not document.value.keys() <= _ours():
        document = claude.translate(document).document
    else:
        settings.check_shape(document)
    return Loaded(layer=Source.MANAGED, document=document)


def _ours() -> set[str]:
    return {info.alias or name for name, info in settings.PolicyFile.model_fields.items()}


def problems(file: Path) -> list[SettingsError]:
    """All that is wrong with a file."""
    try:
        document = _document(file)
    except SettingsError as error:
        return [error]
    if not document.name.endswith(".json") or document.value.keys() <= _ours():
        found = [document.error(problem, where) for where, problem in settings.shape_errors(document)]
        if found:
            return found
    try:
        loaded = _loaded(document)
        if "expires" in document.value:
            expiry(document)
    except SettingsError as error:
        return [error]
    joined = join((loaded,), trusted=True)
    found = list(wrong_rules(joined, Ground(place=HERE)))
    try:
        configured(joined)
    except SettingsError as error:
        found.append(error)
    if found:
        return sorted(found, key=lambda error: (error.line, error.column))
    try:
        composed = _composed(joined, HERE, None)
    except SettingsError as error:
        return [error]
    return [
        settings_error(failure.entry, failure.problem) for failure in failures(composed, joined, Ground(place=HERE))
    ]


def remarks(file: Path) -> Iterator[str]:
    """What a Claude Code file holds that means nothing here."""
    document = _document(file)
    if document.name.endswith(".json") and not document.value.keys() <= _ours():
        translated = claude.translate(document)
        for where in translated.idle:
            line, column = document.mark(where)
            held = "; a managed file with it refuses to start" if where in translated.unheld else ""
            yield f"{file}:{line}:{column}: {'.'.join(map(str, where))} means nothing here{held}"


def _composed(joined: Settings, place: Place, mode: Mode | None) -> Composed:
    return compose(joined, mode=mode if mode in joined.modes else None, ground=Ground(place=place))


def try_examples(file: Path) -> tuple[list[Tried], list[Failure]]:
    """Every example with its verdict, and those that do not hold (of rules, too). Raises SettingsError."""
    joined = join((_loaded(_document(file)),), trusted=True)
    composed = _composed(joined, HERE, None)
    ground = Ground(place=HERE)
    return list(try_cases(composed, joined, ground)), list(failures(composed, joined, ground))


@lru_cache(maxsize=64)
def policy_at(file: Path, place: Place, mode: Mode) -> Policy:
    """The policy of a file alone, at a place. Raises SettingsError."""
    return _composed(join((_loaded(_document(file)),), trusted=True), place, mode).policy


def differing_examples(a: Path, b: Path) -> list[Differing]:
    """Over the examples of both."""
    found: list[Differing] = []
    for file in (a, b):
        for entry in join((_loaded(_document(file)),), trusted=True).cases:
            mode = mode_of(entry.value.get("mode") or "default")
            call = entry.value["call"]
            tool, effects = call_of(call, HERE)
            one, two = (judge(policy_at(each, HERE, mode), tool, effects, HERE) for each in (a, b))
            if one.decision is not two.decision:
                found.append(Differing(call=call, mode=mode.value, a=one, b=two))
    return found


def make_key(name: Path) -> tuple[Path, Path]:
    """A new key pair, NAME.key (0600) and NAME.pub."""
    secret, public = name.with_name(name.name + ".key"), name.with_name(name.name + ".pub")
    made = signing.new_key()
    try:
        fd = os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise UsageError(f"{secret} is there already") from error
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(made.text())
    public.write_text(made.public.text(), encoding="utf-8")
    return secret, public


def sign(file: Path, key: Path, comment: str) -> Path:
    """Sign a file; where the signature lies. A file with an error is not signed."""
    data = read_file(file)
    if data is None:
        raise UsageError(f"there is no file {file}")
    if wrong := problems(file):
        raise wrong[0]
    made = secret_key(key).sign(data, comment)
    beside = file.with_name(file.name + SIGNATURE)
    beside.write_text(made, encoding="utf-8")
    return beside


def secret_key(file: Path) -> signing.SecretKey:
    """A secret key file's key; its password is asked for where it has one. Raises UsageError."""
    text = _text(file)
    try:
        password = getpass.getpass("password of the secret key: ").encode() if signing.needs_password(text) else b""
        return signing.secret_key(text, password)
    except signing.SignatureError as error:
        raise UsageError(f"{file}: {error}") from error


def public_keys(file: Path | None) -> tuple[signing.PublicKey, ...]:
    """A file's keys; of None those pinned on this machine, which may be none. Raises UsageError, SettingsError."""
    pinned = PLACES.fumehood / KEYS_FILE
    if file is None and not pinned.exists():
        return ()
    data = read_file(pinned, owner=PLACES.owner, links=False) if file is None else _text(file).encode()
    try:
        return signing.public_keys((data or b"").decode())
    except ValueError as error:
        raise UsageError(f"{file or pinned}: {error}") from error


def sink_keys(environ: Mapping[str, str]) -> tuple[signing.PublicKey, ...]:
    """The key of the audit sink that managed settings require here. None where they cannot be relied on."""
    try:
        managed = read_managed(PLACES, now=datetime.now(UTC), seen=read_serials(state_home(environ)))
        wanted = [one.document.value.get("requiredAuditSink") for one in managed.loaded]
        return tuple(key for sink in wanted if sink for key in signing.public_keys(sink["publicKey"]))
    except (SettingsError, signing.SignatureError):
        return ()


def verify(file: Path, key: Path | None) -> str:
    """The trusted comment. Raises ManagedError."""
    pinned = PLACES.fumehood / KEYS_FILE
    if key is None and not pinned.exists():
        raise UsageError("no key is pinned on this machine; name one: --key")
    data = read_file(file)
    if data is None:
        raise UsageError(f"there is no file {file}")
    try:
        keys = signing.public_keys(_text(key or pinned))
        return signing.verify(data, _text(file.with_name(file.name + SIGNATURE)), keys)
    except signing.SignatureError as error:
        raise ManagedError(str(error), file=f"{file}{SIGNATURE}") from error


def _text(path: Path) -> str:
    data = read_file(path)
    if data is None:
        raise UsageError(f"there is no file {path}")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no text") from error


def presets() -> list[tuple[str, str]]:
    """Names and what each is for."""
    return [
        (path.stem, str(parse(path.read_bytes(), path.name).value.get("description", "")))
        for path in sorted(PRESETS.glob("*.yaml"))
    ]


def preset(name: str) -> str:
    """The text of a preset. Raises UsageError."""
    known = [path.stem for path in sorted(PRESETS.glob("*.yaml"))]
    if name not in known:
        near = settings.suggestion(name, tuple(known))
        raise UsageError(
            f"there is no preset {name!r}" + (f"; did you mean {near}?" if near else f": {', '.join(known)}")
        )
    return (PRESETS / f"{name}.yaml").read_text(encoding="utf-8")


def schema() -> str:
    """`policies/policy.schema.json`, from the models."""
    return json.dumps(settings.json_schema(), indent=2, sort_keys=True) + "\n"
