"""What the journal of a session never holds: secrets of the environment, keys that requests get, logins of proxies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from runner.journal import Secrets

if TYPE_CHECKING:
    from runner.sessions.credentials import Credential
    from runner.sessions.exposing import Exposing

SECRET_NAMES = ("KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL")


def known_secrets(
    environ: Mapping[str, str], credentials: Iterable[Credential], exposing: Exposing | None = None
) -> Secrets:
    """All of them, each under the name that stands in its place."""
    secrets = Secrets()
    for name, value in environ.items():
        if any(part in name.upper() for part in SECRET_NAMES):
            secrets.add(name, value)
    for number, credential in enumerate(credentials):
        for secret in credential.injection.secrets:
            secrets.add(credential.variable or f"credential {number + 1}", secret.decode())
    for row in exposing.rows if exposing is not None else ():
        secrets.add(row.name, row.value)
    if any("proxy" in name.lower() for name in environ):
        for login in import_module("runner.sessions.company").secrets_of(environ):
            secrets.add("a proxy's password", login)
    return secrets
