"""Signatures of policy files in minisign's form (Ed25519; https://jedisct1.github.io/minisign/): made, checked, and
the keys they are made with. Both kinds are read, the prehashed one (`ED`, BLAKE2b-512) is written.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from importlib import import_module
from typing import Any

from runner.dataclass import dataclass
from runner.errors import UsageError

UNTRUSTED, TRUSTED = "untrusted comment: ", "trusted comment: "
_PLAIN, _HASHED = b"Ed", b"ED"
_SCRYPT, _BLAKE, _NO_KDF = b"Sc", b"B2", b"\0\0"
# Of `minisign -G`: opslimit 2^25, memlimit 2^30, which libsodium turns into these.
_OPS, _MEMORY = 1 << 25, 1 << 30
_MOST_N = 1 << 20


class SignatureError(ValueError):
    """A signature or key that does not hold; the message says why."""


class UnknownKeyError(SignatureError):
    """A signature by a key that is not among those asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """A pinned key. `id`: eight bytes that the signature names too."""

    id: bytes
    raw: bytes

    @property
    def name(self) -> str:
        """The id as minisign shows it."""
        return self.id[::-1].hex().upper()

    def text(self) -> str:
        """As a `.pub` file."""
        return f"{UNTRUSTED}fumehood policy key {self.name}\n{_encoded(_PLAIN + self.id + self.raw)}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretKey:
    """The other half. `seed`: 32 bytes."""

    id: bytes
    seed: bytes

    @property
    def public(self) -> PublicKey:
        """The key to pin."""
        key = _ed25519().Ed25519PrivateKey.from_private_bytes(self.seed).public_key()
        return PublicKey(id=self.id, raw=key.public_bytes_raw())

    def sign(self, data: bytes, comment: str) -> str:
        """The text of a `.minisig` file. `comment` is covered by the signature; one line."""
        if "\n" in comment or "\r" in comment:
            raise UsageError("the comment of a signature is one line")
        private = _ed25519().Ed25519PrivateKey.from_private_bytes(self.seed)
        signature = private.sign(hashlib.blake2b(data).digest())
        whole = private.sign(signature + comment.encode())
        return (
            f"{UNTRUSTED}signature by fumehood policy key {self.public.name}\n"
            f"{_encoded(_HASHED + self.id + signature)}\n{TRUSTED}{comment}\n{_encoded(whole)}\n"
        )

    def text(self) -> str:
        """As a secret key file without a password: the file's mode protects it."""
        raw = self.seed + self.public.raw
        check = hashlib.blake2b(_PLAIN + self.id + raw, digest_size=32).digest()
        head = _PLAIN + _NO_KDF + _BLAKE + bytes(32) + bytes(16)
        return f"{UNTRUSTED}fumehood policy secret key\n{_encoded(head + self.id + raw + check)}\n"


def new_key() -> SecretKey:
    """A random key."""
    return SecretKey(id=secrets.token_bytes(8), seed=secrets.token_bytes(32))


def public_keys(text: str) -> tuple[PublicKey, ...]:
    """The keys of one or several `.pub` files, one behind the other. Raises SignatureError where a line is no key,
    or where there is none.
    """
    lines = [line.strip() for line in text.splitlines()]
    found = [_public(line) for line in lines if line and not line.startswith((UNTRUSTED.strip(), "#"))]
    if not found:
        raise SignatureError("holds no key")
    return tuple(found)


def _public(line: str) -> PublicKey:
    data = _decoded(line, 42, "a public key")
    if data[:2] != _PLAIN:
        raise SignatureError("holds a key of an unknown kind")
    return PublicKey(id=data[2:10], raw=data[10:])


def secret_key(text: str, password: bytes = b"") -> SecretKey:
    """A secret key file of minisign's or ours. Raises SignatureError for a wrong password, or for what is none."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) != 2:
        raise SignatureError("is no secret key file")
    data = _decoded(lines[1], 158, "a secret key")
    kind, kdf, check, salt, rest = data[:2], data[2:4], data[4:6], data[6:38], data[54:]
    ops, memory = int.from_bytes(data[38:46], "little"), int.from_bytes(data[46:54], "little")
    if kind != _PLAIN or check != _BLAKE or kdf not in (_SCRYPT, _NO_KDF):
        raise SignatureError("is a secret key of an unknown kind")
    if kdf == _SCRYPT:
        mask = _scrypt(password, salt, ops, memory, len(rest))
        rest = bytes(a ^ b for a, b in zip(rest, mask, strict=True))
    number, raw, held = rest[:8], rest[8:72], rest[72:]
    unchecked = kdf == _NO_KDF and held == bytes(32)  # minisign 0.11 writes no checksum there
    if not unchecked and hashlib.blake2b(kind + number + raw, digest_size=32).digest() != held:
        raise SignatureError("cannot be opened: the password is wrong, or the file is damaged")
    return SecretKey(id=number, seed=raw[:32])


def needs_password(text: str) -> bool:
    """Whether a secret key file is locked by one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return len(lines) == 2 and _decoded(lines[1], 158, "a secret key")[2:4] == _SCRYPT


def _scrypt(password: bytes, salt: bytes, ops: int, memory: int, length: int) -> bytes:
    """With the parameters that libsodium picks for these limits (crypto_pwhash_scryptsalsa208sha256, pickparams)."""
    r, ops = 8, max(ops, 32768)
    if ops < memory // 32:
        p, most = 1, ops // (r * 4)
    else:
        p, most = 0, memory // (r * 128)
    log = next(n for n in range(1, 63) if 1 << n > most // 2)
    if 1 << log > _MOST_N:
        raise SignatureError("asks for more memory than a secret key may")
    p = p or min(ops // 4 // (1 << log), 0x3FFFFFFF) // r
    return hashlib.scrypt(password, salt=salt, n=1 << log, r=r, p=p, maxmem=(2 << 30) - 1, dklen=length)


def verify(data: bytes, signature: str, keys: tuple[PublicKey, ...]) -> str:
    """The trusted comment of a signature of `data` by one of the keys. Raises SignatureError."""
    lines = signature.splitlines()
    if len(lines) != 4 or not lines[0].startswith(UNTRUSTED) or not lines[2].startswith(TRUSTED):
        raise SignatureError("is no signature in minisign's form")
    made, whole = _decoded(lines[1], 74, "a signature"), _decoded(lines[3], 64, "a signature")
    kind, number, raw = made[:2], made[2:10], made[10:]
    key = next((key for key in keys if key.id == number), None)
    if key is None:
        raise UnknownKeyError(f"is by key {number[::-1].hex().upper()}, which is not pinned")
    if kind not in (_PLAIN, _HASHED):
        raise SignatureError("is of an unknown kind")
    comment = lines[2].removeprefix(TRUSTED)
    public = _ed25519().Ed25519PublicKey.from_public_bytes(key.raw)
    try:
        public.verify(raw, hashlib.blake2b(data).digest() if kind == _HASHED else data)
        public.verify(whole, raw + comment.encode())
    except import_module("cryptography.exceptions").InvalidSignature as error:
        raise SignatureError("does not fit the file") from error
    return comment


def _decoded(line: str, size: int, what: str) -> bytes:
    try:
        data = base64.b64decode(line.strip(), validate=True)
    except binascii.Error as error:
        raise SignatureError(f"holds {what} that is no base64") from error
    if len(data) != size:
        raise SignatureError(f"holds {what} of {len(data)} bytes, not {size}")
    return data


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _ed25519() -> Any:
    """60 ms to import, and only where a key is pinned or used."""
    return import_module("cryptography.hazmat.primitives.asymmetric.ed25519")
