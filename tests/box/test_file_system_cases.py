"""The file systems' odd corners, each through checkpoint, undo, redo and apply in a real box: it round-trips, or is
refused by name. (Device nodes of any kind are refused by the kernel in the box.)
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sandbox.selection import ApplyConflictError, Selection
from sandbox.spec import Limits, Rung
from tests.support.box_changes import LOOK, back_to, take
from tests.support.sessions import Bench
from tests.support.whole_tree import tree

pytestmark = [pytest.mark.box, pytest.mark.timeout(300)]
DEEP = "/".join(["d"] * 40)


@dataclass(frozen=True, kw_only=True)
class Case:
    """`host`: Python that lays out the case's directory on the host; `box`: a script there. `dropped`, `held`,
    `pointed`: what apply names; `refused`: why it applies nothing of the case; `differs`: paths whose host
    version is not the box's, beside those.
    """

    host: str = ""
    box: str
    dropped: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    pointed: tuple[str, ...] = ()
    refused: str = ""
    differs: tuple[str, ...] = ()


CASES = {
    "hard links": Case(
        host="p('a', 'x'); os.link('a', 'b'); p('c', 'y')",
        box="echo more >> a; ln c d; echo z > e; ln e f; echo ee >> f",
        pointed=("d", "e", "f"),
        differs=("b",),  # over an overlay the other name keeps the old content, over a copy it has the new
    ),
    "sparse": Case(
        host="os.truncate(p('old', ''), 5 << 30)",
        box="truncate -s 20G big; printf middle | dd of=big bs=1M seek=9000 conv=notrunc status=none; rm old",
    ),
    "attributes": Case(
        host="os.setxattr(p('a', 'x'), 'user.old', b'1'); os.mkdir('d')",
        box="""python3 -c "import os; os.setxattr('a', 'user.new', b'\\0v'); os.removexattr('a', 'user.old')
