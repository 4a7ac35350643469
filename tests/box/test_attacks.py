"""A command cannot stop, trace, starve or impersonate what serves it, whoever owns the repository.

The probe tries every way that is known; that it can succeed where nothing is hardened is tested too.
"""

from __future__ import annotations

import asyncio
import json
import platform
from collections.abc import AsyncIterator
from pathlib import Path, PurePosixPath

import pytest
import pytest_asyncio

from sandbox.box import ContainerBox
from sandbox.containers import ContainerSpec, session_labels
from sandbox.errors import PathError
from sandbox.server import attacks
from sandbox.spec import Mount
from tests.support.boxes import Boxes, run

pytestmark = [pytest.mark.box, pytest.mark.asyncio(loop_scope="module")]
PROBE = Path(attacks.__file__)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=[1000, 0])
async def box(request: pytest.FixtureRequest, boxes: Boxes) -> AsyncIterator[ContainerBox]:
    async with boxes.box(request.param) as opened:
        yield opened


async def probed(box: ContainerBox, argument: str = "") -> dict[str, object]:
    text, end = await run(box, f"python3 /opt/fumehood/server/attacks.py {argument}")
    assert end.code == 0, text
    found = json.loads(text.splitlines()[-1])
    assert isinstance(found, dict)
    return found


async def test_nothing_that_the_probe_tries_succeeds(box: ContainerBox) -> None:
    found = await probed(box)
    assert found["won"] == {}
    targets = str(found["targets"])
    assert targets.count("server") == 1
    assert targets.count("helper") == 1
    assert targets.count("thread") >= 2
    await box.ping()


async def test_the_probe_succeeds_against_a_process_of_its_own(box: ContainerBox) -> None:
    won = (await probed(box, "child"))["won"]
    assert isinstance(won, dict)
    for attack in ("kill 0", "prlimit set 7", "write oom_score_adj", "read environ", "list fd", "nice", "ptrace seize"):
        assert f"child: {attack}" in won


async def test_the_probe_succeeds_in_a_container_that_is_not_hardened(boxes: Boxes) -> None:
    won = await asyncio.to_thread(probed_without_hardening, boxes)
    for attack in (
        "setuid 1",
        "capability set CapBnd",
        "netlink 9",
        "unshare user",
        "unshare net",
        "clone mnt",
        "mount",
        "sethostname",
        "io_uring_setup",
        "keyctl",
        "personality",
        *(("int 0x80",) if platform.machine() == "x86_64" else ()),
    ):
        assert attack in won


def probed_without_hardening(boxes: Boxes) -> dict[str, str]:
    engine = boxes.engine
    spec = ContainerSpec(
        image=boxes.image.id,
        command=("sh", "-c", 'python3 -c "$0" control; exit', PROBE.read_text()),
        labels=session_labels("c0ffee00-tests"),
        capabilities=("CHOWN", "DAC_OVERRIDE", "SETUID", "SETGID", "KILL", "MKNOD", "NET_RAW", "SYS_CHROOT"),
        security_opt=("seccomp=unconfined",),
        read_only=False,
    )
    container = engine.containers.create(spec)
    try:
        with engine.containers.attach(container) as sock:
            engine.containers.start(container)
            data = b"".join(iter(lambda: sock.recv(65536), b""))
    finally:
        engine.containers.remove(container)
    won = json.loads(data[data.index(b"{") :])["won"]
    assert isinstance(won, dict)
    return won


@pytest.mark.parametrize(
    "path",
    [
        "/proc/1/environ",
        "/proc/1/mem",
        "/proc/1/maps",
        "/proc/1/task/1/mem",
        "/proc/thread-self/mem",
        "/proc/self/environ",
        "/proc/./1/mem",
        "/proc/sys/../1/mem",
    ],
)
async def test_file_requests_do_not_reach_the_server_itself(box: ContainerBox, path: str) -> None:
    with pytest.raises(PathError):
        await box.read(PurePosixPath(path))
    for target in (path, "/proc/1/oom_score_adj", "/proc/1/comm", "/proc/sys/kernel/core_pattern"):
        with pytest.raises(PathError):
            await box.write(PurePosixPath(target), b"x")
    text, _ = await run(box, "cat /proc/1/oom_score_adj /proc/1/comm")
    assert text.split() == ["0", "ld.so"]


async def test_file_requests_have_the_owners_rights_and_no_more(box: ContainerBox, boxes: Boxes) -> None:
    text, _ = await run(box, "stat -c '%u %a' /etc/shadow; id -u")
    owner, mode, uid = text.split()
    assert (owner, mode) == ("0", "640") or uid != "0"
    if uid != "0":
        for path in ("/etc/shadow", "/root/x", "/etc/passwd-"):
            with pytest.raises(PathError):
                await box.read(PurePosixPath(path))
    for path in ("/opt/fumehood/server/sandbox/server/main.py", "/usr/bin/env", "/etc/passwd", "/new"):
        with pytest.raises(PathError):
            await box.write(PurePosixPath(path), b"x")


