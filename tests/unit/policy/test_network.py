"""Network rules: what they allow is known to fit them, what they deny might."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.effects import ConnectHost, Decision, Mode, Source
from runner.errors import UsageError
from runner.policy.calls import call_of
from runner.policy.claude import translate
from runner.policy.compose import compose
from runner.policy.documents import parse
from runner.policy.grants import offer
from runner.policy.layers import HOSTS_LOCKED
from runner.policy.locks import network_limits
from runner.policy.network import network_pattern, opening, shown
from runner.policy.policy import Policy, build_policy
from runner.policy.settings import check_shape
from tests.support.policies import GROUND, PLACE, joined, loaded

HOSTS = ("a.example", "b.a.example", "example", "10.0.0.1", "::1", "evil.example")
RULES = (
    "a.example",
    "*.a.example",
    "*",
    "a.example:8080",
    "a.example:*",
    "tcp://a.example:22",
    "http://a.example/api/*",
    "GET a.example",
    "git:fetch a.example",
    "10.0.0.1",
    "[::1]:81",
    "* to 10.0.0.0/8",
)
REQUESTS = st.builds(
    ConnectHost,
    host=st.sampled_from(HOSTS),
    port=st.sampled_from((22, 80, 81, 443, 8080)),
    scheme=st.sampled_from(("http", "https", "ws", "tcp")),
    method=st.sampled_from(("CONNECT", "GET", "POST")),
    path=st.sampled_from(("", "/", "/api/x", "/api/../x", "/%61pi/x", "/x/git-receive-pack")),
)


def policy(mode: Mode = Mode.DEFAULT, **rules: tuple[str, ...]) -> Policy:
    """Rules as they stand in `Network(...)`, one to a word: none holds a comma or a space outside."""
    texts: dict[str, Any] = {key: tuple(f"Network({text})" for text in each) for key, each in rules.items()}
    return build_policy(mode=mode, place=PLACE, **texts)


def decided(rules: Policy, request: str) -> Decision:
    _, effects = call_of(f"Network({request})", PLACE)
    return rules.judge(effects, tool="Network", place=PLACE).decision


@pytest.mark.parametrize(
    ("rule", "allowed", "others"),
    [
        (
            "a.example",
            ["https://a.example", "http://a.example/x", "GET https://A.example/"],
            ["https://a.example:8443", "http://a.example:443", "https://b.a.example", "tcp://a.example:443"],
        ),
        ("a.example", [], ["ws://a.example/", "https://a.example.evil.example", "https://evil-a.example"]),
        ("*.a.example", ["https://b.a.example", "https://c.b.a.example"], ["https://a.example", "https://xa.example"]),
        (
            "a.example:8080",
            ["http://a.example:8080", "https://a.example:8080"],
            ["http://a.example", "ws://a.example:8080"],
        ),
        ("a.example:*", ["http://a.example:1", "https://a.example:8443"], ["tcp://a.example:22"]),
        ("https://a.example", ["https://a.example"], ["http://a.example", "http://a.example:443"]),
        ("tcp://a.example:22", ["tcp://a.example:22"], ["tcp://a.example:23", "https://a.example:22"]),
        ("ws://a.example", ["GET ws://a.example/x"], ["GET http://a.example/x"]),
        ("GET,HEAD http://a.example", ["GET http://a.example/", "HEAD http://a.example/"], ["POST http://a.example/"]),
        ("GET a.example", [], ["CONNECT https://a.example", "https://a.example"]),
        (
            "http://a.example/api/*",
            ["GET http://a.example/api/x", "GET http://a.example/api/x?q=/../y"],
            ["GET http://a.example/apis", "GET http://a.example/api", "CONNECT https://a.example/api/x"],
        ),
        (
            "http://a.example/api/*",
            [],
            [
                "GET http://a.example/api/../x",
                "GET http://a.example/api/%2e%2e/x",
                "GET http://a.example/api/%252e%252e/x",
                "GET http://a.example/api/..;/x",
                "GET http://a.example/api/..\\x",
                "GET http://a.example//api/x",
                "GET http://a.example/%61pi/x",
            ],
        ),
        (
            "git:fetch http://a.example",
            [
                "GET http://a.example/r.git/info/refs?service=git-upload-pack",
                "POST http://a.example/r.git/git-upload-pack",
            ],
            [
                "GET http://a.example/r.git/info/refs?service=git-receive-pack",
                "POST http://a.example/r.git/git-receive-pack",
                "GET http://a.example/r.git/info/refs",
                "GET http://a.example/r.git/info/refs?service=git-upload-pack&service=git-receive-pack",
                "POST http://a.example/git-upload-pack/../git-receive-pack",
            ],
        ),
        ("10.0.0.1:8000", ["http://10.0.0.1:8000"], ["http://10.0.0.1", "http://10.0.0.2:8000"]),
        ("[::1]:8000", ["http://[::1]:8000"], ["http://[::2]:8000"]),
    ],
)
def test_an_allow_rule_speaks_of_what_is_known_to_fit(rule: str, allowed: list[str], others: list[str]) -> None:
    rules = policy(allow=(rule,))
    assert [one for one in allowed if decided(rules, one) is not Decision.ALLOW] == []
    assert [one for one in others if decided(rules, one) is not Decision.ASK] == []


@pytest.mark.parametrize(
    ("rule", "denied", "others"),
    [
        (
            "a.example",
            ["https://a.example", "tcp://a.example:22", "ws://a.example/", "http://A.example.:81"],
            ["https://b.example"],
        ),
        ("*.a.example", ["https://b.a.example:8443"], ["https://a.example"]),
        ("a.example:22", ["tcp://a.example:22", "https://a.example:22"], ["https://a.example"]),
        ("POST a.example", ["POST http://a.example/", "CONNECT https://a.example"], ["GET http://a.example/"]),
        (
            "a.example/secret/*",
            [
                "GET http://a.example/secret/x",
                "GET http://a.example/x/../secret/x",
                "GET http://a.example/%73ecret/x",
                "GET http://a.example/%2573ecret/x",
                "GET http://a.example//secret/x",
                "GET http://a.example/x/..;y/secret/x",
                "CONNECT https://a.example",
            ],
            ["GET http://a.example/open/x"],
        ),
        (
            "git:push a.example",
            ["POST http://a.example/r/git-receive-pack", "https://a.example"],
            ["GET http://a.example/x"],
        ),
    ],
)
def test_a_deny_rule_speaks_of_what_might_fit(rule: str, denied: list[str], others: list[str]) -> None:
    rules = policy(allow=("*:*", "ws://*", "tcp://*:*"), deny=(rule,))
    assert [one for one in denied if decided(rules, one) is not Decision.DENY] == []
    assert [one for one in others if decided(rules, one) is not Decision.ALLOW] == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a b c",
        "ftp://a.example",
        "a.example:0",
        "a.example:99999",
        "tcp://a.example",
        "GET tcp://a.example:22",
        "git:pull a.example",
        "a_example/ x",
        "[::g]",
        "user@a.example",
        "a.example to nowhere",
        "a.example to 10.0.0.1/8",
    ],
)
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises((UsageError, ValueError)):
        network_pattern(text)


def test_special_addresses_are_named_by_the_rules_that_allow_the_request() -> None:
    rules = policy(
        allow=("a.example to 10.0.0.0/8, fc00::/7", "*", "192.168.0.1"), deny=("* to 10.1.0.0/16", "10.2.0.1")
    )

    def reach(host: str) -> tuple[list[str], list[str]]:
        named, barred = rules.reach(ConnectHost(host=host, port=443, scheme="https", method="CONNECT"))
        return [str(each) for each in named], [str(each) for each in barred]

    assert reach("a.example") == (["10.0.0.0/8", "fc00::/7"], ["10.1.0.0/16", "10.2.0.1/32"])
    assert reach("b.example")[0] == []
    assert reach("192.168.0.1")[0] == ["192.168.0.1/32"]
    assert build_policy(mode=Mode.DEFAULT, place=PLACE, allow=["WebFetch(domain:10.0.0.1)"]).reach(
        ConnectHost(host="10.0.0.1", port=80, scheme="http")
    )[0]


def test_a_tunnel_is_for_what_rules_let_it_carry() -> None:
    rules = policy(
        allow=(
            "tcp://a.example:22",
            "b.example",
            "http://c.example:81/x/*",
            "GET https://e.example",
            "f.example",
            "wss://g.example",
        ),
        deny=("git:push f.example", "http://b.example/x"),
    )
    assert rules.expected("a.example", 22) == "tcp"
    assert rules.expected("a.example", 443) == "https"
    assert rules.expected("b.example", 443) == "https"
    assert rules.expected("b.example", 80) == "http"
    assert rules.expected("c.example", 81) == "http"
    assert rules.expected("d.example", 80) == "https"
    assert rules.expected("e.example", 443) == "inspected"
    assert rules.expected("e.example", 444) == "https"
    assert rules.expected("f.example", 443) == "inspected"
    assert rules.expected("g.example", 443) == "inspected"
    assert rules.inspects
    assert policy(allow=("wss://a.example",)).inspects
    assert not policy(allow=("a.example", "GET http://c.example")).inspects


def test_rules_of_claude_code_mean_the_same_here() -> None:
    document = parse(
        b'{"sandbox": {"network": {"allowedDomains": ["a.example"], "deniedDomains": ["b.example"],'
        b' "strictAllowlist": true}}, "permissions": {"allow": ["WebFetch(domain:*.c.example)", "WebFetch"],'
        b' "deny": ["WebFetch(domain:x.c.example)"]}}',
        "settings.json",
    )
    made = translate(document).document
    rules = compose(joined(loaded(Source.USER, made.value)), mode=None, ground=GROUND).policy
    assert decided(rules, "https://a.example") is Decision.ALLOW
    assert decided(rules, "https://d.c.example") is Decision.ALLOW
    for request in ("https://b.example", "https://x.c.example", "https://e.example", "https://a.example:8443"):
        assert decided(rules, request) is Decision.DENY


def test_closed_means_nothing_whatever_a_rule_says() -> None:
    found = joined(
        loaded(Source.PROJECT, {"network": {"closed": True}}), loaded(Source.MANAGED, {"network": {"allow": ["*"]}})
    )
    rules = compose(found, mode=Mode.BYPASS, ground=GROUND, flags=((Decision.ALLOW, ("Network",)),)).policy
    for request in ("https://a.example", "tcp://a.example:22", "http://10.0.0.1:8000"):
        assert decided(rules, request) is Decision.DENY


def test_managed_hosts_only_cannot_be_widened_by_any_way_in() -> None:
    managed = loaded(Source.MANAGED, {"network": {"allowManagedDomainsOnly": True, "allow": ["a.example"]}})
    user = loaded(Source.USER, {"network": {"allow": ["b.example"]}, "permissions": {"allow": ["Network(c.example)"]}})
    composed = compose(
        joined(managed, user, trusted=True),
        mode=Mode.BYPASS,
        ground=GROUND,
        flags=((Decision.ALLOW, ("Network(d.example)", "WebFetch(domain:e.example)")),),
        approvals=("Network(https://f.example)",),
    )
    assert decided(composed.policy, "https://a.example") is Decision.ALLOW
    for host in "bcdefg":
        assert decided(composed.policy, f"https://{host}.example") is Decision.DENY
    assert sum(HOSTS_LOCKED in note for note in composed.notes) == 2
    effects = (ConnectHost(host="g.example", port=443, scheme="https"),)
    verdict = composed.policy.judge(effects, tool="Network", place=PLACE)
    assert offer(composed.policy, "Network", effects, PLACE, verdict) == ""


def test_a_repository_that_is_not_trusted_opens_nothing() -> None:
    repository = loaded(Source.PROJECT, {"network": {"allow": ["a.example"], "deny": ["b.example"]}}, repository=True)
    rules = compose(
        joined(repository), mode=None, ground=GROUND, flags=((Decision.ALLOW, ("Network(b.example)",)),)
    ).policy
    assert decided(rules, "https://a.example") is Decision.ASK
    assert decided(rules, "https://b.example") is Decision.DENY


def test_a_rule_of_a_higher_priority_goes_above_one_that_asks_and_never_above_a_denial() -> None:
    def decided_by(rule: dict[str, Any], *others: Any, source: Source = Source.USER) -> Decision:
        own = loaded(source, {"network": {"allow": [rule]}})
        check_shape(own.document)
        rules = compose(joined(own, *others, trusted=True), mode=None, ground=GROUND).policy
        return decided(rules, "https://a.example")

    low, high = {"rule": "a.example"}, {"rule": "a.example", "priority": 5}
    asks = {"network": {"ask": [{"rule": "*.example", "priority": 4}]}}
    asking = loaded(Source.USER, asks, name="more.yaml")
    assert decided_by(low, asking) is Decision.ASK
    assert decided_by(high, asking) is Decision.ALLOW
    assert decided_by({"rule": "a.example", "priority": 4}, asking) is Decision.ASK
    assert decided_by(high, loaded(Source.MANAGED, asks)) is Decision.ASK
    assert decided_by(high, asking, source=Source.PROJECT) is Decision.ASK
    assert decided_by(high, loaded(Source.PROJECT, asks, name="repository.yaml")) is Decision.ALLOW
    assert decided_by(high, loaded(Source.MANAGED, {"network": {"deny": ["*.example"]}})) is Decision.DENY
    assert (
        decided_by(high, loaded(Source.PROJECT, {"network": {"deny": ["*.example"]}}, name="r.yaml")) is Decision.DENY
    )


def test_a_host_that_is_passed_through_is_under_its_rules_as_a_whole() -> None:
    def rules(**network: Any) -> Policy:
        source = loaded(Source.USER, {"network": {"passThrough": ["a.example"], **network}})
        check_shape(source.document)
        return compose(joined(source), mode=None, ground=GROUND).policy

    whole = rules(allow=["a.example", "wss://a.example", "b.example", "wss://b.example"])
    assert (whole.expected("a.example", 443), whole.expected("b.example", 443)) == ("https", "inspected")
    assert decided(whole, "CONNECT https://a.example") is Decision.ALLOW
    assert decided(rules(allow=["GET a.example"]), "CONNECT https://a.example") is Decision.ASK
    assert decided(rules(allow=["a.example"], deny=["POST a.example"]), "CONNECT https://a.example") is Decision.DENY
    assert whole.digest != rules(allow=["a.example", "wss://a.example"], passThrough=[]).digest


def test_managed_limits_are_not_widened_and_a_repository_only_tightens() -> None:
    def limits(**more: Any) -> dict[str, Any]:
        return {"network": {"limits": more}}

    sources = (
        loaded(Source.MANAGED, limits(down="1M", requestsPerMinute=60, perHost={"up": 10})),
        loaded(Source.USER, limits(down="2M", body="1K", seconds=9, requestsPerMinute=30)),
        loaded(Source.PROJECT, limits(body=5000, seconds=5, perHost={"up": 99, "down": 7}), repository=True),
    )
    for source in sources:
        check_shape(source.document)
    found = {"down": 1 << 20, "requests": 30, "body": 1024, "seconds": 5, "host.up": 10, "host.down": 7}
    assert network_limits(joined(*sources)) == found
    assert any(lock.startswith("network.limits.down=") for lock in joined(*sources).locks)


@pytest.mark.parametrize("mode", list(Mode))
def test_no_mode_lets_a_request_out(mode: Mode) -> None:
    assert decided(policy(mode), "https://a.example") in (Decision.ASK, Decision.DENY)


def test_always_allows_exactly_the_place_that_was_asked_about() -> None:
    rules = policy()
    for scheme, port, text in (
        ("https", 443, "Network(https://a.example)"),
        ("tcp", 22, "Network(tcp://a.example:22)"),
    ):
        effects = (ConnectHost(host="a.example", port=port, scheme=scheme, method="CONNECT"),)
        verdict = rules.judge(effects, tool="Network", place=PLACE)
        assert offer(rules, "Network", effects, PLACE, verdict) == text


@given(REQUESTS, st.sets(st.sampled_from(RULES)), st.sets(st.sampled_from(RULES)), st.sampled_from(RULES))
def test_a_deny_more_never_loosens_and_wins(request: ConnectHost, allow: set[str], deny: set[str], more: str) -> None:
    before = policy(allow=tuple(allow), deny=tuple(deny)).judge((request,), tool="Network", place=PLACE).decision
    after = policy(allow=tuple(allow), deny=(*deny, more)).judge((request,), tool="Network", place=PLACE).decision
    assert after >= before
    pattern = network_pattern(more)
    if pattern.covers(request) and not pattern.elsewhere:
        assert after is Decision.DENY


@given(REQUESTS, st.sampled_from(RULES))
def test_what_fits_for_certain_might_fit_too(request: ConnectHost, rule: str) -> None:
    pattern = network_pattern(rule)
    assert pattern.concerns(request) or not pattern.covers(request)


@given(REQUESTS)
def test_a_request_as_a_rule_allows_it(request: ConnectHost) -> None:
    rules = build_policy(mode=Mode.DEFAULT, place=PLACE, allow=[f"Network({shown(request)})"])
    assert rules.judge((request,), tool="Network", place=PLACE).decision is Decision.ALLOW


@given(st.text(max_size=60))
def test_any_text_is_a_rule_or_refused(text: str) -> None:
    with contextlib.suppress(UsageError):
        network_pattern(text)


@pytest.mark.parametrize(
    ("request_line", "rule"),
    [
        (("https", 443, "CONNECT", ""), "https://a.example"),
        (("https", 8443, "GET", "/x/y?q=1"), "GET https://a.example:8443/x/y"),
        (("https", 443, "POST", "/r.git/git-receive-pack"), "git:push https://a.example"),
        (("https", 443, "GET", "/r.git/info/refs?service=git-upload-pack"), "git:fetch https://a.example"),
        (("http", 80, "GET", "/x"), "http://a.example"),
        (("tcp", 22, "", ""), "tcp://a.example:22"),
    ],
)
def test_the_rule_that_is_proposed_allows_the_request_and_no_more_than_is_seen(
    request_line: tuple[str, int, str, str], rule: str
) -> None:
    scheme, port, method, path = request_line
    effect = ConnectHost(host="a.example", port=port, scheme=scheme, method=method, path=path)
    assert opening(effect) == rule
    assert network_pattern(rule).covers(effect)
