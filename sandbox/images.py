"""Images by name: found in the engine, loaded from the cache, pulled, or made from a recipe.

A recipe's image has a tag with the digest of all that shapes it, so asking for one that is there
costs one request. `sandbox.build` makes what is not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sandbox.build import Made, make_layer, read_file, registry_gives
from sandbox.containers import LABEL
from sandbox.dataclass import dataclass
from sandbox.engine import Engine, ImageInfo
from sandbox.errors import EngineRefusedError, ImageMissingError
from sandbox.locking import locked
from sandbox.recipe import Recipe, is_recipe, load_recipe, plain_digest, tag_of

RECORD_VERSION = 1
RECIPE_LABEL = "fumehood.recipe"
IMAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """What the cache knows of a layer: `layer` is the digest that engines give it; `source` where it
    came from; `packages` one line each with version, architecture and hash. On disk as JSON.
    """

    name: str
    recipe: str
    architecture: str
    layer: str
    size: int
    source: str
    epoch: int
    packages: tuple[str, ...]
    environment: dict[str, str]
    version: int = RECORD_VERSION


def ensure_image(
    engine: Engine,
    name: str,
    *,
    packages: tuple[str, ...] = (),
    cache: Path,
    progress: Callable[[str], None],
) -> ImageInfo:
    """The image to start a box from. `name`: a recipe (`base`), or any image that the engine has or
    can pull. `packages` are added to a recipe. `cache`: fumehood's cache directory.

    One request when the image is there; up to some minutes when it has to be made. Raises
    ImageMissingError with a hint.
    """
    if not is_recipe(name):
        return _foreign_image(engine, name, packages, progress)
    if not packages and (image := engine.images.find(tag_of(name, plain_digest(name)))) is not None:
        return image
    recipe = load_recipe(name, packages=packages)
    return engine.images.find(recipe.tag) or build_image(engine, recipe, cache=cache, progress=progress)


def build_image(
    engine: Engine,
    recipe: Recipe,
    *,
    cache: Path,
    progress: Callable[[str], None],
    again: bool = False,
    registry: bool = True,
) -> ImageInfo:
    """Make the recipe's image, or load it from the cache; with `again`, from today's packages.

    Processes that ask for it at the same time wait for the first. `registry`: whether one may be
    asked.
    """
    directory = cache / "images"
    stem = directory / f"{recipe.name}-{recipe.digest[:12]}-{engine.info.architecture}"
    with locked(directory / "lock", shared=True), locked(stem.with_suffix(".lock")):
        if not again and (found := engine.images.find(recipe.tag)):
            return found
        record = None if again else _read_record(stem)
        if record is not None and (image := _load(engine, recipe, record, stem)):
            return image
        progress(f"making the image {recipe.tag}")
        made = make_layer(
            engine,
            recipe,
            out=stem.with_suffix(".part"),
            downloads=cache / "packages",
            registry=registry,
            progress=progress,
        )
        record = _keep(recipe, made, stem, engine.info.architecture)
        progress("loading it into the engine")
        image = _load(engine, recipe, record, stem)
        if image is None:
            raise EngineRefusedError(f"the engine gave the layer of {recipe.tag} another digest than {record.layer}")
        progress(f"{recipe.tag} is ready: {image.size >> 20} MB")
        return image


def list_images(engine: Engine) -> tuple[ImageInfo, ...]:
    """The images of our recipes that the engine has, newest first."""
    found = (image for image in engine.images.list(RECIPE_LABEL) if image.labels[RECIPE_LABEL])  # blank in a session's
    return tuple(sorted(found, key=lambda image: image.created, reverse=True))


def _foreign_image(engine: Engine, name: str, packages: tuple[str, ...], progress: Callable[[str], None]) -> ImageInfo:
    """An image that is not ours: as the engine has it, else pulled."""
    if packages:
        raise ImageMissingError(
            f"packages cannot be added to {name}", hint="only images of our own recipes are built with network"
        )
    if not IMAGE_NAME.fullmatch(name):
        raise ImageMissingError(f"{name!r} is not the name of an image", hint="such as `base` or `debian:12`")
    if found := engine.images.find(name):
        return found
    missing = ImageMissingError(
        f"the engine has no image {name}, and no registry gives it",
        hint="`fumehood images list` shows what is there; `base` is made where it is missing",
    )
    if not registry_gives(engine, name, certain=True):
        raise missing
    progress(f"pulling {name}")
    try:
        return engine.images.pull(name)
    except ImageMissingError as error:
        raise missing from error


def _keep(recipe: Recipe, made: Made, stem: Path, architecture: str) -> ImageRecord:
    """Move a finished layer to its place in the cache; the record, written last, makes it count."""
    record = ImageRecord(
        name=recipe.name,
        recipe=recipe.digest,
        architecture=architecture,
        layer=made.layer.digest,
        size=made.layer.size,
        source=made.source,
        epoch=made.epoch,
        packages=made.packages,
        environment=dict(recipe.environment),
    )
    _record_path(stem).unlink(missing_ok=True)
    made.layer.path.rename(_layer_path(stem))
    part = stem.with_suffix(".record")
    part.write_text(json.dumps(asdict(record), indent=1) + "\n")
    part.rename(_record_path(stem))
    return record


def _load(engine: Engine, recipe: Recipe, record: ImageRecord, stem: Path) -> ImageInfo | None:
    """Import a cached layer. None, and the cache entry is gone, when it is not what the record says."""
    labels = {
        LABEL: "1",
        RECIPE_LABEL: record.name,
        "fumehood.digest": record.recipe,
        "fumehood.source": record.source,
        "fumehood.packages": "; ".join(record.packages),
    }
    changes = tuple(f"ENV {json.dumps(key)}={json.dumps(value)}" for key, value in record.environment.items())
    repository, _, tag = recipe.tag.partition(":")
    image = engine.images.load_tar(
        read_file(_layer_path(stem)), repository=repository, tag=tag, labels=labels, changes=changes
    )
    if image.layers == (record.layer,):
        return image
    engine.images.remove(image.id)
    _record_path(stem).unlink(missing_ok=True)
    return None


def _read_record(stem: Path) -> ImageRecord | None:
    """The cache's record, None where there is none that we can read."""
    try:
        data: dict[str, Any] = json.loads(_record_path(stem).read_text())
        record = ImageRecord(**data | {"packages": tuple(data["packages"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return record if record.version == RECORD_VERSION and _layer_path(stem).is_file() else None


def _layer_path(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.tar.gz")


def _record_path(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.json")
