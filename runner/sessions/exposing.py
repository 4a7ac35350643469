"""`expose:`: variables of the user's that one command in the box, or one MCP server, needs in its own environment, and
that nothing else gets. Read once, when a session starts; the journal hides their values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from runner.dataclass import dataclass
from runner.policy.compose import settings_error
from runner.policy.layers import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposed:
    """One variable, and the whole text of the command, or the name of the server, that gets it."""

    name: str
    value: str = field(repr=False)
    command: str = ""
    server: str = ""


@dataclass(frozen=True, slots=True)
class Exposing:
    """All of a session's."""

    rows: tuple[Exposed, ...] = ()

    def to_command(self, command: str) -> Mapping[str, str]:
        """The variables for a command: one that says a word more or less gets none."""
        return {row.name: row.value for row in self.rows if row.command and row.command == command.strip()}

    def to_server(self, server: str) -> Mapping[str, str]:
        """The variables for a server."""
        return {row.name: row.value for row in self.rows if row.server and row.server == server}


def read_exposing(settings: Settings, environ: Mapping[str, str]) -> Exposing:
    """Raises SettingsError for a variable that is not there: what needs it would run without it."""
    rows: list[Exposed] = []
    for entry in settings.all("expose"):
        given = entry.value
        value = environ.get(given["env"])
        if not value:
            raise settings_error(entry, f"expose: the variable {given['env']} is not in the environment")
        rows.append(
            Exposed(
                name=given["env"],
                value=value,
                command=str(given.get("command", "")).strip(),
                server=given.get("server", ""),
            )
        )
    return Exposing(tuple(rows))
