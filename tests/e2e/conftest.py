"""The command line as users have it: a process of its own, over a real box, with a script in the model's place."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 60.0
PROJECT = Path(__file__).resolve().parents[2]


def tree_digest(root: Path) -> str:
    """The design's tree digest of a directory without its .git."""
    rows: list[bytes] = []
    for directory, names, files in os.walk(root):
        if ".git" in names:
            names.remove(".git")
        for name in [*names, *files]:
            path = Path(directory) / name
            found = path.lstat()
            kind = stat.S_IFMT(found.st_mode)
            content = b""
            if stat.S_ISLNK(found.st_mode):
                content = os.fsencode(os.readlink(path))  # noqa: PTH115  # bytes that are no UTF-8
            elif stat.S_ISREG(found.st_mode):
                content = hashlib.sha256(path.read_bytes()).digest()
            rows.append(b"%r %o %o %r" % (os.fsencode(path.relative_to(root)), kind, found.st_mode & 0o777, content))
    return hashlib.sha256(b"\n".join(sorted(rows))).hexdigest()


@dataclass(slots=True, kw_only=True)
class Bench:
    """A directory to work in, a state home, and `fumehood` to call there."""

    place: Path
    environ: dict[str, str]
    scratch: Path
    scripts: int = 0
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def at(self) -> str:
        """Where the box sees the directory (pytest's lie below /tmp)."""
        return f"/workspace/{self.place.name}"

    def script(self, *replies: dict[str, Any]) -> str:
        """A model that plays these replies."""
        self.scripts += 1
        path = self.scratch / f"script-{self.scripts}.json"
        path.write_text(json.dumps({"version": 1, "model": "scripted", "replies": replies}))
        return f"scripted:{path}"

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "runner", *arguments]

    def run(
        self, *arguments: str, cwd: Path | None = None, stdin: str = "", check: int | None = 0, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """`fumehood ARGUMENTS` to its end; `check`: the exit code that must come of it."""
        done = subprocess.run(
            self.command(*arguments),
            cwd=cwd or self.place,
            env=self.environ | environ,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert "Traceback" not in done.stderr, done.stderr
        if check is not None:
            assert done.returncode == check, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def start(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        """The same, left running, without standard input."""
        process = subprocess.Popen(
            self.command(*arguments),
            cwd=self.place,
            env=self.environ | environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def layer(self, name: str) -> Path | None:
        """A file of some session's layer over the directory, on the host, once it is there."""
        found = Path(self.environ["FUMEHOOD_HOME"]).glob(f"sessions/*/layers/{self.place.name}/upper/{name}")
        return next(found, None)

    def sessions(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(self.run("sessions", "--json").stdout)
        return rows

    def records(self, session: str) -> list[dict[str, Any]]:
        """The session's journal, line by line."""
        journal = Path(self.environ["FUMEHOOD_HOME"]) / "sessions" / session / "journal.jsonl"
        return [json.loads(line) for line in journal.read_text().splitlines()]


def wait_for(what: Callable[[], object], name: str) -> None:
    """Until it is so; a minute at most."""
    limit = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < limit, f"waited in vain for {name}"
        time.sleep(0.05)


def bash(command: str) -> dict[str, Any]:
    return {"name": "Bash", "input": {"command": command}}


@pytest.fixture
def bench(tmp_path: Path, image_cache: Path, base_image: object, toolbox: object) -> Iterator[Bench]:
    """Image and toolbox are there; everything else is the test's own."""
    with opened(tmp_path, image_cache) as made:
        yield made


@contextmanager
def opened(tmp_path: Path, image_cache: Path, **more: str) -> Iterator[Bench]:
    """A bench in an empty directory, `more` in its environment."""
    place, state, home = tmp_path / "project", tmp_path / "state", tmp_path / "home"
    for directory in (place, state, home):
        directory.mkdir()
    state.chmod(0o700)
    image_cache.mkdir(parents=True, exist_ok=True)
    (state / "cache").symlink_to(image_cache)
    kept = ("PATH", "DOCKER_HOST", "XDG_RUNTIME_DIR")
    environ = {name: os.environ[name] for name in kept if name in os.environ}
    environ |= {"HOME": str(home), "FUMEHOOD_HOME": str(state), "PYTHONPATH": str(PROJECT), "LC_ALL": "C.UTF-8"}
    environ |= more
    made = Bench(place=place, environ=environ, scratch=tmp_path)
    yield made
    for process in made.started:
        if process.poll() is None:
            process.kill()
        process.communicate()
    made.run("clean", "--all", "--yes", check=None, cwd=tmp_path)


@pytest.fixture
def repository(bench: Bench) -> Bench:
    """The bench's directory as a git repository with a failing test."""
    return furnished(bench)


def furnished(bench: Bench) -> Bench:
    """With a repository in its directory."""
    (bench.place / "calc.py").write_text("def add(a, b):\n    return a - b\n")
    (bench.place / "check.py").write_text("from calc import add\n\nassert add(1, 2) == 3\nprint('all is well')\n")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *arguments], cwd=bench.place, check=True)
    return bench


@pytest.fixture
def fix(repository: Bench) -> str:
    """A model that mends the repository's fault."""
    edit = {"file_path": f"{repository.at}/calc.py", "old_string": "a - b", "new_string": "a + b"}
    return repository.script(
        {"text": "I look first.", "tools": [{"name": "Read", "input": {"file_path": f"{repository.at}/calc.py"}}]},
        {"tools": [bash("python3 -B check.py")]},
        {"tools": [{"name": "Edit", "input": edit}]},
        {"tools": [bash("python3 -B check.py")], "expect": "has been updated"},
        {"text": "Mended.", "expect": "all is well"},
    )
