from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from sandbox.checks import Level
from sandbox.containers import owner_label
from sandbox.doctor import examine
from sandbox.engine import connect
from sandbox.rootless import as_mapped, is_local, is_ours
from sandbox.spec import BoxSpec, Mount, Owner
from tests.unit.sandbox.test_engine import FakeEngine, answer

pytestmark = pytest.mark.user


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeEngine]:
    """Its socket is a user's, who is not root."""
    engine = FakeEngine(tmp_path / "engine.sock")
    engine.answers["GET /v1.41/version"] = answer(200, {"Version": "4.3.1"})
    if os.geteuid() == 0:
        os.chown(engine.path, 1234, 1234)
    yield engine
    engine.close()


@pytest.mark.parametrize(
    ("info", "rootless"),
    [
        ({"SecurityOptions": ["name=seccomp,profile=default"], "Rootless": True}, True),  # Podman
        ({"SecurityOptions": ["name=seccomp,profile=default", "name=rootless"]}, True),  # Docker
        (
            {"SecurityOptions": ["name=seccomp,profile=default"], "Rootless": False},
            False,
        ),  # a forwarded socket of root's
    ],
)
def test_an_engine_is_ours_when_it_says_that_it_is_rootless_and_its_socket_is_ours(
    fake: FakeEngine, monkeypatch: pytest.MonkeyPatch, info: dict[str, object], rootless: bool
) -> None:
    fake.answers["GET /v1.41/info"] = answer(200, info)
    owner = fake.path.stat().st_uid
    told = []
    for uid in (owner, owner + 1, 0):
        monkeypatch.setattr("os.geteuid", lambda uid=uid: uid)
        engine = connect(fake.environ)
        told.append((engine.info.rootless, is_ours(engine), is_local(engine)))
        engine.close()
    assert told == [(rootless, rootless, True), (rootless, False, not rootless), (rootless, False, not rootless)]


def test_what_is_ours_is_asked_for_as_roots_and_nothing_else() -> None:
    us = os.geteuid()
    ours = Mount(volume="a", at=PurePosixPath("/a"), top=(us, 5, 77))
    others = Mount(volume="b", at=PurePosixPath("/b"), top=(us + 1, 5, 77))
    spec = BoxSpec(
        session="s", image="i", owner=Owner(uid=us, gid=5), cwd=PurePosixPath("/a"), mounts=(ours, others)
    )  # fmt: skip

    assert as_mapped(spec) == replace(spec, owner=Owner(uid=0, gid=0), mounts=(replace(ours, top=(0, 0, 77)), others))
    other = replace(spec, owner=Owner(uid=us + 1, gid=5), mounts=())
    assert as_mapped(other) == other


async def test_the_doctor_says_what_a_rootless_podman_lacks(fake: FakeEngine, tmp_path: Path) -> None:
    """And counts as left over what `clean` would remove: not what nobody owns."""
    alive = owner_label()
    boot, pid, start = alive.rsplit(":", 2)
    labels = [{"fumehood.owner": f"{boot}:{pid}:{int(start) + 1}"}, {"fumehood.owner": alive}, {"fumehood": "1"}]
    rows = [{"Id": str(number), "State": "created", "Labels": each} for number, each in enumerate(labels)]
    fake.answers["GET /v1.41/info"] = answer(
        200, {"Rootless": True, "Driver": "vfs", "CgroupVersion": "1", "SecurityOptions": ["name=seccomp"]}
    )
    fake.answers["GET /v1.41/containers/json"] = answer(200, rows)

    checks = {each.name: each for each in await examine(fake.environ, state=tmp_path / "state", cwd=tmp_path)}

    assert checks["engine"].found.endswith("cgroup v1, rootless")
    assert {name for name, each in checks.items() if each.level is Level.WARN} >= {"storage", "cgroup", "leftovers"}
    assert "storage.conf" in checks["storage"].advice
    assert checks["leftovers"].found.startswith("1 containers")
