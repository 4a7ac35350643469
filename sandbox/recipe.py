"""Image recipes: what `images/*.yaml` say, and the digest that names what they make.

A recipe is data. Making an image of it is `sandbox.images`' work.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Mapping
from dataclasses import field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from sandbox.dataclass import dataclass
from sandbox.errors import ImageMissingError

RECIPES = Path(__file__).resolve().parent.parent / "images"
RECIPE_VERSION = 1
PACKAGE_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]*")
RECIPE_NAME = re.compile(r"[a-z][a-z0-9-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One image. `origins`: registry images to begin from, tried in order where a registry answers.
    `install`: packages are installed with all that Debian calls essential; else their files are
    only unpacked. `keep`: the only paths that stay (empty: all). `exclude` and `include`: dpkg's
    path filters, `include` wins. `links`: path → target. `digest`: hex sha256 of everything that
    shapes the image but the versions of the packages.
    """

    name: str
    description: str
    packages: tuple[str, ...]
    digest: str
    origins: tuple[str, ...] = ()
    install: bool = True
    keep: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def tag(self) -> str:
        """`repository:tag` of the image in an engine."""
        return tag_of(self.name, self.digest)

    def wants(self, path: str) -> bool:
        """Whether an absolute path of a package belongs in the image."""
        if self.keep:
            return path in self.keep
        if any(fnmatchcase(path, pattern) for pattern in self.include):
            return True
        return not any(fnmatchcase(path, pattern) for pattern in self.exclude)


def recipe_names(directory: Path = RECIPES) -> tuple[str, ...]:
    """The recipes that are there, sorted."""
    return tuple(sorted(path.stem for path in directory.glob("*.yaml")))


def is_recipe(name: str, directory: Path = RECIPES) -> bool:
    """Whether `name` means one of our recipes rather than an image of the engine."""
    return RECIPE_NAME.fullmatch(name) is not None and (directory / f"{name}.yaml").is_file()


def load_recipe(name: str, *, packages: tuple[str, ...] = (), directory: Path = RECIPES) -> Recipe:
    """Read a recipe and add `packages` to it. The same extra packages in any order are one image.

    Raises ImageMissingError for an unknown recipe, a field or version we do not know, or a package
    name outside `[a-z0-9][a-z0-9+.-]*`.
    """
    if not is_recipe(name, directory):
        raise ImageMissingError(f"no recipe {name!r}", hint=f"recipes: {', '.join(recipe_names(directory))}")
    text = (directory / f"{name}.yaml").read_bytes()
    yaml = importlib.import_module("yaml")  # 20-40 ms, which a start with everything there does not pay
    recipe = _parse(name, yaml.safe_load(text))
    for package in (*recipe.packages, *packages):
        if not PACKAGE_NAME.fullmatch(package):
            raise ImageMissingError(
                f"{package!r} is not the name of a package", hint="lower-case letters, digits and + . - only"
            )
    extra = tuple(sorted(set(packages) - set(recipe.packages)))
    return replace(recipe, packages=recipe.packages + extra, digest=_shape(text, extra, directory))


def plain_digest(name: str, directory: Path = RECIPES) -> str:
    """The digest of a recipe as it stands, without extra packages; nothing is parsed. OSError when there is none."""
    return _shape((directory / f"{name}.yaml").read_bytes(), (), directory)


def tag_of(name: str, digest: str) -> str:
    """`repository:tag` of a recipe's image in an engine."""
    return f"fumehood/{name}:{digest[:12]}"


def _shape(text: bytes, extra: tuple[str, ...], directory: Path) -> str:
    """Hex sha256 of all that shapes an image but the versions of its packages."""
    shape = hashlib.sha256(text)
    shape.update((directory / "build.sh").read_bytes())
    shape.update(" ".join(extra).encode())
    return shape.hexdigest()


def _parse(name: str, data: Any) -> Recipe:
    """Turn YAML into a Recipe without a digest; refuse what we do not know."""
    if not isinstance(data, dict) or data.get("version") != RECIPE_VERSION:
        raise ImageMissingError(f"recipe {name}: not of version {RECIPE_VERSION}")
    if unknown := set(data) - {"version", "description", "install", *_LISTS, *_MAPPINGS}:
        raise ImageMissingError(f"recipe {name}: unknown fields {', '.join(sorted(map(str, unknown)))}")
    for key in _LISTS:
        if not _all_text(data.get(key, []), list):
            raise ImageMissingError(f"recipe {name}: {key} is not a list of words")
    for key in _MAPPINGS:
        if not _all_text(data.get(key, {}), dict):
            raise ImageMissingError(f"recipe {name}: {key} does not map words to words")
    return Recipe(
        name=name,
        description=str(data.get("description", "")),
        packages=tuple(data.get("packages", ())),
        digest="",
        origins=tuple(data.get("from", ())),
        install=bool(data.get("install", True)),
        keep=tuple(data.get("keep", ())),
        exclude=tuple(data.get("exclude", ())),
        include=tuple(data.get("include", ())),
        links=dict(data.get("links", {})),
        environment=dict(data.get("environment", {})),
    )


_LISTS = ("from", "packages", "keep", "exclude", "include")
_MAPPINGS = ("links", "environment")


def _all_text(value: Any, kind: type) -> bool:
    """Whether value is a list, or a dict, of nothing but strings."""
    if not isinstance(value, list | dict) or not isinstance(value, kind):
        return False
    items = [*value, *value.values()] if isinstance(value, dict) else value
    return all(isinstance(item, str) for item in items)
