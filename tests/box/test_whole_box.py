"""All that development leaves in a box, over every place of it, comes back as it was: `checkpoint → restore` is
identity for a session that installs with pip, npm and apt, commits with git and compiles.
"""

from __future__ import annotations

import shlex
import uuid
from pathlib import Path

import pytest

from sandbox.engine import Engine, ImageInfo
from sandbox.images import ensure_image
from sandbox.system import session_images
from sandbox.toolbox import Toolbox
from tests.support.apt import INSTALL, REPOSITORY
from tests.support.sessions import Bench
from tests.support.whole_box import round_trip

pytestmark = [pytest.mark.box, pytest.mark.timeout(600)]

WHEEL = r"""
import base64, hashlib, zipfile
files = {
    "demo_box/__init__.py": "def answer():\n    return 42\n",
    "demo_box-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: demo-box\nVersion: 1.0\n",
    "demo_box-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "demo_box-1.0.dist-info/entry_points.txt": "[console_scripts]\ndemo-box = demo_box:answer\n",
}
record = "".join(
    f"{n},sha256={base64.urlsafe_b64encode(hashlib.sha256(t.encode()).digest()).decode().rstrip('=')},{len(t)}\n"
    for n, t in files.items()
)
files["demo_box-1.0.dist-info/RECORD"] = record + "demo_box-1.0.dist-info/RECORD,,\n"
with zipfile.ZipFile("demo_box-1.0-py3-none-any.whl", "w") as archive:
    for name, text in files.items():
        archive.writestr(name, text)
"""
GIT = r"""
git init -q . 2>/dev/null; git add -A . ':!.venv' ':!node_modules'; git commit -qm 'all of it'
git checkout -q -b other; echo more > more; git add more; git commit -qm more; git gc -q
"""
PIP = r"""
python3 -m venv .venv
.venv/bin/pip -q install --no-index ./demo_box-1.0-py3-none-any.whl
.venv/bin/pip -q install --no-index --target ~/.local/lib/tools ./demo_box-1.0-py3-none-any.whl
"""
ANSWER = "-c 'import demo_box; print(demo_box.answer())'"
PIP_WORKS = f".venv/bin/python {ANSWER}; PYTHONPATH=~/.local/lib/tools python3 -B {ANSWER}"
NPM = r"""
mkdir -p lib app
printf '{"name": "lib-box", "version": "1.0.0", "bin": {"lib-box": "cli.js"}}' > lib/package.json
printf '#!/usr/bin/env node\nconsole.log("lib answers")\n' > lib/cli.js; chmod 755 lib/cli.js
printf '{"name": "app-box", "version": "1.0.0"}' > app/package.json
cd app && npm install --offline --no-audit --no-fund ../lib && npx --offline lib-box
"""
COMPILE = r"""
printf '#include <stdio.h>\nint main(void) { puts("compiled"); return 0; }\n' > hello.c
gcc -g -O2 -o hello hello.c && ./hello && mkdir -p ~/.cache/objects && gcc -c -o ~/.cache/objects/hello.o hello.c
"""
# What else tools leave: links, modes, holes, attributes, names, times.
ODD = r"""
ln hello.txt twin; ln -s ../nowhere ~/dangling; mkfifo /tmp/pipe; truncate -s 300M /var/tmp/sparse
python3 -c 'import os; os.setxattr("hello.txt", "user.mark", b"1")'
printf x > "$(printf 'odd \377 name\n')"; touch -d 2001-02-03T04:05:06.789 hello.txt; chmod 1777 /tmp; chmod 4750 twin
"""


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    top = tmp_path / "repo"
    top.mkdir()
    (top / "hello.txt").write_text("hello\n")
    return top


async def test_what_pip_and_git_leave_comes_back(
    engine: Engine, base_image: ImageInfo, toolbox: Toolbox, repo: Path, tmp_path: Path
) -> None:
    bench = Bench(engine, base_image, toolbox)
    async with bench.session(repo, tmp_path / "state") as inside:
        try:
            await inside.python(WHEEL)
            await round_trip(
                inside, [PIP, GIT, ODD], works=f"{PIP_WORKS}; git log --oneline | wc -l; git fsck --strict"
            )
        finally:
            await inside.discard()


async def test_what_apt_leaves_comes_back_with_all_else(
    engine: Engine, base_image: ImageInfo, toolbox: Toolbox, repo: Path, tmp_path: Path
) -> None:
    bench, name = Bench(engine, base_image, toolbox), str(uuid.uuid4())
    async with bench.session(repo, tmp_path / "state", system=True, name=name) as inside:
        try:
            await inside.python(WHEEL)
            steps = [REPOSITORY, f"{INSTALL} one-box; {PIP}", f"{INSTALL} three-box; apt-get purge -y one-box; {GIT}"]
            await round_trip(inside, steps, works=f"{PIP_WORKS}; three-box; two-box; dpkg --verify; git status --short")
        finally:
            await inside.discard()
    assert session_images(engine, name) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_what_npm_and_a_compiler_leave_comes_back(
    engine: Engine, toolbox: Toolbox, image_cache: Path, repo: Path, tmp_path: Path
) -> None:
    """In an image with both of them, which takes minutes to make the first time."""
    packages = ("gcc", "libc6-dev", "nodejs", "npm")
    image = ensure_image(engine, "base", packages=packages, cache=image_cache, progress=print)
    async with Bench(engine, image, toolbox).session(repo, tmp_path / "state") as inside:
        try:
            works = f"cd {shlex.quote(str(inside.cwd))}; ./hello; cd app && npx --offline lib-box && npm ls --offline"
            await round_trip(inside, [COMPILE, NPM, "rm -r app/node_modules", NPM], works=works)
        finally:
            await inside.discard()
