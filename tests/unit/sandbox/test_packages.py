"""Which of the host's apt sources count: the distribution's own, in both formats apt knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.packages import Distribution, distribution_sources, host_distribution

DEBIAN = Distribution(name="debian", codename="bookworm", codenames=frozenset({"bookworm"}), origins=("Debian",))


def sources(tmp_path: Path, **files: str) -> dict[str, str]:
    (tmp_path / "sources.list.d").mkdir()
    for name, text in files.items():
        stem, _, suffix = name.partition("_")
        (tmp_path / "sources.list.d" / f"{stem}.{suffix}").write_text(text)
    return distribution_sources(DEBIAN, tmp_path)


def test_stanzas_keep_their_fields_and_lose_foreign_suites(tmp_path: Path) -> None:
    found = sources(
        tmp_path,
        debian_sources="# a note\nTypes: deb deb-src\nURIs: http://m.invalid/d\n"
        "Suites: bookworm bookworm-updates bookworm-backports\nComponents: main\nSigned-By:\n -----BEGIN\n .\n x\n\n"
        "Types: deb\nURIs: http://other.invalid\nSuites: nodistro\nComponents: main\n",
    )

    assert found == {
        "debian.sources": "Types: deb\nURIs: http://m.invalid/d\nSuites: bookworm bookworm-updates\nComponents: main\n"
        "Signed-By:\n -----BEGIN\n .\n x\n"
    }


def test_lines_of_other_distributions_backports_and_sources_are_left_out(tmp_path: Path) -> None:
    found = sources(
        tmp_path,
        a_list="deb [arch=amd64 signed-by=/k] http://m.invalid/d bookworm main\n"
        "deb http://m.invalid/s bookworm-security/updates main\n"
        "# deb http://m.invalid/d bookworm contrib\n"
        "deb-src http://m.invalid/d bookworm main\n"
        "deb http://m.invalid/d bookworm-backports main\n"
        "deb http://x.invalid/d trixie main\n",
    )

    assert found == {
        "a.list": "deb [arch=amd64 signed-by=/k] http://m.invalid/d bookworm main\n"
        "deb http://m.invalid/s bookworm-security/updates main\n"
    }


def test_disabled_stanzas_and_other_files_do_not_count(tmp_path: Path) -> None:
    stanza = "Enabled: no\nTypes: deb\nURIs: http://m.invalid\nSuites: bookworm\nComponents: main\n"

    assert sources(tmp_path, a_sources=stanza, b_bak="deb http://m.invalid bookworm main\n") == {}


def test_sources_that_say_stable_count_where_none_names_the_distribution(tmp_path: Path) -> None:
    line = "deb http://m.invalid/d stable main\n"

    assert sources(tmp_path, a_list=line) == {"a.list": line}


def test_sources_that_say_testing_do_not_mix_with_the_distribution(tmp_path: Path) -> None:
    line = "deb http://m.invalid/d bookworm main\n"

    assert sources(tmp_path, a_list=line + "deb http://m.invalid/d testing main\n") == {"a.list": line}


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("ID=debian\nVERSION_CODENAME=bookworm\n", ("debian", "bookworm", {"bookworm"})),
        (
            'ID=linuxmint\nID_LIKE="ubuntu debian"\nVERSION_CODENAME=wilma\nUBUNTU_CODENAME=noble\n',
            ("linuxmint", "wilma", {"wilma", "noble"}),
        ),
        ("ID=fedora\n", None),
        ("", None),
    ],
)
def test_host_distribution_is_read_from_os_release(tmp_path: Path, release: str, expected: object) -> None:
    (tmp_path / "os-release").write_text(release)

    found = host_distribution(tmp_path)

    assert (found and (found.name, found.codename, found.codenames)) == expected
