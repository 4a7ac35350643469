"""`system: writable`: packages can be installed in the box, and the server stays out of reach all the same."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import PurePosixPath

import pytest
import pytest_asyncio

from sandbox.box import ContainerBox
from sandbox.spec import Mount
from tests.support.boxes import Boxes, run

pytestmark = [pytest.mark.box, pytest.mark.asyncio(loop_scope="module")]

# A package with what packages have: another owner, a setgid mode, a file capability, a user of its own.
BUILD = r"""
set -e
mkdir -p /tmp/p/DEBIAN /tmp/p/usr/bin /tmp/p/var/lib/hello
cat > /tmp/p/DEBIAN/control <<'END'
Package: hello-box
Version: 1.0
Architecture: all
Maintainer: nobody <nobody@example.org>
Description: a package for a test
END
printf '#!/bin/sh\necho hello from a package\n' > /tmp/p/usr/bin/hello-box
chmod 755 /tmp/p/usr/bin/hello-box
cat > /tmp/p/DEBIAN/postinst <<'END'
#!/bin/sh
set -e
groupadd --system hellogroup
useradd --system --gid hellogroup --home-dir /var/lib/hello --shell /usr/sbin/nologin hellouser
chown hellouser:hellogroup /var/lib/hello
chmod 2755 /usr/bin/hello-box
END
chmod 755 /tmp/p/DEBIAN/postinst
dpkg-deb --build /tmp/p /tmp/hello-box.deb
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def box(boxes: Boxes, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ContainerBox]:
    """The repository is a user's; it lies there writable."""
    folder = tmp_path_factory.mktemp("repository")
    (folder / "theirs").write_text("a user's file\n")
    folder.chmod(0o755)
    mounts = (Mount(volume=str(folder), at=PurePosixPath("/workspace/repository")),)
    async with boxes.box(1000, mounts=mounts, system_writable=True) as opened:
        yield opened


async def test_packages_are_installed_with_their_users_and_modes(box: ContainerBox) -> None:
    text, end = await run(box, BUILD)
    assert end.code == 0, text
    text, end = await run(box, "apt-get install -y --no-install-recommends /tmp/hello-box.deb 2>&1")
    assert end.code == 0, text
    text, end = await run(
        box, "hello-box; stat -c '%U %G %a' /var/lib/hello; stat -c %a /usr/bin/hello-box; dpkg -s hello-box"
    )
    assert text.startswith("hello from a package\nhellouser hellogroup 755\n2755\n")
    text, end = await run(box, "apt-get purge -y hello-box && ! command -v hello-box")
    assert end.code == 0, text


async def test_sudo_runs_its_arguments(box: ContainerBox) -> None:
    text, end = await run(
        box, "sudo id -u; sudo -E -n env A=b sh -c 'echo $A'; sudo A=c sh -c 'echo $A'; sudo -u root false"
    )
    assert (text, end.code) == ("0\nb\nc\n", 1)


async def test_every_command_is_root_in_its_namespace_only(box: ContainerBox) -> None:
    text, _ = await run(box, "id -u; grep -E '^Cap(Prm|Eff|Bnd|Amb)' /proc/self/status; cat /proc/self/uid_map")
    lines = [line.split() for line in text.splitlines()]
    assert lines[0] == ["0"]
    # CHOWN DAC_OVERRIDE FOWNER FSETID SETGID SETUID SETFCAP
    assert lines[1:5] == [["CapPrm:", "00000000800000db"], ["CapEff:", "00000000800000db"],
                          ["CapBnd:", "00000000800000db"], ["CapAmb:", "0000000000000000"]]  # fmt: skip
    assert [line[:2] for line in lines[5:]] == [["0", "0"], ["65000", "65000"]]


async def test_file_requests_reach_what_commands_reach(box: ContainerBox) -> None:
    await box.write(PurePosixPath("/workspace/repository/theirs"), b"changed\n")
    await box.write(PurePosixPath("/usr/local/new"), b"x")
    text, _ = await run(box, "cat /workspace/repository/theirs; stat -c %u /usr/local/new; chown 1234 /usr/local/new")
    assert text == "changed\n0\n"
    assert (await box.read(PurePosixPath("/usr/local/new"))).data == b"x"


async def test_the_server_stays_out_of_reach(box: ContainerBox) -> None:
    """Against processes everything fails as elsewhere; against files only what is the server's."""
    text, end = await run(box, "python3 /opt/fumehood/server/attacks.py")
    assert end.code == 0, text
    won = json.loads(text.splitlines()[-1])["won"]
    expected = ("setuid ", "setgid ", "setgroups", "capability set Cap", "create in ", "write /etc/", "write /usr/")
    assert [attack for attack in won if not attack.startswith(expected)] == []
    assert not [attack for attack in won if "/opt/fumehood" in attack]
    assert "setuid 64999" not in won
    assert "setuid 1" in won, "users of packages can be taken on"
    await box.ping()
