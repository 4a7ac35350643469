"""`python -m runner.demo`, as `make demo` calls it, without a terminal and without a key."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from runner.demo.__main__ import tree_digest
from sandbox.engine import Engine

pytestmark = [pytest.mark.box, pytest.mark.timeout(300)]


@pytest.mark.usefixtures("base_image", "toolbox")
def test_demo_shows_the_whole_main_job_and_leaves_nothing(engine: Engine, tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "ANTHROPIC_API_KEY"}
    environ |= {"FUMEHOOD_HOME": str(tmp_path / "state"), "TMPDIR": str(tmp_path)}

    done = subprocess.run(
        [sys.executable, "-m", "runner.demo"], env=environ, capture_output=True, text=True, check=False, timeout=240
    )

    assert done.returncode == 0, done.stdout + done.stderr
    steps = [
        "1. On your machine, the tests fail",
        "FAILED (failures=",
        "2. The agent works on it, in its box",
        "✓ Edit",
        "3. What it changed",
        "diff --git a/fairshare/split.py",
        "4. Your repository is untouched",
        "The same, byte for byte",
        "5. You take it over",
        "M fairshare/split.py",
        "6. On your machine, the tests pass",
        "  OK\n",
    ]
    places = [done.stdout.find(step) for step in steps]
    assert -1 not in places, done.stdout
    assert places == sorted(places)
    assert "\x1b" not in done.stdout
    session = re.search(r"^([0-9a-f]{8}) ", done.stdout, re.MULTILINE)
    assert session is not None
    labels = [container.labels for container in engine.containers.list("fumehood.session")]
    labels += [volume.labels for volume in engine.volumes.list("fumehood.session")]
    assert [each for each in labels if each["fumehood.session"].startswith(session[1])] == []
    assert list((tmp_path / "state/sessions").iterdir()) == []
    assert not list(tmp_path.glob("fumehood-demo-*"))


def test_tree_digest_sees_every_kind_of_change(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    file = tmp_path / "directory/file"
    file.write_text("one")
    seen = [tree_digest(tmp_path)]
    os.utime(file, (1, 1))
    assert tree_digest(tmp_path) == seen[0]

    link = tmp_path / "link"
    link.symlink_to("a")
    seen.append(tree_digest(tmp_path))
    link.unlink()
    link.symlink_to("b")
    seen.append(tree_digest(tmp_path))
    file.write_text("two")
    seen.append(tree_digest(tmp_path))
    file.chmod(0o755)
    seen.append(tree_digest(tmp_path))
    file.rename(tmp_path / "directory/renamed")
    seen.append(tree_digest(tmp_path))
    (tmp_path / "empty").mkdir()
    seen.append(tree_digest(tmp_path))

    assert len(set(seen)) == len(seen)
