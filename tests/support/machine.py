"""A user with a project and places of managed settings, for tests of what settings do."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runner.policy.managed import Places
from runner.policy.trust import Grants, content_digest
from runner.sessions.chain import Chain, read_chain
from runner.sessions.enforced import Enforced
from runner.sessions.specs import new_spec, resume_spec
from runner.sessions.store import Store
from runner.spec import SessionSpec
from tests.support.policies import places, put


class Machine:
    """A user with a project, and places of managed settings."""

    def __init__(self, root: Path) -> None:
        self.home, self.project, self.state = root / "home", root / "proj", root / "state"
        for directory in (self.home, self.project, self.state):
            directory.mkdir()
        self.places: Places = places(root)
        self.environ = {"HOME": str(self.home), "FUMEHOOD_HOME": str(self.state), "FUMEHOOD_MODEL": "opus"}
        self.heard: list[str] = []

    def chain(self, cwd: Path | None = None, **more: Any) -> Chain:
        return read_chain(
            cwd or self.project, environ=self.environ, home=self.home, state=self.state, places=self.places, **more
        )

    def spec(self, cwd: Path | None = None, **more: Any) -> SessionSpec:
        self.heard = []
        return new_spec(cwd or self.project, environ=self.environ, places=self.places, notify=self.heard.append, **more)

    def stored(self, **more: Any) -> SessionSpec:
        spec = self.spec(**more)
        store = Store(self.state)
        store.prepare()
        store.directory(spec.session).mkdir(parents=True, mode=0o700)
        store.save(spec)
        return spec

    def resume(self, spec: SessionSpec, **more: Any) -> SessionSpec:
        self.heard = []
        return resume_spec(
            spec.session, cwd=self.project, environ=self.environ, places=self.places, notify=self.heard.append, **more
        )

    def user(self, value: Any) -> Path:
        return put(self.home / ".config/fumehood/settings.yaml", value)

    def repository(self, value: Any, name: str = ".claude/settings.json") -> Path:
        return put(self.project / name, value)

    def trust(self, cwd: Path | None = None) -> None:
        chain = self.chain(cwd)
        Grants(self.state).trust(chain.workspace, content_digest(chain.content), datetime.now(UTC))

    def enforced(self, spec: SessionSpec, **more: Any) -> Enforced:
        return Enforced(spec, self.environ, places=self.places, **more)
