"""Sources joined: precedence, what a repository may say, and that nothing overrides a managed lock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.effects import Decision, Mode, Source
from runner.policy.calls import call_of, judge
from runner.policy.compose import compose
from runner.policy.keys import KEYS, Scope
from runner.policy.layers import ABOVE, NEVER, NOT_MANAGED, OTHER_PLACE, RULES_LOCKED, UNTRUSTED, Loaded
from runner.policy.locks import names_model
from tests.support.policies import GROUND, PLACE, joined, loaded

MANAGED, FLAG, LOCAL, PROJECT, USER = Source.MANAGED, Source.COMMAND_LINE, Source.LOCAL, Source.PROJECT, Source.USER


def decided(call: str, *sources: Loaded, trusted: bool = False, mode: Mode | None = None) -> Decision:
    found = joined(*sources, trusted=trusted)
    tool, effects = call_of(call, PLACE)
    return judge(compose(found, mode=mode, ground=GROUND).policy, tool, effects, PLACE).decision


def test_the_highest_source_decides_a_value_and_says_where_it_stands() -> None:
    found = joined(loaded(USER, {"image": "user"}), loaded(FLAG, {"image": "flag"}), loaded(MANAGED, {"runtime": "r"}))
    assert found.value("image") == "flag"
    assert [(e.where, e.value) for e in found.all("image")] == [
        ("command_line.yaml:2", "flag"),
        ("user.yaml:2", "user"),
    ]


def test_the_order_is_managed_command_line_local_project_user() -> None:
    sources = [loaded(layer, {"image": layer.value}) for layer in (USER, PROJECT, LOCAL, FLAG, MANAGED)]
    assert [e.value for e in joined(*sources, trusted=True).all("image")] == [
        "managed",
        "command_line",
        "local",
        "project",
        "user",
    ]


def test_rules_of_all_sources_count_together_with_their_lines() -> None:
    found = joined(
        loaded(USER, {"permissions": {"deny": ["A", "B"]}}), loaded(MANAGED, {"permissions": {"deny": ["C"]}})
    )
    assert [(e.text, e.where) for e in found.all("permissions.deny")] == [
        ("C", "managed.yaml:4"),
        ("A", "user.yaml:4"),
        ("B", "user.yaml:5"),
    ]


UNTRUSTED_VALUES: dict[str, Any] = {
    "permissions": {"allow": ["WebFetch"], "additionalDirectories": ["/x"]},
    "network": {"allowedDomains": ["x.example"]},
    "image": "evil",
    "packages": ["evil"],
    "background": [{"name": "evil", "command": "evil"}],
    "system": "writable",
    "runtime": "evil",
    "limits": {"memory": "100g"},
}
NEVER_VALUES: dict[str, Any] = {
    "model": "evil",
    "fallbackModel": ["evil"],
    "availableModels": ["evil"],
    "approver": {"url": "https://evil.example", "secretEnv": "X"},
    "search": {"kind": "searxng", "url": "https://evil.example"},
    "env": {"ANTHROPIC_BASE_URL": "https://evil.example", "HTTPS_PROXY": "https://evil.example"},
    "disableAllHooks": True,
}


def test_an_untrusted_repository_only_tightens() -> None:
    values = UNTRUSTED_VALUES | NEVER_VALUES | {"allowManagedHooksOnly": True}
    values["permissions"] = {**values["permissions"], "deny": ["Bash(x)"], "ask": ["Bash(y)"]}
    found = joined(loaded(PROJECT, values))
    counted = {key.name for key in KEYS if found.all(key.name)}
    assert counted == {"permissions.deny", "permissions.ask"}
    assert found.env == {}
    why = {(left.entry.key, left.why) for left in found.left_out}
    assert why == {
        ("permissions.allow", UNTRUSTED),
        ("permissions.additionalDirectories", UNTRUSTED),
        ("network.allowedDomains", UNTRUSTED),
        ("packages", UNTRUSTED),
        ("background", UNTRUSTED),
        ("image", UNTRUSTED),
        ("system", UNTRUSTED),
        ("runtime", UNTRUSTED),
        ("limits.memory", UNTRUSTED),
        ("model", NEVER),
        ("fallbackModel", NEVER),
        ("availableModels", NEVER),
        ("approver", NEVER),
        ("search", NEVER),
        ("disableAllHooks", NEVER),
        ("env", NEVER),
        ("allowManagedHooksOnly", NOT_MANAGED),
    }


def test_a_trusted_repository_counts_but_for_endpoints_keys_and_variables() -> None:
    found = joined(loaded(PROJECT, UNTRUSTED_VALUES | NEVER_VALUES), trusted=True)
    assert {left.why for left in found.left_out} == {NEVER}
    assert found.value("image") == "evil"
    assert found.env == {}


def test_what_stands_above_the_start_directory_tightens_only_trusted_or_not() -> None:
    above = Loaded(
        layer=PROJECT,
        document=loaded(PROJECT, {"permissions": {"allow": ["WebFetch"], "deny": ["Bash(x)"]}}).document,
        from_repository=True,
        above=True,
    )
    found = joined(above, trusted=True)
    assert found.value("permissions.deny") == ["Bash(x)"]
    assert [left.why for left in found.left_out] == [ABOVE]


@pytest.mark.parametrize("mode", list(Mode))
def test_a_repository_makes_the_start_mode_stricter_and_never_looser(mode: Mode) -> None:
    theirs = loaded(PROJECT, {"permissions": {"defaultMode": mode.value}})
    assert joined(theirs, trusted=True).start_mode is (Mode.BYPASS if mode is Mode.AUTO else mode)
    own = loaded(USER, {"permissions": {"defaultMode": "plan"}})
    assert joined(theirs, own, trusted=True).start_mode is Mode.PLAN


def test_locks_of_both_managed_places_unite_and_lists_of_allowed_things_intersect() -> None:
    ours = {
        "availableModels": ["opus", "haiku"],
        "permissions": {"allow": ["Bash(a)", "Bash(b)"], "deny": ["Bash(x)"]},
        "image": "ours",
    }
    theirs = {
        "availableModels": ["opus", "sonnet"],
        "permissions": {"allow": ["Bash(b)", "Bash(c)"], "deny": ["Bash(y)"], "disableAutoMode": "disable"},
        "image": "theirs",
        "runtime": "theirs",
    }
    found = joined(loaded(MANAGED, theirs, name="b", place=1), loaded(MANAGED, ours, name="a"))
    assert found.value("availableModels") == ["opus"]
    assert found.value("permissions.allow") == ["Bash(b)"]
    assert sorted(found.value("permissions.deny")) == ["Bash(x)", "Bash(y)"]
    assert (found.value("image"), found.value("runtime")) == ("ours", "theirs")
    assert Mode.AUTO not in found.modes
    assert {left.why for left in found.left_out} == {OTHER_PLACE}


def test_an_empty_list_of_allowed_things_allows_nothing() -> None:
    for other in ({}, {"availableModels": ["opus"]}):
        found = joined(
            loaded(MANAGED, {"availableModels": []}),
            loaded(MANAGED, other, name="b", place=1),
            loaded(USER, {"availableModels": ["opus"]}),
        )
        assert found.value("availableModels") == []
        assert "availableModels=" in found.locks


def test_a_managed_list_of_models_is_the_only_one_and_others_add_up_without() -> None:
    user = loaded(USER, {"availableModels": ["haiku"]})
    assert joined(user, loaded(FLAG, {"availableModels": ["opus"]})).value("availableModels") == ["opus", "haiku"]
    assert joined(user, loaded(MANAGED, {"availableModels": ["opus"]})).value("availableModels") == ["opus"]


def test_of_drop_ins_the_last_decides_a_value_and_none_takes_a_lock_back() -> None:
    first = loaded(
        MANAGED, {"image": "one", "disableShell": True, "forcedMode": "plan", "requiredMinimumVersion": "3.0"}
    )
    last = loaded(
        MANAGED, {"image": "two", "disableShell": False, "forcedMode": "acceptEdits", "requiredMinimumVersion": "2"}
    )
    for order in ((first, last), (last, first)):
        found = joined(*order)
        assert found.value("image") == order[-1].document.value["image"]
        assert found.locked("disableShell")
        assert found.modes == {Mode.PLAN}
        assert found.value("requiredMinimumVersion") == "3.0"


def test_managed_rules_only_leaves_what_others_deny_and_takes_what_they_allow() -> None:
    managed = loaded(MANAGED, {"allowManagedPermissionRulesOnly": True, "permissions": {"allow": ["Bash(a)"]}})
    user = loaded(USER, {"permissions": {"allow": ["Bash(b)"], "deny": ["Bash(c)"]}})
    for call, wanted in (("Bash(a)", Decision.ALLOW), ("Bash(b)", Decision.ASK), ("Bash(c)", Decision.DENY)):
        assert decided(call, managed, user, mode=Mode.DEFAULT) is wanted
    assert [left.why for left in joined(managed, user).left_out] == [RULES_LOCKED]
    flags = ((Decision.ALLOW, ("Bash(b)",)), (Decision.DENY, ("Bash(d)",)))
    made = compose(joined(managed), mode=Mode.DEFAULT, ground=GROUND, flags=flags, approvals=("Bash(e)",))
    assert sorted(rule.text for rule in made.policy.rules) == ["Bash(a)", "Bash(d)"]
    assert len(made.notes) == 1


def test_managed_hosts_only_takes_what_others_allow_of_the_network() -> None:
    managed = loaded(MANAGED, {"network": {"allowManagedDomainsOnly": True, "allowedDomains": ["a.example"]}})
    user = loaded(USER, {"network": {"allowedDomains": ["b.example"]}, "permissions": {"allow": ["WebFetch"]}})
    assert decided("WebFetch(domain:a.example)", managed, user) is Decision.ALLOW
    assert decided("WebFetch(domain:b.example)", managed, user) is Decision.DENY  # no answer may widen it either
    assert decided("WebFetch(domain:b.example)", user) is Decision.ALLOW


def test_a_closed_network_beats_every_rule() -> None:
    closed = loaded(PROJECT, {"network": {"closed": True}})
    user = loaded(USER, {"permissions": {"allow": ["WebFetch", "WebSearch", "WebFetch(domain:a.example)"]}})
    for call in ("WebFetch(domain:a.example)", "WebSearch(x)"):
        assert decided(call, closed, user) is Decision.DENY


def test_a_rule_that_is_none_is_as_strict_as_it_can_be() -> None:
    user = loaded(USER, {"permissions": {"deny": ["Bash(oops", "((("], "ask": ["Edit(x"], "allow": ["WebFetch(oops"]}})
    made = compose(joined(user), mode=Mode.BYPASS, ground=GROUND)
    assert len(made.notes) == 4
    for call in ("Bash(ls)", "Read(x)", "Edit(y)", "WebFetch(domain:a.example)"):
        assert decided(call, user) is Decision.DENY


LOCKS: tuple[dict[str, Any], ...] = (
    {"permissions": {"disableBypassPermissionsMode": "disable"}},
    {"permissions": {"disableAutoMode": "disable"}},
    {"forcedMode": "plan"},
    {"forcedMode": "default"},
    {"disableShell": True},
    {"allowManagedPermissionRulesOnly": True},
    {"allowManagedHooksOnly": True},
    {"allowManagedMcpServersOnly": True},
    {"availableModels": ["opus"]},
    {"availableModels": []},
    {"allowedImages": ["base"]},
    {"allowedRegistries": []},
    {"requiredMinimumVersion": "0.0.1"},
    {"network": {"closed": True}},
    {"network": {"allowManagedDomainsOnly": True}},
    {"limits": {"memory": "1g", "maxTurns": 3}},
    {"permissions": {"deny": ["Bash(rm *)", "WebFetch"]}},
)
RULES = st.lists(
    st.sampled_from(
        ["Bash", "Bash(rm *)", "Bash(ls)", "WebFetch", "WebFetch(domain:a.example)", "Read(x)", "Edit", "Edit(y)"]
    ),
    max_size=3,
)
ANYTHING = st.fixed_dictionaries(
    {},
    optional={
        "permissions": st.fixed_dictionaries(
            {},
            optional={
                "allow": RULES,
                "ask": RULES,
                "deny": RULES,
                "defaultMode": st.sampled_from([mode.value for mode in Mode]),
                "disableBypassPermissionsMode": st.just("disable"),
            },
        ),
        "network": st.fixed_dictionaries(
            {}, optional={"closed": st.booleans(), "allowedDomains": st.just(["a.example"])}
        ),
        "availableModels": st.lists(st.sampled_from(["opus", "haiku", "sonnet"]), max_size=2),
        "limits": st.fixed_dictionaries({}, optional={"memory": st.just("9g"), "maxTurns": st.just(99)}),
        "forcedMode": st.sampled_from([mode.value for mode in Mode]),
        "allowedImages": st.just(["*"]),
        "disableShell": st.booleans(),
        "allowManagedPermissionRulesOnly": st.booleans(),
    },
)
LAYERS = st.sampled_from([FLAG, LOCAL, PROJECT, USER])
CALLS = ("Bash(rm -rf x)", "Bash(ls)", "Bash(make)", "Read(x)", "Edit(y)", "WebFetch(domain:a.example)", "WebSearch(x)")


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(LOCKS), min_size=1, max_size=3),
    st.lists(st.tuples(LAYERS, ANYTHING), max_size=4),
    st.booleans(),
)
def test_no_source_overrides_a_managed_lock(
    locks: Sequence[dict[str, Any]], others: Sequence[tuple[Source, dict[str, Any]]], trusted: bool
) -> None:
    managed = [loaded(MANAGED, lock, name=f"m{n}") for n, lock in enumerate(locks)]
    alone = joined(*managed)
    more = joined(
        *managed, *(loaded(layer, value, name=f"o{n}") for n, (layer, value) in enumerate(others)), trusted=trusted
    )
    assert more.locks == alone.locks
    assert more.modes <= alone.modes
    for key in KEYS:
        if key.scope is Scope.MANAGED:
            assert more.value(key.name) == alone.value(key.name)
        assert more.managed(key.name) == alone.managed(key.name)
    if alone.value("availableModels") is not None:
        assert more.value("availableModels") == alone.value("availableModels")
    for call in CALLS:
        for mode in more.modes:
            tool, effects = call_of(call, PLACE)
            first = judge(compose(alone, mode=mode, ground=GROUND).policy, tool, effects, PLACE)
            then = judge(compose(more, mode=mode, ground=GROUND).policy, tool, effects, PLACE)
            if first.decision is Decision.DENY and first.source is MANAGED:
                assert then.decision is Decision.DENY
            if alone.locked("allowManagedPermissionRulesOnly"):
                assert then.decision >= first.decision


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([MANAGED, FLAG, LOCAL, PROJECT, USER]), ANYTHING), max_size=5), st.randoms())
def test_decisions_do_not_depend_on_the_order_of_files(
    sources: Sequence[tuple[Source, dict[str, Any]]], random: Any
) -> None:
    made = [
        loaded(layer, value, name=f"f{n}", place=n % 2 if layer is MANAGED else 0)
        for n, (layer, value) in enumerate(sources)
    ]
    other = list(made)
    random.shuffle(other)
    one, two = joined(*made, trusted=True), joined(*other, trusted=True)
    assert one.modes == two.modes
    assert sorted(one.locks) == sorted(two.locks)
    assert one.digest == two.digest
    for mode in one.modes:
        a, b = (compose(each, mode=mode, ground=GROUND).policy for each in (one, two))
        assert a.digest == b.digest
        for call in CALLS:
            tool, effects = call_of(call, PLACE)
            assert judge(a, tool, effects, PLACE).decision is judge(b, tool, effects, PLACE).decision


@pytest.mark.parametrize(
    ("text", "model", "wanted"),
    [
        ("opus", "anthropic:claude-opus-5", True),
        ("opus", "anthropic:claude-sonnet-5", False),
        ("claude-opus-5", "anthropic:claude-opus-5", True),
        ("claude-opus", "anthropic:claude-opus-5-20260101", True),
        ("claude-op", "anthropic:claude-opus-5", False),
        ("sonnet[1m]", "anthropic:claude-sonnet-5", True),
        ("opus", "scripted:/x/opus", False),
        ("scripted:", "scripted:/x", True),
        ("scripted:/x", "scripted:/y", False),
        ("", "anthropic:claude-opus-5", False),
    ],
)
def test_an_entry_of_a_list_of_models_names_a_family_an_id_or_its_beginning(
    text: str, model: str, wanted: bool
) -> None:
    assert names_model(text, model) is wanted
