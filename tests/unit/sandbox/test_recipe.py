"""Recipes are data: what is in them is checked, and everything that shapes an image is in its digest."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sandbox.errors import ImageMissingError
from sandbox.recipe import RECIPES, Recipe, is_recipe, load_recipe, recipe_names


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    shutil.copy(RECIPES / "build.sh", tmp_path)
    return tmp_path


def write(directory: Path, text: str, name: str = "one") -> None:
    (directory / f"{name}.yaml").write_text(text)


def test_recipe_reads_every_field(recipes: Path) -> None:
    write(
        recipes,
        "version: 1\ndescription: words\nfrom: [debian:x]\npackages: [git]\ninstall: false\nkeep: [/a]\n"
        "exclude: [/b/*]\ninclude: [/b/c]\nlinks: {/d: e}\nenvironment: {F: g}\n",
    )

    recipe = load_recipe("one", directory=recipes)

    assert recipe == Recipe(
        name="one",
        description="words",
        packages=("git",),
        digest=recipe.digest,
        origins=("debian:x",),
        install=False,
        keep=("/a",),
        exclude=("/b/*",),
        include=("/b/c",),
        links={"/d": "e"},
        environment={"F": "g"},
    )
    assert recipe.tag == f"fumehood/one:{recipe.digest[:12]}"


@pytest.mark.parametrize(
    "text",
    [
        "version: 2\n",
        "[]\n",
        "version: 1\nrun: rm -rf /\n",
        "version: 1\npackages: git\n",
        "version: 1\npackages: [1]\n",
        "version: 1\nlinks: {a: 1}\n",
        "version: 1\npackages: ['-oDir=/']\n",
        "version: 1\npackages: [Git]\n",
    ],
)
def test_recipe_that_says_something_unknown_is_refused(recipes: Path, text: str) -> None:
    write(recipes, text)

    with pytest.raises(ImageMissingError):
        load_recipe("one", directory=recipes)


@pytest.mark.parametrize("name", ["--force", "a b", "git;id", "GIT", "../x", "", "git=1", "?essential", "git\n"])
def test_package_names_that_apt_could_take_for_something_else_are_refused(name: str) -> None:
    with pytest.raises(ImageMissingError, match="not the name of a package"):
        load_recipe("base", packages=(name,))


def test_the_order_of_added_packages_does_not_make_another_image(recipes: Path) -> None:
    assert load_recipe("base", packages=("gcc", "g++")) == load_recipe("base", packages=("g++", "gcc", "git"))


def test_digest_covers_the_recipe_its_packages_and_the_build_script(recipes: Path) -> None:
    write(recipes, "version: 1\n")
    digests = [
        load_recipe("one", directory=recipes).digest,
        load_recipe("one", packages=("a",), directory=recipes).digest,
    ]
    write(recipes, "version: 1\ndescription: other\n")
    digests.append(load_recipe("one", directory=recipes).digest)
    (recipes / "build.sh").write_text("other")
    digests.append(load_recipe("one", directory=recipes).digest)

    assert len(set(digests)) == 4


def test_included_paths_win_over_excluded_ones() -> None:
    recipe = load_recipe("base")

    assert recipe.wants("/usr/bin/git")
    assert not recipe.wants("/usr/share/man/man1/git.1.gz")
    assert recipe.wants("/usr/share/doc/git/copyright")
    assert not recipe.wants("/usr/share/doc/git/README.gz")


def test_names_of_images_are_not_taken_for_recipes() -> None:
    assert is_recipe("base")
    assert not any(map(is_recipe, ("debian:12", "../images/base", "", "base:latest", "fumehood/base", "nothing")))


def test_every_shipped_recipe_can_be_read() -> None:
    assert {"base", "busybox", "plain", "toolbox"} <= set(recipe_names())
    assert all(load_recipe(name).description for name in recipe_names())


def test_base_holds_what_the_readme_promises_and_no_compiler() -> None:
    packages = load_recipe("base").packages

    assert {"git", "ripgrep", "python3", "ca-certificates", "tzdata"} <= set(packages)
    assert not {"gcc", "build-essential", "clang", "g++"} & set(packages)
    assert load_recipe("base").environment["LANG"] == "C.UTF-8"
