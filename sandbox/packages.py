"""Debian packages for images, fetched by a private apt that needs no privilege.

It uses the host's own configuration: its distribution's sources, keys, proxies and certificates.
State, lists and downloads lie in a directory of ours; the host's apt is not touched.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from shutil import which
from urllib.parse import unquote

from sandbox.dataclass import dataclass
from sandbox.errors import ImageMissingError
from sandbox.locking import locked

FETCH_SECONDS = 600
SUITE_WORDS = frozenset({"stable", "testing", "unstable", "sid"})
NOT_AUTOMATIC = ("-backports", "-backports-sloppy", "-proposed", "-proposed-updates")
# apt's names for the engine's names of an architecture
ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One downloaded `.deb`, its hash checked. `epoch`: when it was built, seconds since 1970.
    `essential`: belongs to what every Debian system has, or is needed by that.
    """

    name: str
    version: str
    architecture: str
    sha256: str
    epoch: int
    essential: bool
    path: Path

    @property
    def line(self) -> str:
        """The package as image records list it."""
        return f"{self.name} {self.version} {self.architecture} sha256:{self.sha256}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """The host's Debian or descendant. `codenames`: what its sources may call it (a descendant
    names its parent's too). `origins`: whose packages count, by apt's Origin field.
    """

    name: str
    codename: str
    codenames: frozenset[str]
    origins: tuple[str, ...]


def host_distribution(etc: Path = Path("/etc")) -> Distribution | None:
    """The distribution that images can be bootstrapped from, None where the host has no apt."""
    if which("apt-get") is None or which("dpkg-deb") is None:
        return None
    try:
        fields = _os_release((etc / "os-release").read_text())
    except OSError:
        return None
    codenames = {value for key, value in fields.items() if key.endswith("_CODENAME") and value}
    if not codenames:
        return None
    families = [fields.get("ID", ""), *fields.get("ID_LIKE", "").split()]
    return Distribution(
        name=fields.get("ID", "debian"),
        codename=fields.get("VERSION_CODENAME") or min(codenames),
        codenames=frozenset(codenames),
        origins=tuple(dict.fromkeys(["Debian", "Ubuntu", *(family.capitalize() for family in families if family)])),
    )


def distribution_sources(distribution: Distribution, etc: Path) -> dict[str, str]:
    """File name → text: the host's apt sources, less what is not the distribution's own, its
    backports and its source packages. `etc` is apt's directory. Where no source names the
    distribution, those that say stable, testing or unstable count.
    """
    return _sources(distribution.codenames, etc) or _sources(SUITE_WORDS, etc)


def _sources(suites: frozenset[str], etc: Path) -> dict[str, str]:
    """The sources for suites that begin with one of these words."""
    kept: dict[str, str] = {}
    for path in (etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))):
        try:
            text = path.read_text(errors="replace")
        except OSError:
            continue
        if path.suffix == ".list":
            lines = [line for line in text.splitlines() if _line_wanted(line, suites)]
            kept[path.name] = "\n".join(lines) + "\n" if lines else ""
        elif path.suffix == ".sources":
            stanzas = [_stanza(stanza, suites) for stanza in re.split(r"\n\s*\n", text)]
            kept[path.name] = "\n\n".join(filter(None, stanzas)) + "\n"
    return {name: text for name, text in kept.items() if text.strip()}


def fetch_packages(
    names: tuple[str, ...],
    *,
    essential: bool,
    architecture: str,
    distribution: Distribution,
    directory: Path,
    progress: Callable[[str], None],
    etc: Path = Path("/etc/apt"),
) -> tuple[Package, ...]:
    """Download `names` with all that they depend on, into `directory`, and return the whole set
    sorted by name; with `essential`, the distribution's essential packages too. One process at a time.

    Raises ImageMissingError with apt's words when it cannot be done.
    """
    wanted = ["?essential", *names] if essential else list(names)
    install = ["install", "--yes", "--no-install-recommends"]
    # asked with an empty store of downloads, apt names every file that it would need, with its hash
    listing = [*install, "-o", f"Dir::Cache::archives={directory}/none/", "--print-uris"]
    with locked(directory / "lock"):
        environment = _prepare(directory, architecture, distribution, etc)
        progress(f"asking for the packages of {distribution.name} {distribution.codename}")
        _apt(["update"], environment)
        found = _files(_apt([*listing, *wanted], environment))
        core = _files(_apt([*listing, "?essential"], environment)) if essential else {}
        progress(f"fetching {len(found)} packages")
        _apt([*install, "--download-only", *wanted], environment)
        packages = (_checked(directory / "archives" / name, proof, name in core) for name, proof in found.items())
        return tuple(sorted(packages, key=lambda package: package.line))


def _os_release(text: str) -> dict[str, str]:
    """The assignments of os-release(5)."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key: value.strip().strip("\"'") for key, value in pairs}


def _suite_wanted(suite: str, suites: frozenset[str]) -> bool:
    """Whether a suite is the distribution's own: `bookworm`, `bookworm-updates`, `stable/updates`."""
    return re.split(r"[-/]", suite, maxsplit=1)[0] in suites and not suite.endswith(NOT_AUTOMATIC)


