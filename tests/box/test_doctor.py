from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox.checks import Level
from sandbox.containers import owner_label
from sandbox.doctor import examine
from sandbox.engine import Engine
from tests.support.ssh import pretend_ssh

pytestmark = pytest.mark.box


@pytest.mark.usefixtures("base_image")
async def test_a_machine_with_an_engine_passes_every_check_that_is_a_promise(tmp_path: Path) -> None:
    state = tmp_path / "state"
    checks = {each.name: each for each in await examine(os.environ, state=state, cwd=Path(__file__).parent)}
    assert [each for each in checks.values() if each.level is Level.FAIL] == []
    promised = {"engine", "image", "toolbox", "box", "system calls", "privileges", "network", "system", "files"}
    assert {name for name in promised if checks[name].level is Level.OK} == promised
    assert list(state.iterdir()) in ([], [state / "cache"])


async def test_the_doctor_leaves_no_container_and_no_volume_behind(engine: Engine, tmp_path: Path) -> None:
    ours = f"fumehood.owner={owner_label()}"

    def all_of_ours() -> set[str]:
        return {each.name for each in engine.volumes.list(ours)} | {each.id for each in engine.containers.list(ours)}

    before = all_of_ours()
    await examine(os.environ, state=tmp_path, cwd=tmp_path)
    assert all_of_ours() - before == set()


@pytest.mark.slow
@pytest.mark.usefixtures("base_image", "toolbox")
async def test_over_ssh_a_box_works_on_a_copy(engine: Engine, image_cache: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    (state / "cache").symlink_to(image_cache)
    environ = pretend_ssh(tmp_path, Path(engine.endpoint.removeprefix("unix://"))) | {"DOCKER_HOST": "ssh://far"}
    checks = {each.name: each for each in await examine(environ, state=state, cwd=tmp_path)}
    assert [each for each in checks.values() if each.level is Level.FAIL] == []
    assert "ssh://far" in checks["engine"].found
    assert checks["box"].found.endswith("copy")
    assert checks["files"].level is Level.OK


async def test_without_an_engine_it_says_so_and_what_to_do(tmp_path: Path) -> None:
    environ = {"DOCKER_HOST": f"unix://{tmp_path}/none.sock", "HOME": str(tmp_path)}
    first, *rest = await examine(environ, state=tmp_path, cwd=tmp_path)
    assert (first.name, first.level) == ("engine", Level.FAIL)
    assert [each.name for each in rest] == ["state", "disk"]


async def test_a_runtime_that_the_engine_does_not_have_is_a_failure(tmp_path: Path) -> None:
    checks = {each.name: each for each in await examine(os.environ, state=tmp_path, cwd=tmp_path, runtime="nosuch")}
    assert checks["runtime"].level is Level.FAIL
