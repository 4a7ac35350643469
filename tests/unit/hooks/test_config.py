"""Hooks out of settings files: what counts, where it runs, and what starts nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.effects import Source
from runner.errors import ManagedError, SettingsError
from runner.hooks.config import Configured, function, read_hooks
from runner.hooks.kinds import BOX, HOST
from runner.sessions.chain import read_chain, read_given
from tests.support.policies import joined, loaded, places

from .conftest import hook, hooks

JSON = ".claude/settings.json"


def one(layer: Source, value: dict[str, Any], name: str = JSON, **more: Any) -> Configured:
    return read_hooks(joined(loaded(layer, value, name=name)), **more)


def of(event: str, *handlers: dict[str, Any], **group: Any) -> dict[str, Any]:
    return {"hooks": {event: [{"hooks": list(handlers), **group}]}}


@pytest.mark.parametrize(
    ("layer", "where", "strict"),
    [
        (Source.MANAGED, HOST, True),
        (Source.USER, BOX, False),
        (Source.PROJECT, BOX, False),
        (Source.LOCAL, BOX, False),
        (Source.COMMAND_LINE, BOX, False),
    ],
)
def test_where_a_command_runs_and_whether_its_failure_blocks(layer: Source, where: str, strict: bool) -> None:
    (handler,) = hooks("PreToolUse", hook("true"), layer=layer).handlers
    assert (handler.where, handler.strict, handler.timeout) == (where, strict, 600.0)


def test_managed_hooks_may_go_on_after_a_failure_and_run_in_the_box() -> None:
    (handler,) = hooks("Stop", hook("true", onFailure="continue", where="box"), layer=Source.MANAGED).handlers
    assert (handler.where, handler.strict) == (BOX, False)


@pytest.mark.parametrize("layer", [Source.PROJECT, Source.LOCAL, Source.COMMAND_LINE])
def test_only_managed_and_user_settings_place_a_command_on_the_host(layer: Source) -> None:
    (handler,) = hooks("Stop", hook("true", where="host")).handlers
    assert handler.where == HOST
    with pytest.raises(SettingsError, match="where: host"):
        hooks("Stop", hook("true", where="host"), layer=layer)


BROKEN: dict[str, dict[str, Any]] = {
    "no list": {"hooks": {"Stop": {}}},
    "no group": {"hooks": {"Stop": ["x"]}},
    "no handlers": {"hooks": {"Stop": [{"matcher": ""}]}},
    "no command": of("Stop", {"type": "command"}),
    "an empty command": of("Stop", hook("")),
    "another type": of("Stop", {"type": "telepathy"}),
    "a type that is none": of("Stop", {"type": 1}),
    "a time that is text": of("Stop", hook("x", timeout="30")),
    "a time that is too long": of("Stop", hook("x", timeout=1e9)),
    "another onFailure": of("Stop", hook("x", onFailure="ignore")),
    "no url": of("Stop", {"type": "http"}),
    "a file's url": of("Stop", {"type": "http", "url": "file:///etc/passwd"}),
    "a url with a password": of("Stop", {"type": "http", "url": "https://u:p@example.org/"}),
    "a matcher that is no text": of("PreToolUse", hook("x"), matcher=1),
}


@pytest.mark.parametrize("layer", [Source.MANAGED, Source.USER, Source.PROJECT])
@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_understood_starts_nothing(name: str, layer: Source) -> None:
    with pytest.raises(SettingsError) as caught:
        one(layer, BROKEN[name])
    assert caught.value.line > 0


UNKNOWN: dict[str, dict[str, Any]] = {
    "an event": of("BeforeLunch", hook("x")),
    "a key of a hook": of("Stop", hook("x", colour="red")),
    "a key beside hooks": of("Stop", hook("x"), colour="red"),
    "a matcher": of("PreToolUse", hook("x"), matcher="(?=x)"),
    "mcp_tool": of("Stop", {"type": "mcp_tool", "server": "s", "tool": "t"}),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_unknown_starts_nothing_in_managed_files_and_is_named_in_others(name: str) -> None:
    with pytest.raises(SettingsError):
        one(Source.MANAGED, UNKNOWN[name])
    found = one(Source.USER, UNKNOWN[name])
    assert len(found.notes) == 1
    assert found.notes[0].startswith(f"{JSON}:")


def test_what_is_unknown_in_our_own_files_starts_nothing() -> None:
    with pytest.raises(SettingsError, match="no hook event"):
        one(Source.USER, UNKNOWN["an event"], "settings.yaml")


def test_an_event_that_is_never_fired_is_accepted_and_named() -> None:
    found = one(Source.MANAGED, of("PreCompact", hook("x")))
    assert found.notes == (f"{JSON}:3: hooks PreCompact is never fired: there is no compaction",)


@pytest.mark.parametrize("layer", [Source.USER, Source.PROJECT, Source.LOCAL, Source.COMMAND_LINE])
def test_the_managed_lock_leaves_managed_hooks_and_functions(layer: Source) -> None:
    async def callback(told: dict[str, Any]) -> dict[str, Any]:
        return {}

    mine = function("Stop", callback)
    lock = loaded(Source.MANAGED, {"allowManagedHooksOnly": True} | of("Stop", hook("theirs")))
    found = read_hooks(joined(lock, loaded(layer, of("Stop", hook("mine")))), (mine,))
    assert [handler.text for handler in found.handlers] == ["theirs", "function"]
    assert "managed settings allow managed hooks only" in found.notes[0]


def test_hooks_are_switched_off_by_the_user_but_for_managed_ones_and_by_managed_settings_as_a_whole() -> None:
    managed = of("Stop", hook("theirs"))
    user = loaded(Source.USER, {"disableAllHooks": True} | of("Stop", hook("mine")))
    kept = read_hooks(joined(loaded(Source.MANAGED, managed), user))
    assert [handler.text for handler in kept.handlers] == ["theirs"]
    off = loaded(Source.MANAGED, {"disableAllHooks": True} | managed)
    assert read_hooks(joined(off, user)).handlers == ()
    repository = loaded(Source.PROJECT, {"disableAllHooks": True})
    assert len(read_hooks(joined(loaded(Source.USER, of("Stop", hook("mine"))), repository)).handlers) == 1


def test_nobody_answers_where_managed_settings_deny_instead_of_asking() -> None:
    value = {"permissions": {"denyInsteadOfPrompting": True}} | of("PermissionRequest", hook("yes"))
    found = read_hooks(joined(loaded(Source.MANAGED, value)))
    assert found.handlers == ()
    assert "denyInsteadOfPrompting" in found.notes[0]


def test_identical_hooks_run_once_and_as_the_users_own() -> None:
    same = of("Stop", hook("same"))
    found = read_hooks(joined(loaded(Source.USER, same), loaded(Source.PROJECT, same)))
    assert [handler.source.layer for handler in found.handlers] == [Source.USER]


def test_a_prompt_of_an_untrusted_repository_is_not_put_to_the_model() -> None:
    value = of("Stop", {"type": "prompt", "prompt": "done?"})
    assert one(Source.PROJECT, value).handlers == ()
    assert len(read_hooks(joined(loaded(Source.PROJECT, value), trusted=True)).handlers) == 1
    assert len(one(Source.USER, value).handlers) == 1


def test_an_error_in_a_managed_file_names_file_and_line() -> None:
    with pytest.raises(SettingsError) as caught:
        one(Source.MANAGED, BROKEN["no command"], "/etc/fumehood/managed-settings.yaml")
    assert caught.value.file == "/etc/fumehood/managed-settings.yaml"
    assert isinstance(caught.value, ManagedError)


def test_the_user_hears_that_a_repository_that_is_not_trusted_has_hooks() -> None:
    found = one(Source.PROJECT, of("Stop", hook("x")))
    said = f"{JSON}: the repository's hooks run, in the box (fumehood policy show)"
    assert (found.told(trusted=False), found.told(trusted=True)) == ((said,), ())
    assert one(Source.USER, of("Stop", hook("x"))).told(trusted=False) == ()


@pytest.mark.parametrize("where", ["box", "host"])
def test_hooks_of_the_settings_flag_travel_with_the_spec_and_stay_in_the_box(tmp_path: Path, where: str) -> None:
    home, repo = tmp_path / "home", tmp_path / "repo"
    for directory in (home, repo):
        directory.mkdir()
    given = read_given(json.dumps(of("Stop", hook("x", where=where))), repo)
    chain = read_chain(
        repo, environ={}, home=home, state=tmp_path / "state", places=places(tmp_path / "managed"), given=given
    )
    if where == "host":
        with pytest.raises(SettingsError, match="where: host"):
            read_hooks(chain.settings)
        return
    (handler,) = read_hooks(chain.settings).handlers
    assert (handler.source.layer, handler.where, handler.own) == (Source.COMMAND_LINE, BOX, False)


@pytest.mark.parametrize("layer", [Source.MANAGED, Source.USER])
def test_settings_limit_where_hooks_post_to_and_what_they_read(layer: Source) -> None:
    limits = {"allowedHttpHookUrls": ["https://hooks.example.org/*"], "httpHookAllowedEnvVars": ["A"]}
    good, bad = "https://hooks.example.org/x", "https://hooks.example.org.evil.example/x"
    posts = [{"type": "http", "url": url, "allowedEnvVars": ["A", "B"]} for url in (good, bad)]
    found = read_hooks(joined(loaded(layer, limits, name=JSON), loaded(Source.USER, of("Stop", *posts), name="u.json")))
    assert [(handler.url, handler.variables) for handler in found.handlers] == [(good, ("A",))]
    assert "allowedHttpHookUrls" in found.notes[0]
    nothing = joined(loaded(layer, {"allowedHttpHookUrls": []}), loaded(Source.USER, of("Stop", *posts), name="u.json"))
    assert read_hooks(nothing).handlers == ()