def _line_wanted(line: str, suites: frozenset[str]) -> bool:
    """Judge a line of the one-line format: `deb [options] uri suite component…`."""
    match = re.match(r"\s*deb\s+(?:\[[^\]]*\]\s+)?\S+\s+(\S+)", line)
    return match is not None and _suite_wanted(match[1], suites)


def _stanza(stanza: str, suites: frozenset[str]) -> str:
    """A deb822 stanza with the suites that are wanted; empty when none is."""
    lines = [line for line in stanza.splitlines() if not line.startswith("#")]
    fields = {line.split(":", 1)[0].lower(): index for index, line in enumerate(lines) if re.match(r"[\w-]+:", line)}
    value = {key: lines[index].split(":", 1)[1].split() for key, index in fields.items()}
    kept = [suite for suite in value.get("suites", []) if _suite_wanted(suite, suites)]
    if not kept or "deb" not in value.get("types", []) or value.get("enabled", ["yes"])[0].lower() in ("no", "false"):
        return ""
    lines[fields["suites"]] = f"Suites: {' '.join(kept)}"
    lines[fields["types"]] = "Types: deb"
    return "\n".join(lines)


def _prepare(directory: Path, architecture: str, distribution: Distribution, etc: Path) -> Mapping[str, str]:
    """Write the private apt's configuration; returns the environment to run it in."""
    sources = distribution_sources(distribution, etc)
    if not sources:
        raise ImageMissingError(
            f"apt has no source for {distribution.name} {distribution.codename}", hint=f"see {etc}/sources.list.d"
        )
    for part in ("lists/partial", "archives/partial", "none/partial", "sources", "parts", "preferences.d"):
        (directory / part).mkdir(parents=True, exist_ok=True)
    for old in (directory / "sources").iterdir():
        old.unlink()
    for name, text in sources.items():
        (directory / "sources" / name).write_text(text)
    (directory / "status").write_text("")
    pins = [f"Package: *\nPin: release o={origin}\nPin-Priority: 500\n" for origin in distribution.origins]
    (directory / "preferences").write_text("\n".join([*pins, "Package: *\nPin: release o=*\nPin-Priority: -1\n"]))
    ours = {
        "APT::Architecture": ARCHITECTURES.get(architecture, architecture),
        "APT::Architectures": ARCHITECTURES.get(architecture, architecture),
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "Debug::NoLocking": "true",
        "Dir::Cache": f"{directory}/",
        "Dir::Cache::archives": f"{directory}/archives/",
        "Dir::Etc::preferences": f"{directory}/preferences",
        "Dir::Etc::preferencesparts": f"{directory}/preferences.d",
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": f"{directory}/sources",
        "Dir::State": f"{directory}/",
        "Dir::State::lists": f"{directory}/lists/",
        "Dir::State::status": f"{directory}/status",
        # the host's own parts are not read again: only how it reaches its mirrors counts
        "Dir::Etc::main": "/dev/null",
        "Dir::Etc::parts": f"{directory}/parts",
    }
    config = host_acquire() + "".join(f'{key} "{value}";\n' for key, value in ours.items())
    (directory / "apt.conf").write_text(config)
    return {
        **os.environ,
        "APT_CONFIG": str(directory / "apt.conf"),
        "LC_ALL": "C.UTF-8",
        "DEBIAN_FRONTEND": "noninteractive",
    }


def host_acquire() -> str:
    """How the host reaches its mirrors: proxies, certificates, time-outs, validity checks."""
    dump = subprocess.run(["apt-config", "dump"], check=True, capture_output=True, text=True, timeout=30).stdout
    lines = (line for line in dump.splitlines() if re.match(r"Acquire::(?!IndexTargets|Languages|Compression)", line))
    return "".join(f"{line}\n" for line in lines)


def _apt(arguments: list[str], environment: Mapping[str, str]) -> str:
    """Run apt-get; returns its standard output."""
    try:
        done = subprocess.run(
            ["apt-get", "-q", *arguments],
            check=False,
            capture_output=True,
            text=True,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            timeout=FETCH_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise ImageMissingError(f"apt-get {arguments[0]} took more than {FETCH_SECONDS} s") from error
    if done.returncode != 0:
        words = [line for line in (done.stderr + done.stdout).splitlines() if line.startswith(("E:", "W:"))]
        raise ImageMissingError(
            f"apt-get {arguments[0]}: {' '.join(words[:4]) or done.stderr[-400:]}",
            hint="images are made from the host's own apt sources: see that `apt-get update` works",
        )
    return done.stdout


def _files(listing: str) -> dict[str, str]:
    """File name → hash, of what `--print-uris` lists."""
    return dict(re.findall(r"^'[^']*' (\S+\.deb) \d+ (\S*)$", listing, re.MULTILINE))


def _checked(path: Path, proof: str, essential: bool) -> Package:
    """Hash a download and compare it with the hash of apt's signed list."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        header = file.read(68)
    if proof.startswith("SHA256:") and proof != f"SHA256:{digest}":
        path.unlink()
        raise ImageMissingError(f"{path.name} is damaged", hint="it was removed from the cache: try again")
    name, version, architecture = (unquote(part) for part in path.stem.split("_"))
    # ar(5): after the magic, the first member's name is 16 bytes and its time of making 12
    epoch = int(header[24:36])
    return Package(
        name=name,
        version=version,
        architecture=architecture,
        sha256=digest,
        epoch=epoch,
        essential=essential,
        path=path,
    )
