"""Boxes for the tests of this directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.engine import Engine, ImageInfo, connect
from sandbox.toolbox import Toolbox
from tests.support.boxes import Boxes
from tests.support.layers_by_hand import build
from tests.support.relay import TcpRelay
from tests.support.sessions import Bench


@pytest.fixture(scope="session")
def boxes(engine: Engine, base_image: ImageInfo, toolbox: Toolbox, image_cache: Path) -> Boxes:
    return Boxes(engine=engine, image=base_image, toolbox=toolbox, cache=image_cache)


@pytest.fixture(scope="session")
def bench(engine: Engine, base_image: ImageInfo, toolbox: Toolbox) -> Bench:
    return Bench(engine, base_image, toolbox)


@pytest.fixture
def far(engine: Engine, base_image: ImageInfo, toolbox: Toolbox) -> Iterator[Bench]:
    """The same engine, reached as one on another machine is: what layers hold lies in volumes there."""
    with TcpRelay(engine.endpoint) as relay:
        connected = connect({"DOCKER_HOST": relay.host})
        yield Bench(connected, base_image, toolbox)
        connected.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory that is removed whatever its modes."""
    yield tmp_path
    for top, _, _ in os.walk(tmp_path):
        if Path(top).stat().st_uid == os.getuid():
            Path(top).chmod(0o700)


@pytest.fixture
def repo(place: Path) -> Path:
    top = place / "repo"
    top.mkdir()
    build(
        top,
        {
            "file": (0o644, b"one\n"),
            "script": (0o755, b"#!/bin/sh\n"),
            "gone": (0o644, b"x\n"),
            "link": "file",
            "dir": {"a": (0o644, b"a\n"), "b": (0o600, b"b\n"), "sub": {"c": (0o644, b"c\n")}},
            "tree": {"x": {"y": (0o644, b"y\n")}},
        },
    )
    return top
