"""`fumehood images`: the images that boxes are made from."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated

import typer
from typer import Argument, Option

from runner import app as runner_app
from runner.cli.entry import say
from runner.cli.sessions import show_size
from runner.cli.values import split_rules

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="The images that boxes are made from.",
)


@app.command("list")
def list_images(as_json: Annotated[bool, Option("--json", help="One JSON array.")] = False) -> None:
    """List fumehood's images."""
    images = runner_app.images(os.environ)
    if as_json:
        rows = [{"id": i.id, "tags": i.tags, "size": i.size, "created": i.created, "layers": i.layers} for i in images]
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
        return
    if not images:
        sys.stdout.write("no images yet: the first run makes one, or `fumehood images build`\n")
    for image in images:
        names = ", ".join(image.tags) or image.id[:19]
        sys.stdout.write(f"{names}  {show_size(image.size)}  {image.created[:19]}\n")


@app.command("build")
def build_image(
    name: Annotated[str, Argument(help="A recipe of ours, or an image that the engine or a registry has.")] = "base",
    package: Annotated[list[str] | None, Option("--package", metavar="NAME", help="A Debian package to add.")] = None,
) -> None:
    """Make an image ready, with the toolbox that goes into every box."""
    image = runner_app.build_image(name, packages=split_rules(package or ()), environ=os.environ, progress=say)
    sys.stdout.write(f"{', '.join(image.tags) or image.id}  {show_size(image.size)}\n")