open('n', 'w').close(); os.setxattr('n', 'user.mark', b''); os.setxattr('d', 'user.dir', b'1')" """,
    ),
    "fifo and socket": Case(
        host="p('a', 'x')",
        box="""mkfifo pipe; rm a; mkfifo a
python3 -c "import socket; socket.socket(socket.AF_UNIX).bind('sock')" """,
        dropped=("a", "pipe", "sock"),
        differs=("a",),
    ),
    "device nodes": Case(
        host="p('a', 'x')",
        box="for kind in 'c 1 3' 'c 5 0' 'b 7 0'; do if mknod dev $kind; then exit 1; fi; done; echo y > a",
    ),
    "whiteouts and opaque directories": Case(
        host="p('gone', 'x'); p('t/u/v', 'y'); p('t/w', 'z'); p('r/s', 's')",
        box="rm gone; rm -r t; mkdir t; echo new > t/new; rm -r r; mkdir -p r/s; touch r/s/t",
    ),
    "file to directory to link and back": Case(
        host="p('a', 'x'); p('b/c', 'y'); os.symlink('a', 'l'); p('r', 'same')",
        box="rm a; mkdir a; touch a/in; rm -r b; ln -s a b; rm l; echo f > l; rm r; mkdir r; rmdir r; echo again > r",
    ),
    "odd names": Case(
        box="""touch $'new\\nline' $'by\\xffte' ' ' -- '-rf' '*' $'tab\\there' $'\\e[31m'
touch "$(printf 'n%.0s' $(seq 255))" $'caf\\u00e9'; mkdir "$(printf 'd%.0s' $(seq 255))"; mv -- '-rf' '--'""",
    ),
    "composed and decomposed": Case(box="echo c > $'caf\\u00e9'; echo d > $'cafe\\u0301'", refused="Unicode"),
    "two cases": Case(host="p('readme', 'x')", box="echo y > README", refused="case"),
    "case-only rename": Case(host="p('readme', 'x')", box="mv readme tmp; mv tmp README"),
    "forty deep": Case(box=f"mkdir -p {DEEP}; echo leaf > {DEEP}/leaf; ln -s leaf {DEEP}/link"),
    "rename over a directory": Case(
        host="p('old/in', 'x'); p('new/n', 'y'); os.mkdir('empty')",
        box="if mv -T new old; then exit 1; fi; cp -r new made; rm -r old; mv -T made old; cp -r old o; mv -T o empty",
    ),
    "unlinked while open": Case(
        host="p('a', 'x')", box="exec 3>>a; rm a; echo late >&3; exec 4>b; rm b; echo never >&4; (sleep 100 &) 5>c"
    ),
    "times": Case(
        host="p('a', 'x')",
        box="touch -d '1999-12-31 23:59:59.123456789' a; touch -d @-1 b; mkdir -p d/e; touch -d @1 d",
    ),
    "links out and loops": Case(
        host="os.symlink('/etc/passwd', 'was'); p('a', 'x')",
        box="ln -s /etc/passwd out; ln -s ../../../up up; ln -s two one; ln -s one two; ln -s . self; ln -sf a was",
        held=("out", "up"),
    ),
    "git as a file": Case(
        host="p('sub/f', 'x')", box="echo 'gitdir: ../other' > sub/.git; echo y >> sub/f", held=("sub/.git",)
    ),
    "nested repository and submodule": Case(
        box="""git init -q nested; cd nested; echo x > x; git add x; git -c user.name=a -c user.email=a@b commit -qm x
cd ..; git -c protocol.file.allow=always clone -q nested other; printf '[submodule "m"]\\n' > .gitmodules""",
        held=(".gitmodules", "nested/.git", "other/.git"),
    ),
    "setuid": Case(
        host="p('a', 'x')", box="chmod 4755 a; echo y > b; chmod 6711 b; mkdir s; chmod 2755 s", differs=("s",)
    ),
    "odd contents": Case(
        host="Path('crlf').write_bytes(b'a\\r\\nb\\nc'); Path('wide').write_bytes('a\\n'.encode('utf-16'))",
        box="""python3 -c "
for name, data in {
    'crlf': b'a\\r\\nB\\r\\nc\\n\\r', 'bom': b'\\xef\\xbb\\xbf\\tx', 'nul': b'a\\0b\\n', 'latin': b'\\xe9\\n',
    'empty': b'', 'wide': 'A\\n'.encode('utf-16'), 'long': b'm' * (1 << 20) + b'\\n' + b'n' * (1 << 20),
}.items(): open(name, 'wb').write(data)" """,
    ),
    "read-only": Case(
        host="os.chmod(p('a', 'x'), 0o444)",
        box="cp a new; chmod 444 new; chmod u+w a; echo y >> a; chmod 400 a; mkdir d; touch d/in; chmod 555 d",
    ),
}  # fmt: skip
LAY = """
import os
from pathlib import Path
def p(path, text):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "w") as file:
        file.write(text)
    return path
"""


def directory(name: str) -> str:
    return name.replace(" ", "-")


def lay(repo: Path) -> None:
    """Every case's directory on the host."""
    here = Path.cwd()
    for name, case in CASES.items():
        (repo / directory(name)).mkdir(parents=True)
        try:
            os.chdir(repo / directory(name))
            exec(LAY + case.host, {})
        finally:
            os.chdir(here)


