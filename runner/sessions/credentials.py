"""Keys that are bound to hosts and put into requests on the way out. Read once, when a session starts, from the
environment or a file of the user's; they reach the proxy and the list of what the journal hides, and nothing else.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from runner.effects import ConnectHost
from runner.errors import UsageError
from runner.policy.compose import settings_error
from runner.policy.layers import Entry, Settings
from runner.policy.network import NetworkPattern, network_pattern
from sandbox.injection import Injection

SHORTEST = 8
LONGEST = 8 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """One key. `variable`: the environment's name for it, "" where a file holds it."""

    patterns: tuple[NetworkPattern, ...]
    injection: Injection = field(repr=False)
    variable: str = ""

    def fits(self, effect: ConnectHost) -> bool:
        """Whether the key is for this request."""
        return effect.scheme == "https" and any(pattern.covers(effect) for pattern in self.patterns)

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
        key = environ.get(variable, "") if variable else _file(given["file"], home)
    except (UsageError, OSError) as error:
        raise settings_error(entry, f"credentials: {error}") from error
    where = f"the variable {variable}" if variable else given["file"]
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


def _file(text: str, home: Path) -> str:
    path = home / text[2:] if text.startswith("~/") else Path(text)
    with path.open("rb") as opened:
        return opened.read(LONGEST + 2).decode("ascii", "replace").strip()
