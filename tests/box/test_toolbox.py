"""The toolbox works in an image with nothing but busybox, takes nothing from it, and is whole or absent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from sandbox.build import read_back, throw_away
from sandbox.containers import ContainerSpec, session_labels
from sandbox.engine import ConflictError, Engine, ImageInfo
from sandbox.spec import Mount
from sandbox.toolbox import (
    KIND_LABEL,
    SERVER,
    TOOLBOX_ENVIRONMENT,
    TOOLBOX_PYTHON,
    TOOLBOX_QPDF,
    TOOLBOX_RG,
    Toolbox,
    ensure_toolbox,
    remove_stale,
)

pytestmark = [pytest.mark.box, pytest.mark.timeout(300)]

# Written by the toolbox's Python, since a busybox image has little else to write results with.
PYTHON = (*TOOLBOX_PYTHON, "-c")


def run(engine: Engine, image: ImageInfo, toolbox: Toolbox, code: str, prepare: str = "") -> str:
    """What Python code of the toolbox prints in a box of `image`, after a shell script there."""
    spec = ContainerSpec(
        image=image.id,
        command=("/bin/sh", "-c", f'{prepare}\nexec "$@" >/out 2>&1', "sh", *PYTHON, code),
        labels=session_labels("tests"),
        mounts=(toolbox.mount,),
        environment=TOOLBOX_ENVIRONMENT,
        capabilities=("DAC_OVERRIDE",),  # Podman's / is not its owner's to write
        read_only=False,
    )
    with throw_away(engine, spec) as container:
        engine.containers.start(container)
        engine.containers.wait(container, 120)
        return read_back(engine, container, "/out").decode()


def call(command: tuple[str, ...], *arguments: str) -> str:
    """Code that runs a program of the toolbox."""
    return f"import subprocess; subprocess.run({[*command, *arguments]!r})"


def test_python_finds_its_library_in_the_toolbox_and_nowhere_else(
    engine: Engine, busybox_image: ImageInfo, toolbox: Toolbox
) -> None:
    code = "import sys, json; print(json.dumps([sys.prefix, sys.path, sys.flags.isolated, sys.flags.no_site]))"
    prefix, path, isolated, no_site = json.loads(run(engine, busybox_image, toolbox, code))

    assert (prefix, isolated, no_site) == ("/opt/fumehood", 1, 1)
    assert path
    assert all(entry.startswith("/opt/fumehood/lib/") for entry in path)


def test_every_module_of_the_library_can_be_imported(
    engine: Engine, busybox_image: ImageInfo, toolbox: Toolbox
) -> None:
    code = (
        "import importlib, pkgutil, sys\n"
        "names = sorted(m.name for m in pkgutil.iter_modules() if m.name not in ('sandbox', 'antigravity', 'this'))\n"
        "bad = []\n"
        "for name in names:\n"
        "    try: importlib.import_module(name)\n"
        "    except Exception as error: bad.append((name, str(error)))\n"
        "print(len(names) > 200, bad)\n"
    )

    assert run(engine, busybox_image, toolbox, code) == "True []\n"


def test_ripgrep_and_qpdf_run_through_our_loader(engine: Engine, busybox_image: ImageInfo, toolbox: Toolbox) -> None:
    assert run(engine, busybox_image, toolbox, call(TOOLBOX_RG, "--version")).startswith("ripgrep ")
    assert run(
        engine, busybox_image, toolbox, call(TOOLBOX_RG, "-n", "b+", "/tmp/x"), "mkdir -p /tmp; echo abb >/tmp/x"
    ) == ("1:abb\n")
    assert run(engine, busybox_image, toolbox, call(TOOLBOX_QPDF, "--version")).startswith("qpdf version ")


def test_qpdf_reads_a_document(engine: Engine, busybox_image: ImageInfo, toolbox: Toolbox) -> None:
    code = (
        "import subprocess, json\n"
        f"qpdf = {list(TOOLBOX_QPDF)!r}\n"
        "subprocess.run([*qpdf, '--empty', '/tmp/empty.pdf'], check=True)\n"
        "print(json.loads(subprocess.run([*qpdf, '--json', '/tmp/empty.pdf'], capture_output=True).stdout)['pages'])\n"
    )

    assert run(engine, busybox_image, toolbox, code, "mkdir -p /tmp") == "[]\n"


def test_pillow_reads_and_writes_every_format_that_models_take(
    engine: Engine, busybox_image: ImageInfo, toolbox: Toolbox
) -> None:
    code = (
        "from PIL import Image\n"
        "import io\n"
        "for kind in ('PNG', 'JPEG', 'GIF', 'WEBP'):\n"
        "    buffer = io.BytesIO()\n"
        "    Image.new('RGB', (40, 30), 'red').save(buffer, kind)\n"
        "    print(kind, Image.open(io.BytesIO(buffer.getvalue())).resize((4, 3)).size)\n"
    )

    assert run(engine, busybox_image, toolbox, code) == "PNG (4, 3)\nJPEG (4, 3)\nGIF (4, 3)\nWEBP (4, 3)\n"


def test_server_code_is_this_checkouts_and_is_compiled(
    engine: Engine, busybox_image: ImageInfo, toolbox: Toolbox
) -> None:
    code = (
        "import os, sandbox.wire, sandbox.server as s, importlib.util as u\n"
        "print(os.path.realpath(sandbox.wire.__file__), os.path.exists(u.cache_from_source(sandbox.wire.__file__)))\n"
        f"print(sorted(n for n in os.listdir('{SERVER}') if n.endswith('.py')))\n"
        "print(open(sandbox.wire.__file__).read(), end='')\n"
    )
    where, names, source = run(engine, busybox_image, toolbox, code).split("\n", 2)
    server = Path(__file__).parents[2] / "sandbox/server"

    assert where == f"{SERVER}/sandbox/wire.py True"
    assert eval(names) == sorted(path.name for path in server.glob("*.py") if path.stem != "__init__")
    assert source == (server.parent / "wire.py").read_text()


@pytest.mark.parametrize("image", ["busybox_image", "plain_image", "base_image"])
def test_nothing_of_the_image_reaches_our_interpreter(
    engine: Engine, image: str, toolbox: Toolbox, request: pytest.FixtureRequest
) -> None:
    """A hostile image names libraries to preload, has its own cache of libraries and its own Python settings."""
    prepare = (
        "mkdir -p /etc /lib/evil; echo /lib/evil/evil.so >/etc/ld.so.preload; echo junk >/lib/evil/evil.so;"
        "echo junk >/etc/ld.so.cache; echo 'passwd: evil' >/etc/nsswitch.conf; export LC_ALL=C.UTF-8;"
        "export PYTHONHOME=/lib/evil PYTHONPATH=/lib/evil PYTHONSTARTUP=/lib/evil/x"
    )
    code = (
        "import sys, json, zlib, ssl, hashlib, pwd\n"
        "pwd.getpwall(); hashlib.sha256(b''); 'ü'.encode('cp1252'); print(sys.getfilesystemencoding())\n"
        "paths = {line.split()[-1] for line in open('/proc/self/maps') if '/' in line}\n"
        "print(sorted(p for p in paths if not p.startswith('/opt/fumehood/')))\n"
    )

    assert run(engine, request.getfixturevalue(image), toolbox, code, prepare) == "utf-8\n[]\n"


def test_toolbox_cannot_be_written_in_a_box(engine: Engine, busybox_image: ImageInfo, toolbox: Toolbox) -> None:
    code = "open('/opt/fumehood/server/x', 'w')"

    assert "Read-only file system" in run(engine, busybox_image, toolbox, code)


def no_progress(line: str) -> None:
    del line


@pytest.fixture
def other_toolbox(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Another digest, so that the toolbox of running tests stays alone; its volumes go afterwards."""
    name = "fumehood-toolbox-000000000000"
    monkeypatch.setattr("sandbox.toolbox.toolbox_digest", lambda parts, server: "0" * 64)
    yield name
    for volume in engine.volumes.list(f"{KIND_LABEL}={name}"):
        engine.volumes.remove(volume.name)