async def test_files_of_others_stay_closed_to_file_requests(boxes: Boxes, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "mine").write_text("secret")
    (folder / "mine").chmod(0o000)
    folder.chmod(0o755)
    async with boxes.box(
        54321, mounts=(Mount(volume=str(folder), at=PurePosixPath("/shared"), read_only=True),)
    ) as box:
        with pytest.raises(PathError) as refused:
            await box.read(PurePosixPath("/shared/mine"))
        assert refused.value.code == "denied"


async def test_killing_everything_it_may_kills_only_its_own(box: ContainerBox) -> None:
    await run(box, "kill -9 -1")
    await run(box, "for p in /proc/[0-9]*; do kill -9 ${p#/proc/}; kill -STOP ${p#/proc/}; done 2>/dev/null")
    await box.ping()
    text, end = await run(box, "echo still here")
    assert (text, end.code) == ("still here\n", 0)


async def test_commands_start_with_a_clean_slate(box: ContainerBox) -> None:
    script = "cat /proc/self/oom_score_adj; grep -E '^(NoNewPrivs|Seccomp|SigBlk|SigIgn)' /proc/self/status; umask"
    text, _ = await run(box, script)
    none = "0" * 16
    assert text.split() == [
        *("500", "SigBlk:", none, "SigIgn:", none, "NoNewPrivs:", "1", "Seccomp:", "2", "Seccomp_filters:", "2", "0022")
    ]


async def test_each_command_has_a_session_of_its_own(box: ContainerBox) -> None:
    text, _ = await run(box, "ps -o pid=,sid=,pgid= -p $$")
    assert len(set(text.split())) == 1


async def test_setuid_programs_and_files_give_nothing(box: ContainerBox) -> None:
    text, _ = await run(
        box, "cp /usr/bin/id /tmp/id; chmod 6755 /tmp/id; /tmp/id -u; find / -xdev -perm /6000 2>/dev/null"
    )
    assert text.split() == [str(box.spec.owner.uid)]


HAMMER = """
import os, time
won = set()
until = time.monotonic() + 4
server = os.stat("/proc/1").st_uid
me = os.getpid()
helpers = [int(n) for n in os.listdir("/proc") if n.isdigit() and os.stat("/proc/" + n).st_uid == server and n != "1"]
print(helpers, flush=True)
while time.monotonic() < until:
    for pid in helpers:
        for name in ("oom_score_adj", "coredump_filter", "autogroup", "mem", "environ"):
            try:
                fd = os.open(f"/proc/{pid}/{name}", os.O_RDWR if name != "environ" else os.O_RDONLY)
                won.add(name)
                if name == "oom_score_adj":
                    os.write(fd, b"1000")
                os.close(fd)
            except OSError:
                pass
        for number in (0, 9, 19):
            try:
                os.kill(pid, number)
                won.add(f"kill {number}")
            except OSError:
                pass
print("won", sorted(won))
"""


async def test_no_moment_of_a_commands_start_opens_the_helper(box: ContainerBox) -> None:
    """The child borrows the helper's memory until it executes; it is the owner's for the last step."""
    hammer = asyncio.create_task(run(box, f"python3 - <<'END'\n{HAMMER}\nEND"))
    await asyncio.sleep(0.3)
    count = 0
    while not hammer.done():
        async with asyncio.timeout(20):
            await run(box, "true")
        count += 1
    text, end = await hammer
    assert end.code == 0, text
    assert text.splitlines()[-1] == "won []"
    assert count > 20
    text, _ = await run(box, "for p in /proc/[0-9]*; do test -O $p || cat $p/oom_score_adj; done 2>/dev/null | sort -u")
    assert text == "0\n"


STOPPER = """
import os, time
until = time.monotonic() + 4
while time.monotonic() < until:
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid() and int(name) != os.getppid():
            try:
                os.kill(int(name), 19)
            except OSError:
                pass
"""


@pytest.mark.slow
async def test_stopping_every_new_process_holds_up_nobody_but_itself(box: ContainerBox) -> None:
    """The owner's processes may stop each other; the server answers, and kill_all ends it."""
    stopper = asyncio.create_task(run(box, f"exec python3 - <<'END'\n{STOPPER}\nEND"))
    victims = [asyncio.create_task(run(box, "true")) for _ in range(20)]
    for _ in range(20):
        async with asyncio.timeout(5):
            await box.ping()
        await asyncio.sleep(0.05)
    await box.kill_all()
    await asyncio.gather(stopper, *victims, return_exceptions=True)
    async with asyncio.timeout(10):
        assert (await run(box, "echo over"))[0] == "over\n"
