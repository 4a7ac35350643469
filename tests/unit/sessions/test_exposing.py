"""Variables for one command or server: exactly for that, and never because a repository says so."""

from __future__ import annotations

from typing import Any

import pytest

from runner.effects import Source
from runner.errors import SettingsError
from runner.policy.settings import check_shape
from runner.sessions.exposing import Exposing, read_exposing
from tests.support.policies import joined, loaded

KEY = "s3cret-key-of-ours"


def read(*rows: dict[str, Any], layer: Source = Source.USER) -> Exposing:
    source = loaded(layer, {"expose": list(rows)})
    check_shape(source.document)
    return read_exposing(joined(source, trusted=True), {"KEY": KEY, "EMPTY": ""})


def test_a_variable_is_for_the_whole_text_of_a_command_or_for_one_server() -> None:
    found = read({"env": "KEY", "command": "npm publish"}, {"env": "KEY", "server": "tracker"})
    assert found.to_command(" npm publish\n") == found.to_server("tracker") == {"KEY": KEY}
    for other in ("npm publish; env", "env", "npm  publish", "npm publish --dry-run", "", "tracker"):
        assert found.to_command(other) == {}
    for other in ("npm publish", "", "tracker2"):
        assert found.to_server(other) == {}
    assert KEY not in repr(found)


@pytest.mark.parametrize(
    "row",
    [
        {"env": "ABSENT", "command": "x"},
        {"env": "EMPTY", "command": "x"},
        {"env": "KEY"},
        {"env": "KEY", "command": ""},
        {"env": "KEY", "command": "x", "server": "y"},
        {"env": "not a name", "command": "x"},
        {"command": "x"},
    ],
)
def test_what_cannot_be_exposed_is_said(row: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        read(row)


@pytest.mark.parametrize("layer", [Source.PROJECT, Source.LOCAL])
def test_no_repository_exposes_anything(layer: Source) -> None:
    assert read({"env": "KEY", "command": "env"}, layer=layer) == Exposing()
