"""The scripts that work before anything is installed: which Python is taken, and no engine without a yes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def fake_python(directory: Path, name: str, version: tuple[int, int], *, venv: bool = True) -> Path:
    """A program that answers the two questions of .ci/python as a Python of that version would."""
    path = directory / name
    path.write_text(
        f"#!/bin/sh\ncase $2 in *version_info*) exit {int(version < (3, 11))};; *) exit {int(not venv)};; esac\n"
    )
    path.chmod(0o755)
    return path


def choose(directory: Path) -> subprocess.CompletedProcess[str]:
    """Run .ci/python where there is nothing but a shell and what the directory holds."""
    (directory / "sh").symlink_to(shutil.which("sh") or "/bin/sh")
    # the distribution's Python is not this machine's
    script = (ROOT / ".ci/python").read_text().replace("/usr/bin/python3", str(directory / "distribution"))
    (directory / "script").write_text(script)
    return subprocess.run(
        ["/bin/sh", directory / "script"], env={"PATH": str(directory)}, capture_output=True, text=True, check=False
    )


def test_newest_python_is_taken(tmp_path: Path) -> None:
    fake_python(tmp_path, "python3.11", (3, 11))
    fake_python(tmp_path, "python3", (3, 9))
    newest = fake_python(tmp_path, "python3.13", (3, 13))

    assert choose(tmp_path).stdout == f"{newest}\n"


def test_the_distributions_python_comes_before_a_newer_one(tmp_path: Path) -> None:
    fake_python(tmp_path, "python3.13", (3, 13))
    own = fake_python(tmp_path, "distribution", (3, 11))

    assert choose(tmp_path).stdout == f"{own}\n"


@pytest.mark.parametrize(("version", "venv"), [((3, 9), True), ((3, 11), False)])
def test_a_distributions_python_that_will_not_do_is_passed_over(
    version: tuple[int, int], venv: bool, tmp_path: Path
) -> None:
    fake_python(tmp_path, "distribution", version, venv=venv)
    newest = fake_python(tmp_path, "python3.13", (3, 13))

    assert choose(tmp_path).stdout == f"{newest}\n"


def test_python_that_cannot_make_environments_is_passed_over(tmp_path: Path) -> None:
    fake_python(tmp_path, "python3.13", (3, 13), venv=False)
    older = fake_python(tmp_path, "python3.11", (3, 11))

    assert choose(tmp_path).stdout == f"{older}\n"


def test_missing_venv_module_is_named(tmp_path: Path) -> None:
    fake_python(tmp_path, "python3", (3, 11), venv=False)

    done = choose(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "python3-venv" in done.stderr


def test_old_python_is_not_taken(tmp_path: Path) -> None:
    fake_python(tmp_path, "python3", (3, 10))

    done = choose(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "3.11 or later" in done.stderr


@pytest.fixture
def no_engine(tmp_path: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "DOCKER_HOST": f"unix://{tmp_path}/none.sock",
        "FUMEHOOD_ENGINE_PYTHON": sys.executable,
        "FUMEHOOD_INSTALL_ENGINE": "1",
    }


def test_engine_that_is_named_but_does_not_answer_is_never_replaced(no_engine: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [ROOT / ".ci/engine", "touch", tmp_path / "ran"], env=no_engine, capture_output=True, text=True, check=False
    )

    assert done.returncode == 41
    assert "none.sock" in done.stderr
    assert not (tmp_path / "ran").exists()