def applied_form(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """What an apply brings over of a path: its type and permissions, content, attributes."""
    kind, mode = row[0] & 0o170000, row[0] & 0o777
    content = row[4][0] if isinstance(row[4], tuple) else row[4]
    own = {name: value for name, value in row[5].items() if not name.startswith("user.overlay.")}
    return kind, 0 if kind == 0o120000 else mode, content, own if kind == 0o100000 else {}


KINDS = {"overlay": Rung.OVERLAY, "copy": Rung.COPY}
# Sent to the box; the same rows as `tests.support.whole_tree.tree`, sparse files by their ends.
SIZES = "find . -name big -printf '%s %b\\n'"


@pytest.mark.parametrize("kind", [*KINDS, "another machine"])
async def test_each_case_round_trips_or_is_refused_by_name(bench: Bench, far: Bench, tmp_path: Path, kind: str) -> None:
    repo, state = tmp_path / "repo", tmp_path / "state"
    rung = KINDS.get(kind, Rung.COPY)
    lay(repo)
    if kind not in KINDS:
        os.truncate(repo / "sparse" / "old", 2 << 20)  # what is copied there at first is so without its holes
    session = (bench if kind in KINDS else far).session(repo, state, rung=rung)
    session.limits = Limits(file_size=32 << 30)
    async with session as inside:
        workspace = inside.workspace
        try:
            await inside.run("true")
            states = [(await take(inside), await inside.python(LOOK_QUICK))]
            for name, case in CASES.items():
                await inside.run(case.box, cwd=inside.cwd / directory(name))
            states.append((await take(inside), await inside.python(LOOK_QUICK)))
            assert sum(file.stat().st_blocks for file in (state / "store").iterdir()) * 512 < 32 << 20
            for number in (0, 1, 0, 1):
                checkpoint, seen = states[number]
                await back_to(inside, checkpoint)
                assert (await inside.python(LOOK_QUICK)).splitlines() == seen.splitlines()
                assert await workspace.checkpoint("nothing changed") is None
            assert (await inside.run(SIZES)).split()[0] == str(20 << 30)
            assert int((await inside.run(SIZES)).split()[1]) < 1000
            await inside.run("rm sparse/big; truncate -s 3M sparse/big; printf middle >> sparse/big")
            if rung is Rung.OVERLAY:
                (state / "copy").mkdir()
                await inside.run("cp -a . /tmp/all")
                layer = next(la for la in workspace.layers if la.name == "tmp")
                box = tree(workspace._places.top(layer) / "all")
            elif kind in KINDS:
                box = tree(workspace._places.top(workspace.layers[0]))
            else:
                volume = far.engine.get(f"/volumes/{workspace._places.volume(workspace.layers[0])}")
                if not os.access(volume["Mountpoint"], os.R_OK):
                    return  # who is not root cannot compare what is there
                box = tree(Path(volume["Mountpoint"]))
            for name, case in CASES.items():
                await check(inside, repo, name, case, box)
        finally:
            await inside.discard()


async def check(inside: Any, repo: Path, name: str, case: Case, box: dict[bytes, tuple[Any, ...]]) -> None:
    """Apply one case, and compare the host with the box."""
    place = directory(name)
    selection = Selection(paths=((inside.root.name, place),))
    before = tree(repo / place)
    if case.refused:
        with pytest.raises(ApplyConflictError, match=case.refused):
            await inside.workspace.apply(selection)
        assert tree(repo / place) == before
        return
    report = await inside.workspace.apply(selection)
    named = [sorted(r.path.removeprefix(place + "/") for r in rows) for rows in (report.dropped, report.held_back)]
    assert named == [sorted(case.dropped), sorted(case.held)], name
    assert {r.path.removeprefix(place + "/") for r in report.pointed_out} >= set(case.pointed), name
    prefix = os.fsencode(place) + b"/"
    wanted = {path[len(prefix) :]: row for path, row in box.items() if path.startswith(prefix)}
    after = {path: row for path, row in tree(repo / place).items() if path != b"."}
    left = [os.fsencode(path) for path in (*case.dropped, *case.held, *case.differs)]
    for rows in (wanted, after):
        for path in list(rows):
            if any(path == each or path.startswith(each + b"/") for each in left):
                del rows[path]
    told = {path: applied_form(row) for path, row in after.items()}
    assert told == {path: applied_form(row) for path, row in wanted.items()}, name


# As LOOK, but a sparse file of 20 GB is told by its middle.
LOOK_QUICK = LOOK.replace(
    'own = hashlib.sha256(open(path, "rb").read()).hexdigest(), first.setdefault(seen.st_ino, path)',
    "own = middle(path, seen), first.setdefault(seen.st_ino, path)",
).replace(
    "for top in (",
    """def middle(path, seen):
    with open(path, "rb") as file:
        if seen.st_size < 1 << 30:
            return hashlib.sha256(file.read()).hexdigest()
        found = []
        at = 0
        while True:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                return seen.st_size, found
            end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            os.lseek(file.fileno(), at, 0)
            data = os.read(file.fileno(), end - at)
            found.append(data.strip(b"\\0"))
            at = end
for top in (""",
    1,
)
