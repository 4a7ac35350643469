"""`python -m runner.demo`: the main job on a small real repository, by the commands that a user types.

Without ANTHROPIC_API_KEY a script plays the model's part; the loop, the policy, the box and the
commands are the real ones in both cases. Ends with 0 only when every step came out as it should.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

HERE = Path(__file__).parent
PROMPT = "The tests of this repository fail. Find out why, fix the code, not the tests, and run them again."
GIT = ("git", "-c", "user.name=fumehood", "-c", "user.email=demo@fumehood.invalid")
FUMEHOOD = (sys.executable, "-m", "runner")


class DemoError(Exception):
    """A step did not come out as it should."""


class Demo:
    """The steps, over a fresh copy of the repository at `place`."""

    def __init__(self, console: Console, place: Path, environ: Mapping[str, str]) -> None:
        self._console = console
        self._place = place
        self._environ = {**environ, "PYTHONDONTWRITEBYTECODE": "1"}
        self._scripted = not environ.get("ANTHROPIC_API_KEY")

    def play(self) -> None:
        """All of it. Raises DemoError."""
        self._prepare()
        before = tree_digest(self._place)
        self._title("1. On your machine, the tests fail")
        if self._tests():
            raise DemoError("the tests should fail before the agent has worked")
        self._title("2. The agent works on it, in its box")
        model = ("--model", f"scripted:{HERE / 'script.yaml'}") if self._scripted else ()
        if self._scripted:
            self._say("No ANTHROPIC_API_KEY is set: a script plays the model's part. All else is real.")
        self._command(*model, PROMPT, shown=f'fumehood "{PROMPT}"')
        self._title("3. What it changed")
        self._command("diff")
        self._title("4. Your repository is untouched")
        after = tree_digest(self._place)
        self._say(f"before  {before}\nafter   {after}")
        if before != after:
            raise DemoError("the repository on the host is not what it was")
        self._say("The same, byte for byte: every file, mode and link, .git included.")
        self._title("5. You take it over")
        self._command("apply")
        self._title("6. On your machine, the tests pass")
        if not self._tests():
            raise DemoError("the tests still fail after apply")

    def discard(self) -> None:
        """The session goes as the repository does."""
        subprocess.run(
            [*FUMEHOOD, "discard", "--yes"],
            cwd=self._place,
            env=self._environ,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )

    def _prepare(self) -> None:
        shutil.copytree(HERE / "repository", self._place, ignore=shutil.ignore_patterns("__pycache__"))
        for arguments in (("init", "--quiet"), ("add", "--all"), ("commit", "--quiet", "--message", "Split bills")):
            subprocess.run([*GIT, *arguments], cwd=self._place, env=self._environ, check=True)

    def _tests(self) -> bool:
        """Run the repository's tests on the host; their last lines are shown."""
        self._say(f"$ cd {self._place} && python3 -m unittest", style="bold")
        done = subprocess.run(
            [sys.executable, "-m", "unittest"],
            cwd=self._place,
            env=self._environ,
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        lines = [line.split(" (tests.")[0] for line in done.stderr.splitlines()]
        for line in dict.fromkeys(line for line in lines if line.startswith(("FAIL", "ERROR:", "Ran ", "OK"))):
            style = {"OK": "green", "FA": "red"}.get(line[:2], "")
            self._say(f"  {line}", style=style)
        return done.returncode == 0

    def _command(self, *arguments: str, shown: str = "") -> None:
        """One of fumehood's own commands, on this terminal."""
        self._say(f"$ {shown or ' '.join(('fumehood', *arguments))}", style="bold")
        done = subprocess.run([*FUMEHOOD, *arguments], cwd=self._place, env=self._environ, check=False)
        if done.returncode != 0:
            raise DemoError(f"fumehood ended with {done.returncode}")

    def _title(self, text: str) -> None:
        self._console.print()
        self._console.rule(f"[bold]{text}", align="left", style="cyan")

    def _say(self, text: str, style: str = "") -> None:
        self._console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def tree_digest(top: Path) -> str:
    """Sha256 over everything below a directory, .git included: paths, types, modes, links and contents; no times."""
    digest = hashlib.sha256()
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        match stat.S_IFMT(status.st_mode):
            case stat.S_IFREG:
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            case stat.S_IFLNK:
                content = str(path.readlink())
            case _:
                content = ""
        digest.update(f"{path.relative_to(top)}\0{status.st_mode:o}\0{content}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def main() -> int:
    """Play it in a temporary folder, which goes afterwards."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix="fumehood-demo-") as folder:
        demo = Demo(console, Path(folder) / "fairshare", os.environ)
        try:
            demo.play()
        except DemoError as error:
            console.print(f"fumehood: {error}", style="red", markup=False)
            return 1
        except KeyboardInterrupt:
            return 130
        finally:
            demo.discard()
    console.print()
    console.print('Now in a repository of yours:  fumehood "what you want done"', highlight=False, markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
