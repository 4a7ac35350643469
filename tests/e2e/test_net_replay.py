"""A session in a closed world (a network namespace with its own package index, npm registry, git server and web site),
first live with `--record-net`, then again with `--replay-net` where there is no network at all.
"""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from sandbox.engine import Engine
from sandbox.images import ensure_image
from sandbox.recording import FILE
from tests.e2e.conftest import Bench, bash, tree_digest
from tests.support.closed_world import GIT, INDEX, REGISTRY, SITE, namespace

pytestmark = [pytest.mark.box, pytest.mark.network, pytest.mark.timeout(240)]
DIGEST = (
    f"import hashlib, os, stat\nfrom pathlib import Path\n{inspect.getsource(tree_digest)}print(tree_digest(Path()))"
)
REFS = "for at in . tool; do git -C $at for-each-ref --format='%(refname) %(tree)'; done"
PIP = "python3 $(echo /usr/share/python-wheels/pip-*.whl)/pip install -q --no-compile --root-user-action ignore"
STEPS: list[dict[str, Any]] = [
    bash(f"git clone -q {GIT}/tool.git && cat tool/tool.py"),
    bash(f"{PIP} --target vendor --index-url {INDEX}/simple/ demo-world && PYTHONPATH=vendor python3 -B -m demo_world"),
    {"name": "WebFetch", "input": {"url": f"{SITE}/page", "prompt": "what is it?"}},
    bash("git -C tool -c user.name=t -c user.email=t@a.example commit -q --allow-empty -m two && git -C tool push"),
]
NPM = bash(
    f"npm install --no-fund --cache /tmp/npm --registry {REGISTRY}/ demo-world && node -p 'require(\"demo-world\")'"
)
RULES = (f"git:fetch {GIT}", f"GET {INDEX}", f"GET,POST {REGISTRY}", SITE)
PACKAGES = ("gcc", "libc6-dev", "nodejs", "npm")  # as another test has them: one image serves both


def ran(bench: Bench, prefix: list[str], *arguments: str) -> str:
    """`fumehood ARGUMENTS` behind a prefix, in a session of its own: that one."""
    session = str(uuid.uuid4())
    done = subprocess.run(
        [*prefix, *bench.command(*arguments, "--session-id", session)],
        cwd=bench.place,
        env=bench.environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return session


def outputs(bench: Bench, session: str) -> list[str]:
    return [str(r["body"]["content"]) for r in bench.records(session) if r["type"] == "ToolFinished"]


def twice(bench: Bench, steps: list[dict[str, Any]], *options: str) -> tuple[str, str, list[str]]:
    """The live session and its replay, and what was asked of the servers."""
    world = bench.scratch / "world"
    world.mkdir()
    last = bash(f"cat > /tmp/digest.py <<'END'\n{DIGEST}\nEND\npython3 -B /tmp/digest.py; {REFS}")
    script: list[dict[str, Any]] = [{"tools": [step]} for step in (*steps, last)]
    script.insert(3, {"text": "It is a small page.", "expect": "# A page of this world"})  # to the tool, of the page
    rules = [word for rule in RULES for word in ("--allow-host", rule)]
    arguments = ("-p", "go", "--model", bench.script(*script, {"text": "done"}), *rules, *options)
    closed = [*namespace(), sys.executable, "-m", "tests.support.closed_world", str(world)]
    live = ran(bench, closed, *arguments, "--record-net")
    replayed = ran(bench, namespace(), *arguments, "--replay-net", live)
    return live, replayed, (world / "heard").read_text().splitlines()


def check(live: list[str], replayed: list[str], heard: list[str]) -> None:
    cloned, installed, page, pushed, *_, digest = live
    assert "a tool" in cloned
    assert "rror" not in installed
    assert page == "It is a small page."
    assert "The requested URL returned error: 403" in pushed
    assert not any("receive-pack" in each for each in heard)
    assert "refs/remotes/origin/main" in digest
    assert len(digest.split()[0]) == 64
    assert replayed[-1] == digest
    assert (replayed[0], replayed[2], replayed[3]) == (cloned, page, pushed)


def decided(bench: Bench, session: str) -> list[tuple[str, str, str, str]]:
    """Each request as the journal has it: judged, and over."""
    over = [r["body"] for r in bench.records(session) if r["type"] == "Egress"]
    judged = [r for r in bench.records(session) if r["type"] == "Judged" and r["body"]["tool"] == "Network"]
    assert len(judged) == len(over)
    return [(one["method"], one["path"], one["verdict"]["decision"], one["verdict"]["rule"]) for one in over]


def test_a_session_runs_again_with_no_network_to_the_same_tree(repository: Bench) -> None:
    live, replay, heard = twice(repository, STEPS)
    check(outputs(repository, live), outputs(repository, replay), heard)
    assert {each.split("?")[0] for each in heard} == {
        "GET /tool.git/info/refs",
        "POST /tool.git/git-upload-pack",
        "GET /simple/demo-world/",
        "GET /files/demo_world-1.0-py3-none-any.whl",
        "GET /simple/world-part/",
        "GET /files/world_part-1.0-py3-none-any.whl",
        "GET /page",
    }
    told = json.loads(repository.run("net", "recorded", live, "--json").stdout)
    ends = [(row["status"], row["whole"], row["failure"]) for row in told["exchanges"]]
    assert (ends, told["missed"]) == ([(200, True, "")] * len(heard), [])
    assert decided(repository, live) == decided(repository, replay)
    assert ("GET", "/tool.git/info/refs?service=git-receive-pack", "deny", "") in decided(repository, live)
    kept = Path(repository.environ["FUMEHOOD_HOME"]) / "sessions" / live / FILE
    assert kept.stat().st_mode & 0o777 == 0o600
    # what was not recorded, in the session that goes on, still without a network
    more = bash(f"curl -sS {SITE}/page {SITE}/other {INDEX}/simple/x/")
    told = repository.run(
        "-p", "more", "--resume", replay, "--model", repository.script({"tools": [more]}, {"text": "done"})
    ).stderr
    assert "2 requests were not recorded, and not answered (fumehood net log names them)" in told
    said = outputs(repository, replay)[-1]
    assert "A page of this world" in said
    assert f"fumehood: GET {SITE}/other was not recorded" in said
    log = json.loads(repository.run("net", "log", replay, "--json").stdout)
    assert {row["replayed"] for row in log if row["decision"] == "allow"} == {True}
    failures = [row["failure"] for row in log if row["failure"]]
    assert failures == [f"GET {at} was not recorded" for at in (f"{SITE}/other", f"{INDEX}/simple/x/")]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_npm_installs_again_with_no_network_to_the_same_tree(
    repository: Bench, engine: Engine, image_cache: Path
) -> None:
    """In an image with npm, which takes minutes to make the first time."""
    ensure_image(engine, "base", packages=PACKAGES, cache=image_cache, progress=print)
    packages = [word for name in PACKAGES for word in ("--package", name)]
    first, second, heard = twice(repository, [*STEPS, NPM], *packages)
    live, replayed = outputs(repository, first), outputs(repository, second)
    check(live, replayed, heard)
    assert "added 2 packages" in live[4]
    assert live[4].strip().endswith("42")
    assert replayed[4].strip().endswith("42")
    assert set(heard[-4:]) == {
        "GET /demo-world",
        "GET /world-part",
        "GET /demo-world/-/demo-world-1.0.0.tgz",
        "GET /world-part/-/world-part-1.0.0.tgz",
    }
