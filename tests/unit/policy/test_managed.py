"""Managed settings: whatever is wrong with them, nothing starts; and what is right with them counts."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.effects import Mode, Source
from runner.errors import ManagedError
from runner.policy.compose import check_versions
from runner.policy.layers import join
from runner.policy.managed import KEYS_FILE, PLACES, Places, read_managed, stamp
from runner.policy.signing import new_key
from tests.support.policies import NOW, manage, places, put, read

DENY = {"permissions": {"deny": ["WebFetch"]}}


@pytest.fixture
def where(tmp_path: Path) -> Places:
    return places(tmp_path)


def refused(where: Places, match: str, **more: Any) -> ManagedError:
    with pytest.raises(ManagedError, match=match) as caught:
        read(where, **more)
    assert caught.value.exit_code == 7
    assert caught.value.hint
    return caught.value


def test_the_places_are_constants_of_roots() -> None:
    assert Places() == PLACES
    assert (str(PLACES.fumehood), str(PLACES.claude), PLACES.owner) == ("/etc/fumehood", "/etc/claude-code", 0)


def test_no_variable_moves_the_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = stamp(PLACES)
    for name in ("FUMEHOOD_HOME", "XDG_CONFIG_HOME", "CLAUDE_CONFIG_DIR", "HOME", "XDG_CONFIG_DIRS"):
        monkeypatch.setenv(name, str(tmp_path))
    assert stamp(PLACES) == before


def test_without_managed_settings_nothing_is_managed(tmp_path: Path, where: Places) -> None:
    assert read(where).loaded == ()
    nowhere = Places(fumehood=tmp_path / "no", claude=tmp_path / "nor", owner=os.getuid())
    assert read_managed(nowhere, now=NOW, seen={}).loaded == ()


def test_files_of_both_places_are_read_in_the_order_of_their_names(where: Places) -> None:
    manage(where, "permissions: {deny: [A]}")
    put(where.fumehood / "managed-settings.d/20-b.yaml", "permissions: {deny: [C]}")
    put(where.fumehood / "managed-settings.d/10-a.yaml", "permissions: {deny: [B]}")
    put(where.fumehood / "managed-settings.d/.hidden", "{")
    put(where.claude / "managed-settings.json", DENY)
    put(where.claude / "managed-settings.d/x.json", {"permissions": {"deny": ["D"]}, "spinnerVerbs": {}})
    found = read(where)
    assert [Path(one.file).name for one in found.loaded] == [
        "managed-settings.yaml",
        "10-a.yaml",
        "20-b.yaml",
        "managed-settings.json",
        "x.json",
    ]
    assert {one.layer for one in found.loaded} == {Source.MANAGED}
    assert [one.place for one in found.loaded] == [0, 0, 0, 1, 1]
    assert [key for one in found.loaded for key, _ in one.idle] == ["spinnerVerbs"]


BROKEN: dict[str, str] = {
    "": "is empty",
    "permissions: {deny: [": "is no YAML",
    "permisions: {}": "unknown key 'permisions'; did you mean 'permissions'",
    "permissions: {denny: []}": "unknown key 'denny'; did you mean 'deny'",
    "permissions: {deny: WebFetch}": "permissions.deny",
    "disableShell: yes": "disableShell",
    "allowManagedPermissionRulesOnly: 1": "allowManagedPermissionRulesOnly",
    "forcedMode: yolo": "forcedMode",
    "requiredMinimumVersion: latest": "requiredMinimumVersion",
    "expires: soon": "no ISO date",
    "availableModels: opus": "availableModels",
    "limits: {memory: lots}": "limits.memory",
    "limits: {maxTurns: 0}": "limits.maxTurns",
    "requiredAuditSink: {url: 'https://audit.example'}": "publicKey",
    "requiredAuditSink: {publicKey: RWQ}": "publicKey",
    f"requiredAuditSink: {{publicKey: {'R' * 56}}}": "name one of url and command",
    f"requiredAuditSink: {{url: 'https://audit.example', publicKey: {'R' * 56}}}": "secretFile or secretEnv",
    f"requiredAuditSink: {{url: 'http://audit.example', secretEnv: S, publicKey: {'R' * 56}}}": "https://",
}


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_file_starts_nothing_and_says_where(where: Places, text: str) -> None:
    file = manage(where, text)
    put(where.fumehood / "managed-settings.d/10-good.yaml", DENY)
    error = refused(where, BROKEN[text].replace("(", r"\("))
    assert error.file == str(file)


CLAUDES: dict[str, tuple[dict[str, Any], str]] = {
    "permissions": ({"permissions": {"denyAll": True}}, "permissions.denyAll"),
    "permissions, misspelt": ({"permissions": {"denny": []}}, "permissions.denny .* did you mean 'deny'"),
    "a lock, misspelt": ({"allowManagedHookOnly": True}, "did you mean 'allowManagedHooksOnly'"),
    "sandbox": ({"sandbox": {"newLock": True}}, "sandbox.newLock"),
    "sandbox, deeper": ({"sandbox": {"network": {"blockAll": True}}}, "sandbox.network.blockAll"),
    "allowManaged": ({"allowManagedSkillsOnly": True}, "allowManagedSkillsOnly"),
    "disable": ({"disableEverything": True}, "disableEverything"),
    "deny": ({"denyNetwork": True}, "denyNetwork"),
    "force": ({"forceLoginOrgUUID": "x"}, "forceLoginOrgUUID"),
    "a wrong type": ({"permissions": {"deny": "WebFetch"}}, "permissions.deny"),
    "a lock of a wrong type": ({"allowManagedHooksOnly": "yes"}, "allowManagedHooksOnly"),
    "a list": ([], "holds no object"),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("name", CLAUDES)
def test_what_claude_codes_file_forbids_and_we_cannot_starts_nothing(where: Places, name: str) -> None:
    value, match = CLAUDES[name]
    put(where.claude / "managed-settings.json", value)
    refused(where, match)


def test_claude_codes_managed_keys_mean_the_same_here(where: Places) -> None:
    put(
        where.claude / "managed-settings.json",
        {
            "permissions": {"deny": ["Read(./secret)"], "disableBypassPermissionsMode": "disable"},
            "disableAutoMode": "disable",
            "allowManagedPermissionRulesOnly": True,
            "allowManagedHooksOnly": True,
            "allowManagedMcpServersOnly": True,
            "availableModels": ["opus"],
            "sandbox": {
                "enabled": True,
                "filesystem": {"denyRead": ["/etc/shadow", "~/.aws"], "denyWrite": ["./ci"], "allowWrite": ["/x"]},
                "network": {
                    "allowedDomains": ["a.example"],
                    "deniedDomains": ["b.example"],
                    "allowManagedDomainsOnly": True,
                },
                "credentials": {"files": [{"path": "~/.netrc", "mode": "deny"}]},
            },
            "companyAnnouncements": ["hello"],
        },
    )
    found = join(read(where).loaded, trusted=False)
    assert found.value("permissions.deny") == [
        "Read(./secret)",
        "Read(//etc/shadow)",
        "Read(~/.aws)",
        "Edit(./ci)",
        "Read(~/.netrc)",
    ]
    assert found.modes == frozenset(Mode) - {Mode.BYPASS, Mode.AUTO}
    assert found.value("network.deniedDomains") == ["b.example"]
    assert found.value("network.allowedDomains") == ["a.example"]
    assert set(found.locks) >= {
        "allowManagedPermissionRulesOnly",
        "allowManagedHooksOnly",
        "allowManagedMcpServersOnly",
        "network.allowManagedDomainsOnly",
        "availableModels=opus",
    }
    assert found.all("permissions.deny")[1].source.line > 0


def spoil_mode(path: Path) -> None:
    path.chmod(0o666)


def spoil_link(path: Path) -> None:
    elsewhere = path.parents[3] / "real.yaml"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def spoil_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def spoil_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def spoil_size(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(100 << 20)


def spoil_encoding(path: Path) -> None:
    path.write_bytes("permissions: {deny: [x]}".encode("utf-16"))


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (spoil_mode, "may be written by others"),
        (spoil_link, "is a symbolic link"),
        (spoil_fifo, "is no regular file"),
        (spoil_directory, "is no regular file"),
        (spoil_size, "is longer than"),
        (spoil_encoding, "is no UTF-8"),
    ],
)
@pytest.mark.parametrize("name", ["managed-settings.yaml", "managed-settings.d/10.yaml"])
def test_a_file_that_is_not_what_it_should_be_starts_nothing(
    where: Places, spoil: Callable[[Path], None], match: str, name: str
) -> None:
    path = put(where.fumehood / name, DENY)
    assert read(where).loaded
    spoil(path)
    refused(where, match)


def test_files_and_directories_of_another_owner_start_nothing(where: Places) -> None:
    manage(where, DENY)
    other = Places(fumehood=where.fumehood, claude=where.claude, owner=os.getuid() + 1)
    refused(other, "belongs to uid")
    where.fumehood.chmod(0o777)
    refused(where, "may be written by others")


def test_a_place_that_is_no_directory_starts_nothing(where: Places) -> None:
    where.fumehood.rmdir()
    where.fumehood.write_text("x")
    refused(where, "is no directory")


@pytest.mark.parametrize(
    "name", ["managed-settings.yml", "managed-settings.json", "managed-settings.d/10.yml", "managed-settings.d/10.json"]
)
def test_a_file_under_a_name_that_is_not_read_is_not_passed_over(where: Places, name: str) -> None:
    put(where.fumehood / name, DENY)
    refused(where, "is not read here: name it")


def test_with_a_pinned_key_every_file_must_be_signed(where: Places) -> None:
    key, other = new_key(), new_key()
    path = manage(where, DENY)
    put(where.fumehood / KEYS_FILE, key.public.text())
    refused(where, "is not signed")
    beside = path.with_name(path.name + ".minisig")
    put(beside, other.sign(path.read_bytes(), "x"))
    refused(where, "which is not pinned")
    put(beside, key.sign(b"another file", "x"))
    refused(where, "does not fit the file")
    put(beside, "garbage")
    refused(where, "is no signature")
    put(beside, key.sign(path.read_bytes(), "x"))
    assert len(read(where).loaded) == 1
    drop_in = put(where.fumehood / "managed-settings.d/10.yaml", DENY)
    refused(where, "is not signed")
    put(drop_in.with_name("10.yaml.minisig"), key.sign(drop_in.read_bytes(), "x"))
    assert len(read(where).loaded) == 2
    claude = put(where.claude / "managed-settings.json", DENY)
    refused(where, "is not signed")
    put(claude.with_name(claude.name + ".minisig"), key.sign(claude.read_bytes(), "x"))
    assert len(read(where).loaded) == 3


def test_a_file_of_keys_that_holds_none_starts_nothing(where: Places) -> None:
    manage(where, DENY)
    put(where.fumehood / KEYS_FILE, "untrusted comment: gone\n")
    refused(where, "holds no key")


def test_what_has_expired_starts_nothing(where: Places) -> None:
    for expires in ("2026-11-25", "2026-11-24T23:59:59", "2026-11-25T01:00:00+01:00"):
        manage(where, f'expires: "{expires}"')
        refused(where, "expired at")
    manage(where, 'expires: "2026-11-26"')
    assert read(where).loaded


def test_a_serial_older_than_seen_starts_nothing(where: Places) -> None:
    path = manage(where, "serial: 7")
    assert read(where).serials == {str(path): 7}
    assert read(where, seen={str(path): 7}).loaded
    refused(where, "older", seen={str(path): 8})
    manage(where, "permissions: {}")
    refused(where, "older", seen={str(path): 0})


@pytest.mark.parametrize(("key", "value"), [("requiredMinimumVersion", "99"), ("requiredMaximumVersion", "0.0.9")])
def test_a_version_that_is_not_wanted_starts_nothing(where: Places, key: str, value: str) -> None:
    manage(where, f'{key}: "{value}"')
    found = join(read(where).loaded, trusted=False)
    with pytest.raises(ManagedError, match=key):
        check_versions(found, "0.1.0")


def test_the_stamp_changes_with_anything_there(where: Places) -> None:
    stamps = [stamp(where)]
    path = manage(where, DENY)
    stamps.append(stamp(where))
    path.write_text("{}")
    stamps.append(stamp(where))
    path.chmod(0o600)
    stamps.append(stamp(where))
    put(where.claude / "managed-settings.d/x.json", "{}")
    stamps.append(stamp(where))
    path.unlink()
    stamps.append(stamp(where))
    assert len(set(stamps)) == len(stamps)
    assert stamp(where) == stamps[-1]
