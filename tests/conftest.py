"""Fixtures that need a container engine, for every directory of tests: the engine, our images, the
toolbox. Where no engine answers, what is marked `box` is skipped and the reason shown; with
FUMEHOOD_NO_SKIP=1 (`make test`, CI) such a skip is a failure.
"""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from sandbox.build import throw_away
from sandbox.containers import ContainerSpec, session_labels
from sandbox.engine import Engine, ImageInfo, connect
from sandbox.errors import SandboxError
from sandbox.images import ensure_image
from sandbox.toolbox import Toolbox, ensure_toolbox
from tests.support.prepare import cache_directory

# What CI says of a commit it says again; elsewhere each run looks for something new. No test asserts a time.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("here", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "here")

PROGRAMS = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _say(line: str) -> None:
    print(line, flush=True)


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    try:
        connected = connect(os.environ)
    except SandboxError as error:
        pytest.skip(f"no container engine: {error}")
    yield connected
    connected.close()


@pytest.fixture(scope="session")
def image_cache() -> Path:
    return cache_directory()


@pytest.fixture(scope="session")
def base_image(engine: Engine, image_cache: Path) -> ImageInfo:
    return ensure_image(engine, "base", cache=image_cache, progress=_say)


@pytest.fixture(scope="session")
def busybox_image(engine: Engine, image_cache: Path) -> ImageInfo:
    """Nothing but a static busybox: no Python, no bash, no C library."""
    return ensure_image(engine, "busybox", cache=image_cache, progress=_say)


@pytest.fixture(scope="session")
def plain_image(engine: Engine, image_cache: Path) -> ImageInfo:
    """A Debian (or the host's Ubuntu) without Python."""
    return ensure_image(engine, "plain", cache=image_cache, progress=_say)


@pytest.fixture(scope="session")
def toolbox(engine: Engine, busybox_image: ImageInfo, image_cache: Path) -> Iterator[Toolbox]:
    """In use for as long as the tests run: those that fill toolboxes of other versions remove what is stale, and one
    from an earlier run may be hours old.
    """
    toolbox = ensure_toolbox(engine, base=busybox_image, cache=image_cache, progress=_say)
    spec = ContainerSpec(
        image=busybox_image.id, command=("/bin/true",), labels=session_labels("tests"), mounts=(toolbox.mount,)
    )
    with throw_away(engine, spec):
        yield toolbox


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--slow",
        choices=("none", "sample", "all"),
        default="none",
        help="which tests marked slow run (all, where -m names markers)",
    )
    parser.addoption("--runtime", default="", help="the OCI runtime of the contract's boxes (runsc ...)")


def _length(item: pytest.Item) -> tuple[bool, float]:
    """How long a test may take, as it says itself: by its marker, and by the limit that it sets (seconds)."""
    limit = item.get_closest_marker("timeout")
    return item.get_closest_marker("slow") is not None, float(limit.args[0]) if limit else 0.0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A third of the slow tests is the sample, always the same, told by their names; none of `torture`. What only root
    may do is of the first of the two runs; what needs a program that is not installed (CI installs them) is left out.
    """
    choice = config.getoption("--slow")
    every = choice == "all" or "slow" in config.getoption("markexpr")
    left_out = [
        item
        for item in items
        if (item.get_closest_marker("root") and os.geteuid() != 0)
        or not all(shutil.which(mark.args[0], path=PROGRAMS) for mark in item.iter_markers("program"))
        or (
            item.get_closest_marker("slow")
            and not every
            and (choice == "none" or item.get_closest_marker("torture") or zlib.crc32(item.nodeid.encode()) % 3)
        )
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]
    items.sort(key=_length, reverse=True)  # at the end a long one would leave the other processors idle


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    if report.skipped and item.get_closest_marker("box") and os.environ.get("FUMEHOOD_NO_SKIP") == "1":
        report.outcome = "failed"
        report.longrepr = f"a test marked box was left out: {report.longrepr}"
    return report