@pytest.mark.usefixtures("toolbox")
def test_partial_fill_is_never_taken_for_the_toolbox(
    engine: Engine, busybox_image: ImageInfo, image_cache: Path, other_toolbox: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies (or the engine does) while the volume is being filled."""

    class Died(BaseException):
        pass

    def die(_container: str, _timeout: float | None = None) -> int:
        raise Died

    with monkeypatch.context() as patched:
        patched.setattr(engine.containers, "wait", die)
        with pytest.raises(Died):
            ensure_toolbox(engine, base=busybox_image, cache=image_cache, progress=no_progress)
    left = engine.volumes.list(f"{KIND_LABEL}={other_toolbox}")

    made = ensure_toolbox(engine, base=busybox_image, cache=image_cache, progress=no_progress)

    assert left == []
    assert run(engine, busybox_image, made, "print(1)") == "1\n"


def test_volume_that_went_away_is_filled_again(
    engine: Engine, busybox_image: ImageInfo, toolbox: Toolbox, image_cache: Path, other_toolbox: str
) -> None:
    first = ensure_toolbox(engine, base=busybox_image, cache=image_cache, progress=no_progress)
    engine.volumes.remove(first.volume)
    engine.volumes.create(first.volume, options={}, labels={})  # as an engine does for a name it does not know

    second = ensure_toolbox(engine, base=busybox_image, cache=image_cache, progress=no_progress)
    engine.volumes.remove(first.volume)

    assert second.volume != first.volume
    assert run(engine, busybox_image, second, "print(1)") == "1\n"
    assert ensure_toolbox(engine, base=busybox_image, cache=image_cache, progress=no_progress) == second


def test_stale_toolboxes_go_but_never_one_in_use(
    engine: Engine, busybox_image: ImageInfo, toolbox: Toolbox, image_cache: Path, other_toolbox: str
) -> None:
    stale = ensure_toolbox(engine, base=busybox_image, cache=image_cache, progress=no_progress)
    keep = f"fumehood-toolbox-{toolbox.digest[:12]}"
    spec = ContainerSpec(
        image=busybox_image.id,
        command=("/bin/true",),
        labels=session_labels("tests"),
        mounts=(Mount(volume=stale.volume, at=PurePosixPath("/opt/fumehood"), read_only=True),),
    )

    def volumes() -> set[str]:
        return {volume.name for volume in engine.volumes.list(f"{KIND_LABEL}={other_toolbox}")}

    made = float(next(v.labels["fumehood.made"] for v in engine.volumes.list(f"{KIND_LABEL}={other_toolbox}")))
    remove_stale(engine, keep=keep, now=made + 60)
    assert volumes() == {other_toolbox, stale.volume}
    with throw_away(engine, spec):
        remove_stale(engine, keep=keep, now=made + 7200)
        assert volumes() == {stale.volume}
    remove_stale(engine, keep=keep, now=made + 7200)
    assert volumes() == set()
    assert engine.volumes.find(toolbox.volume) is not None
    assert replace(stale, digest="") != toolbox
    with pytest.raises(ConflictError), throw_away(engine, replace(spec, mounts=(toolbox.mount,))):
        engine.volumes.remove(toolbox.volume)
