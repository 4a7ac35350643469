"""Where a host refuses user namespaces the box says so, and what is left still holds."""

from __future__ import annotations

import json
import os

import pytest

from sandbox.blueprint import Blueprint
from sandbox.box import ContainerBox
from sandbox.seccomp import seccomp_profile
from tests.support.boxes import Boxes, run

pytestmark = pytest.mark.box


class WithoutNamespaces(Blueprint):
    """For a host that refuses them: here the filter does."""

    def _filter(self) -> tuple[str, ...]:
        profile = seccomp_profile(os.uname().machine)
        profile["syscalls"] = [rule for rule in profile["syscalls"] if "unshare" not in rule["names"]]
        file = self._directory() / "without-namespaces.json"
        file.write_text(json.dumps(profile))
        return (f"seccomp={file if self._engine.kind == 'podman' else json.dumps(profile)}",)


@pytest.mark.parametrize("uid", [1000, 0])
async def test_without_user_namespaces_the_uid_alone_protects_the_server(boxes: Boxes, uid: int) -> None:
    usual = boxes.box(uid)
    closed = ContainerBox(usual.spec, boxes.engine, scratch=boxes.cache)
    closed.blueprint = WithoutNamespaces(closed.spec, boxes.engine, scratch=boxes.cache, proxied=False)
    async with closed as box:
        assert [text for text in box.used_fallbacks if "user namespaces" in text]
        text, end = await run(box, "python3 /opt/fumehood/server/attacks.py")
        assert end.code == 0, text
        assert json.loads(text.splitlines()[-1])["won"] == {}
        await box.kill_all()
        assert (await run(box, f"test $(id -u) = {uid} && echo still"))[0] == "still\n"


async def test_a_box_with_everything_names_no_fallback(boxes: Boxes) -> None:
    async with boxes.box() as box:
        assert box.used_fallbacks == ()
