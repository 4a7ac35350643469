"""Keys bound to hosts: read from the user's side only, and never without what they are for."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import keyring
import keyring.backend
import keyring.errors
import pytest

from runner.effects import ConnectHost, Source
from runner.errors import SettingsError
from runner.policy.settings import check_shape
from runner.sessions.credentials import Credential, read_credentials
from tests.support.policies import joined, loaded

KEY = "s3cret-key-of-ours"


def read(tmp_path: Path, *rows: dict[str, Any], layer: Source = Source.USER) -> tuple[Credential, ...]:
    source = loaded(layer, {"credentials": list(rows)})
    check_shape(source.document)
    return read_credentials(joined(source, trusted=True), {"KEY": KEY}, tmp_path)


@pytest.mark.parametrize(
    ("form", "header", "value"),
    [
        ({}, b"authorization", f"Bearer {KEY}"),
        ({"bearer": True}, b"authorization", f"Bearer {KEY}"),
        ({"header": "X-Api-Key"}, b"x-api-key", KEY),
        ({"basic": "user"}, b"authorization", f"Basic {b64encode(f'user:{KEY}'.encode()).decode()}"),
    ],
)
def test_a_key_takes_the_form_that_settings_say(
    tmp_path: Path, form: dict[str, Any], header: bytes, value: str
) -> None:
    [made] = read(tmp_path, {"hosts": ["a.example"], "env": "KEY", **form})
    assert (made.injection.header, made.injection.value) == (header, value.encode())
    assert KEY.encode() in made.injection.secrets
    assert KEY not in repr(made)


def test_a_key_is_for_its_hosts_and_https_only(tmp_path: Path) -> None:
    [made] = read(tmp_path, {"hosts": ["a.example", "GET https://b.example/x/*"], "env": "KEY"})

    def fits(host: str, *, port: int = 443, scheme: str = "https", method: str = "GET", path: str = "/") -> bool:
        return made.fits(ConnectHost(host=host, port=port, scheme=scheme, method=method, path=path))

    assert fits("a.example")
    assert fits("b.example", path="/x/y")
    for no in (
        fits("a.example", scheme="http", port=80),
        fits("a.example", port=8443),
        fits("x.a.example"),
        fits("b.example", path="/y"),
        fits("b.example", path="/x/../y"),
        fits("b.example", method="POST", path="/x/y"),
        fits("a.example", scheme="ws", port=80),
        fits("b.example", scheme="wss", path="/y"),
    ):
        assert not no
    assert fits("a.example", scheme="wss")  # whether that is allowed is another rule's matter
    assert made.concerns("b.example", 443)
    assert not made.concerns("c.example", 443)


@pytest.mark.parametrize("host", ["http://a.example", "tcp://a.example:5432"])
def test_a_key_that_could_never_be_put_in_is_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(SettingsError, match=f"{host}: keys are put into requests over TLS only"):
        read(tmp_path, {"hosts": ["b.example", host], "env": "KEY"})


def test_a_key_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="credentials: /nowhere/key: No such file or directory"):
        read(tmp_path, {"hosts": ["a.example"], "file": "/nowhere/key"})


def test_a_key_comes_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    [made] = read(tmp_path, {"hosts": ["a.example"], "file": "~/key"})
    assert (made.injection.value, made.variable) == (f"Bearer {KEY}".encode(), "")


def test_a_key_comes_from_a_command_whose_words_are_never_said(tmp_path: Path) -> None:
    [made] = read(tmp_path, {"hosts": ["a.example"], "command": ["sh", "-c", f"pwd >&2; echo {KEY}; echo more"]})
    assert made.injection.value == f"Bearer {KEY}".encode()
    failing = {"hosts": ["a.example"], "command": ["sh", "-c", f"echo {KEY}; echo {KEY} >&2; exit 4"]}
    with pytest.raises(SettingsError, match="sh ended with 4") as raised:
        read(tmp_path, failing)
    assert KEY not in str(raised.value)


class Ring(keyring.backend.KeyringBackend):
    """A keyring of this process only."""

    priority = 1
    held: ClassVar[dict[tuple[str, str], str]] = {}

    def get_password(self, service: str, username: str) -> str | None:
        if service == "locked":
            raise keyring.errors.KeyringLocked
        return self.held.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.held[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.held[service, username]


@pytest.fixture
def ring() -> Iterator[None]:
    before = keyring.get_keyring()
    keyring.set_keyring(Ring())  # type: ignore[no-untyped-call]
    yield
    keyring.set_keyring(before)


def test_a_key_comes_from_the_keyring(tmp_path: Path, ring: None) -> None:
    keyring.set_password("site", "me", KEY)
    [made] = read(tmp_path, {"hosts": ["a.example"], "keyring": {"service": "site", "user": "me"}})
    assert made.injection.value == f"Bearer {KEY}".encode()
    for service, problem in (("other", "holds no key"), ("locked", "cannot be read: KeyringLocked")):
        with pytest.raises(SettingsError, match=problem):
            read(tmp_path, {"hosts": ["a.example"], "keyring": {"service": service, "user": "me"}})


@pytest.mark.parametrize(
    "row",
    [
        {"hosts": ["a.example"], "env": "ABSENT"},
        {"hosts": ["a.example"], "file": "/nowhere/key"},
        {"hosts": ["a.example"]},
        {"hosts": [], "env": "KEY"},
        {"hosts": ["a b c"], "env": "KEY"},
        {"hosts": ["a.example"], "env": "KEY", "file": "x"},
        {"hosts": ["a.example"], "env": "KEY", "basic": "u", "header": "X"},
        {"hosts": ["a.example"], "env": "KEY", "command": ["true"]},
        {"hosts": ["a.example"], "command": []},
        {"hosts": ["a.example"], "command": ["/nowhere/program"]},
        {"hosts": ["a.example"], "command": ["true"]},
        {"hosts": ["a.example"], "keyring": {"service": ""}},
        {"hosts": ["a.example"], "env": "KEY", "header": "X: y"},
    ],
)
def test_a_key_that_cannot_be_had_or_used_is_said(tmp_path: Path, row: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        read(tmp_path, row)


def test_a_key_with_a_line_break_or_too_short_is_none(tmp_path: Path) -> None:
    for text in ("two\nlines-of-a-key", "short", "caf\u00e9-caf\u00e9-caf\u00e9"):
        (tmp_path / "key").write_text(text)
        with pytest.raises(SettingsError, match="holds no key"):
            read(tmp_path, {"hosts": ["a.example"], "file": "~/key"})


def test_no_repository_names_a_key(tmp_path: Path) -> None:
    for layer in (Source.PROJECT, Source.LOCAL):
        assert read(tmp_path, {"hosts": ["evil.example"], "env": "KEY"}, layer=layer) == ()
