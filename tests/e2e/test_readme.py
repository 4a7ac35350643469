"""What the README shows is run as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from runner.cli.entry import COMMANDS

HERE = Path(__file__).parents[2]
README = (HERE / "README.md").read_text()


@pytest.mark.box
def test_the_python_example_runs_as_it_is_written(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    script = tmp_path / "script.yaml"
    script.write_text(
        "version: 1\nmodel: scripted\nreplies:\n"
        "  - text: Looking.\n    tools:\n      - name: Bash\n        input: {command: echo hello}\n"
        "  - {expect: hello, text: Done.}\n"
    )
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    environ = {**os.environ, "FUMEHOOD_HOME": str(tmp_path / "state"), "FUMEHOOD_MODEL": f"scripted:{script}"}
    done = subprocess.run(
        [sys.executable, "-c", example.replace("/path/to/repository", str(repository))],
        env=environ | {"PYTHONPATH": str(HERE)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "Looking.\n[Bash: ok]\nDone.\ncompleted, None USD\n"


def test_every_command_is_in_the_readme() -> None:
    assert [name for name in COMMANDS if f"fumehood {name}" not in README] == []


def test_every_file_that_the_documents_name_is_there() -> None:
    for document in ("README.md", "SECURITY.md", "CONTRIBUTING.md"):
        text = (HERE / document).read_text()
        named = re.findall(r"`((?:runner|sandbox|tests|images)/[\w/.]*)`", text)
        assert [name for name in named if "NAME" not in name and not (HERE / name).exists()] == []
