"""The models that one session asks: made by name where settings allow it, and closed with it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from runner.errors import FumehoodError

if TYPE_CHECKING:
    from runner.models.base import ModelClient
    from runner.sessions.enforced import Enforced


class Clients:
    """Close it."""

    def __init__(self, enforced: Enforced) -> None:
        self._enforced = enforced
        self._made: list[ModelClient] = []
        self._small: ModelClient | None = None

    def resolve(self, name: str, *fallbacks: str) -> ModelClient:
        """A client for this model, with others for when it is overloaded. Raises LockedError, ModelError."""
        full = self._enforced.check_models(name, *fallbacks)
        client: ModelClient = import_module("runner.models.registry").resolve_model(
            name, self._enforced.environ, fallbacks=fallbacks
        )
        self._enforced.named[client.name] = full
        self._made.append(client)
        return client

    def small(self) -> ModelClient | None:
        """What reads pages for the session: haiku, where the session's model is Anthropic's and settings allow it."""
        provider, sign, _ = self._enforced.spec.model.partition(":")
        if sign and provider != "anthropic":
            return None
        if self._small is None:
            try:
                self._small = self.resolve("haiku")
            except FumehoodError:
                return None
        return self._small

    async def close(self) -> None:
        """All that were made."""
        for client in self._made:
            await client.close()
