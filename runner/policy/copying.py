"""Files that a command copies, moves, links or writes under another name: what runs under the new name later in the
same text is what the old one named. For deny and ask rules only, and only where the text itself says it.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, product

from runner.policy.words import Script, Simple, Word, names

_MOST = 64
_FIRST_WORDS = 6  # of a command, among which a copier may stand: `sudo -u x cp …`
_COPIERS = names("cp mv ln link install rsync scp gcp gmv gln ginstall dd enable")
_SHOWERS = names("cat head tail dd pv tac tee")


def copied(script: Script, texts: Callable[[str], Iterable[str]]) -> Iterator[tuple[str, Word]]:
    """The new name of a file, without its directory, and the word, without its directory too, that named it before.
    `texts`: what a word, as written, may expand to.
    """
    if not script.redirects and all(_COPIERS.isdisjoint(map(_base, s.words[:_FIRST_WORDS])) for s in script.simples):
        return
    for old, new in islice(_pairs(script), _MOST):
        sources, targets = (_named(word, texts) for word in (old, new))
        for source, target in islice(product(sources, targets), _MOST):
            if target.value and source.value and source.value != target.value:
                yield target.value, source


def _pairs(script: Script) -> Iterator[tuple[Word, Word]]:
    """Words that name an old file, each with one that may name the new one."""
    sources = [redirect.word for redirect in script.redirects if not redirect.writes]
    targets = [redirect.word for redirect in script.redirects if redirect.writes]
    for simple in script.simples:
        if (at := _at(simple, _SHOWERS)) is not None:
            (targets if simple.words[at].value == "tee" else sources).extend(_operands(simple, at))
        if (at := _at(simple, _COPIERS)) is not None:
            yield from _by(simple, at)
    yield from product(sources, targets)


def _at(simple: Simple, programs: frozenset[str]) -> int | None:
    """Where among the first words of a command one of these programs stands."""
    return next((at for at, word in enumerate(simple.words[:_FIRST_WORDS]) if _base(word) in programs), None)


def _base(word: Word) -> str:
    return (word.value or "").rpartition("/")[2]


def _operands(simple: Simple, at: int) -> list[Word]:
    return [word for word in simple.words[at + 1 :] if not word.source.startswith("-")]


def _by(simple: Simple, at: int) -> Iterator[tuple[Word, Word]]:
    program, operands = _base(simple.words[at]), _operands(simple, at)
    if program == "dd":
        said = [(word.value or "").partition("=") for word in operands]
        yield from product(
            [_word(value) for key, _, value in said if key == "if"],
            [_word(value) for key, _, value in said if key == "of"],
        )
    elif program == "enable" and len(operands) > 1:  # `enable -f FILE NAME …`: a builtin out of a file
        yield from product([_word((operands[0].value or "").removesuffix(".so"))], operands[1:])
    elif operands:
        yield from product(operands[:-1] or operands, operands[-1:])


def _named(word: Word, texts: Callable[[str], Iterable[str]]) -> Iterator[Word]:
    """What a word names, without directories; of one that is known only when it runs, all that it may be."""
    if word.value is not None:
        name = posixpath.basename(word.value.rstrip("/"))
        yield Word(source=name, value=name, glob=word.glob)
        return
    for text in texts(word.source):
        for part in text.split():
            yield _word(posixpath.basename(part.rstrip("/")))


def _word(text: str) -> Word:
    return Word(source=text, value=text)
