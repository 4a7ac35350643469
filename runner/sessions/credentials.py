"""Keys that are bound to hosts and put into requests on the way out. Read once, when a session starts, from the
environment, a file of the user's, this machine's keyring, or a command's output; they reach the proxy and the list of
what the journal hides, and nothing else.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from runner.dataclass import dataclass
from runner.effects import ConnectHost
from runner.errors import UsageError
from runner.policy.compose import settings_error
from runner.policy.layers import Entry, Settings
from runner.policy.network import NetworkPattern, network_pattern
from runner.sessions.programs import printed
from sandbox.injection import Injection

SHORTEST = 8
LONGEST = 8 << 10
DEADLINE = 30.0
_SECURE = frozenset({"https", "wss"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """One key. `variable`: the environment's name for it, "" where a file holds it."""

    patterns: tuple[NetworkPattern, ...]
    injection: Injection = field(repr=False)
    variable: str = ""

    def fits(self, effect: ConnectHost) -> bool:
        """Whether the key is for this request."""
        if effect.scheme not in _SECURE:
            return False
        asked = replace(effect, scheme="https")  # a WebSocket is asked for by such a request
        return any(pattern.covers(effect) or pattern.covers(asked) for pattern in self.patterns)

    def concerns(self, host: str, port: int) -> bool:
        """Whether it is for some request to there."""
        plain = ConnectHost(host=host, port=port, scheme="https", method="GET", path="/")
        return any(pattern.covers(plain) or pattern.touches(plain) for pattern in self.patterns)


def read_credentials(settings: Settings, environ: Mapping[str, str], home: Path) -> tuple[Credential, ...]:
    """All that settings outside of the repository name. Raises SettingsError for one that cannot be had: a session
    would run without it.
    """
    return tuple(_read(entry, environ, home) for entry in settings.all("credentials"))


def _read(entry: Entry, environ: Mapping[str, str], home: Path) -> Credential:
    given = entry.value
    variable = given.get("env", "")
    try:
        patterns = tuple(network_pattern(text) for text in given["hosts"])
        where, key = _key(given, environ, home)
    except OSError as error:
        raise settings_error(entry, f"credentials: {error.filename or error}: {error.strerror}") from error
    except (UsageError, LookupError) as error:
        raise settings_error(entry, f"credentials: {error}") from error
    for text, pattern in zip(given["hosts"], patterns, strict=True):
        if pattern.schemes and pattern.schemes.isdisjoint(_SECURE):
            raise settings_error(entry, f"credentials: {text}: keys are put into requests over TLS only (https://)")
    if not SHORTEST <= len(key) <= LONGEST or not (key.isascii() and key.isprintable()):
        raise settings_error(entry, f"credentials: {where} holds no key of {SHORTEST} or more printable characters")
    secrets = [key]
    if given.get("header"):
        header, value = given["header"].lower(), key
    elif given.get("basic"):
        header, packed = "authorization", b64encode(f"{given['basic']}:{key}".encode()).decode()
        value = f"Basic {packed}"
        secrets.append(packed)
    else:
        header, value = "authorization", f"Bearer {key}"
    injection = Injection(
        header=header.encode(),
        value=value.encode(),
        secrets=tuple(secret.encode() for secret in secrets),
        pin=bool(given.get("pin")),
    )
    return Credential(patterns=patterns, injection=injection, variable=variable)


def _key(given: Mapping[str, Any], environ: Mapping[str, str], home: Path) -> tuple[str, str]:
    """Where a key comes from, for a message, and the key. Raises OSError, LookupError."""
    if variable := given.get("env"):
        return f"the variable {variable}", environ.get(variable, "")
    if entry := given.get("keyring"):
        return f"the keyring's {entry['service']}", _keyring(entry["service"], entry.get("user", ""))
    if argv := given.get("command"):
        return f"what {argv[0]} prints", _printed(argv, environ, home)
    return given["file"], _file(given["file"], home)


def _file(text: str, home: Path) -> str:
    path = home / text[2:] if text.startswith("~/") else Path(text)
    with path.open("rb") as opened:
        return opened.read(LONGEST + 2).decode("ascii", "replace").strip()


def _keyring(service: str, user: str) -> str:
    """By the library `keyring`, which may ask the user to open it."""
    try:
        library = import_module("keyring")
    except ImportError as error:
        raise LookupError("the library keyring is not installed: pip install 'fumehood[keyring]'") from error
    pool = ThreadPoolExecutor(max_workers=1)
    try:
        return pool.submit(library.get_password, service, user).result(DEADLINE) or ""
    except TimeoutError as error:
        raise LookupError(f"the keyring gave no answer within {DEADLINE:g} s") from error
    except library.errors.KeyringError as error:
        raise LookupError(f"the keyring cannot be read: {type(error).__name__}") from error
    finally:
        pool.shutdown(wait=False)


def _printed(argv: list[str], environ: Mapping[str, str], home: Path) -> str:
    """The first line that a command of the user's prints, in their home directory. None of its words is said."""
    text = printed(argv, environ=environ, cwd=home, seconds=DEADLINE, most=LONGEST + 2)
    return text.decode("ascii", "replace").strip().partition("\n")[0].strip()
