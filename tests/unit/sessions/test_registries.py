"""Where package tools get their packages from, asked from the tools themselves; nothing of a repository's is run."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from runner.effects import ConnectHost, Decision, Mode, Source
from runner.policy.compose import compose
from runner.policy.settings import check_shape
from runner.sessions.registries import Registry, registries_of
from tests.support.policies import GROUND, PLACE, joined, loaded

PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def asked(tmp_path: Path, *tools: str, root: Path | None = None, **environ: str) -> tuple[Registry, ...]:
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    given = {"HOME": str(home), "PATH": PATH, "PIP_CONFIG_FILE": "/dev/null", **environ}
    return registries_of(tools, given, (root or tmp_path / "repository",))


def program(directory: Path, name: str, text: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(f"#!/bin/sh\n{text}\n")
    (directory / name).chmod(0o755)


def test_pip_is_asked_and_a_login_stays_here(tmp_path: Path) -> None:
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = https://user:s3cret@mirror.corp:8443/api/simple/\n"
        "extra-index-url = http://10.0.0.9/simple\n  file:///opt/wheels\n"
    )
    [found] = asked(tmp_path, "pip", PIP_CONFIG_FILE=str(tmp_path / "pip.conf"))
    private = "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,fc00::/7"
    assert found.rules == (
        f"GET,HEAD https://mirror.corp:8443 to {private}",
        "GET,HEAD http://10.0.0.9:80",
    )
    assert found.environment == {
        "PIP_INDEX_URL": "https://mirror.corp:8443/api/simple/",
        "UV_DEFAULT_INDEX": "https://mirror.corp:8443/api/simple/",
        "PIP_EXTRA_INDEX_URL": "http://10.0.0.9/simple",
        "UV_INDEX": "http://10.0.0.9/simple",
    }
    assert "s3cret" not in repr(found)


def test_where_pip_names_none_its_own_help_tells_its_default(tmp_path: Path) -> None:
    [found] = asked(tmp_path, "pip")
    assert len(found.urls) == 1
    assert found.urls[0].endswith("/simple")


@pytest.mark.program("npm")
def test_npm_is_asked_with_its_scopes(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".npmrc").write_text(
        "registry=https://npm.corp/all/\n@ours:registry=https://npm.corp:444/ours/\n//npm.corp/all/:_authToken=s3cret\n"
    )
    [found] = asked(tmp_path, "npm")
    assert found.urls == ("https://npm.corp/all/", "https://npm.corp:444/ours/")
    assert found.environment == {"npm_config_registry": "https://npm.corp/all/"}
    assert found.files == {".npmrc": b"@ours:registry=https://npm.corp:444/ours/\n"}


def test_cargos_file_is_read_and_comes_without_its_token(tmp_path: Path) -> None:
    (tmp_path / "cargo").mkdir()
    (tmp_path / "cargo/config.toml").write_text(
        '[source.crates-io]\nreplace-with = "corp"\n'
        '[source.corp]\nregistry = "sparse+https://u:s3cret@crates.corp/index/"\n'
        '[registries.own]\nindex = "https://git.corp/index"\ntoken = "s3cret"\n[build]\nrustc-wrapper = "/bin/evil"\n'
    )
    [found] = asked(tmp_path, "cargo", CARGO_HOME=str(tmp_path / "cargo"))
    assert found.urls == ("https://git.corp/index", "https://crates.corp/index/")
    text = found.files[".cargo/config.toml"].decode()
    assert 'registry = "sparse+https://crates.corp/index/"' in text
    assert 'replace-with = "corp"' in text
    assert "s3cret" not in text
    assert "evil" not in text


def test_go_says_its_proxies_and_database(tmp_path: Path) -> None:
    proxies = "https://u:s3cret@go.corp/x,https://b.corp|direct"
    told = json.dumps({"GOPROXY": proxies, "GOSUMDB": "sum.corp+f00", "GOPRIVATE": "*.corp"})
    program(tmp_path / "bin", "go", f"echo '{told}'")
    [found] = asked(tmp_path, "go", PATH=f"{tmp_path / 'bin'}:{PATH}")
    assert found.urls == ("https://go.corp/x", "https://b.corp", "https://sum.corp")
    assert found.environment == {
        "GOPROXY": "https://go.corp/x,https://b.corp|direct",
        "GOSUMDB": "sum.corp+f00",
        "GOPRIVATE": "*.corp",
    }


@pytest.mark.program("apt-get")
def test_apts_own_sources_are_those_of_the_box(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text("deb https://u:s3cret@deb.corp/debian bookworm main contrib\n")
    (tmp_path / "apt.conf").write_text(
        f'Dir::Etc::SourceList "{tmp_path}/sources.list";\nDir::Etc::SourceParts "/dev/null";\n'
    )
    [found] = asked(tmp_path, "apt", APT_CONFIG=str(tmp_path / "apt.conf"))
    assert [rule.split(" to ")[0] for rule in found.rules] == ["GET,HEAD https://deb.corp:443"]
    lines = found.files[".config/apt/sources.list"].decode().splitlines()
    assert lines == [f"deb https://deb.corp/debian bookworm {part}" for part in ("main", "contrib")]


def test_nothing_of_the_repositorys_is_run_or_read(tmp_path: Path) -> None:
    """Neither its programs on the PATH, nor modules and settings that variables of its environment lead to."""
    root = tmp_path / "repository"
    program(root / "bin", "pip", f"touch {tmp_path}/ran; echo \"global.index-url='https://evil.example/'\"")
    (root / "sitecustomize.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (root / "pip.conf").write_text("[global]\nindex-url = https://evil.example/\n")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/pip").symlink_to(root / "bin/pip")
    [found] = asked(
        tmp_path,
        "pip",
        PATH=f"{root}/bin:.:{PATH}",
        PYTHONPATH=str(root),
        PIP_CONFIG_FILE=str(root / "pip.conf"),
    )
    assert "evil.example" not in repr(found)
    [refused] = asked(tmp_path, "pip", PATH=f"{tmp_path / 'linked'}:{PATH}")
    assert "nothing is opened" in refused.note
    assert not (tmp_path / "ran").exists()


def test_a_tool_that_is_not_there_or_fails_opens_nothing_and_is_named(tmp_path: Path) -> None:
    program(tmp_path / "bin", "npm", "exit 3")
    program(tmp_path / "bin", "go", "echo no json")
    found = asked(tmp_path, "npm", "go", "apt", "cargo", PATH=str(tmp_path / "bin"))
    assert [each.rules for each in found] == [()] * 4
    assert "npm ended with 3" in found[0].note
    assert "apt-get is not installed here" in found[2].note
    assert all("nothing is opened" in each.note for each in found)


def test_a_registry_is_for_reading_only_and_as_much_as_its_source_may_open() -> None:
    registries = (
        ("pip", ("GET,HEAD https://mirror.corp:443 to 10.0.0.0/8",)),
        ("npm", ("GET,HEAD https://npm.corp:443",)),
    )
    user = loaded(Source.USER, {"registries": ["pip"]})
    check_shape(user.document)

    def judged(*sources: object, method: str = "GET", host: str = "mirror.corp") -> Decision:
        policy = compose(joined(*sources), mode=Mode.DEFAULT, ground=GROUND, registries=registries).policy  # type: ignore[arg-type]
        request = ConnectHost(host=host, port=443, scheme="https", method=method, path="/simple/x/")
        return policy.judge((request,), tool="Network", place=PLACE).decision

    assert judged(user) is Decision.ALLOW
    assert judged(user, method="PUT") is Decision.ASK
    assert judged(user, host="npm.corp") is Decision.ASK
    assert judged(loaded(Source.PROJECT, {"registries": ["pip"]}, repository=True)) is Decision.ASK
    managed = loaded(Source.MANAGED, {"network": {"allowManagedDomainsOnly": True}})
    assert judged(user, managed) is Decision.DENY
    assert (
        judged(loaded(Source.MANAGED, {"network": {"allowManagedDomainsOnly": True}, "registries": ["pip"]}))
        is Decision.ALLOW
    )
