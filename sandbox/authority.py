"""A certificate authority of one session, for the hosts whose requests are looked into. Its keys live in this process's
memory only; its certificate lasts a day.
"""

from __future__ import annotations

import os
import ssl
from collections import OrderedDict
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sandbox.reachable import literal

LASTS = timedelta(days=1)
BEFORE = timedelta(minutes=5)  # a client's clock may be a little behind
KEPT = 256


class Authority:
    """`certificate`: in PEM, for the box to trust. `now`: when it begins to last."""

    def __init__(self, now: datetime) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._from, self._until = now - BEFORE, now + LASTS
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fumehood, one session")])
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=False,
            encipher_only=False,
            decipher_only=False,
        )
        made = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.certificate = made.public_bytes(Encoding.PEM)
        self._contexts: OrderedDict[str, ssl.SSLContext] = OrderedDict()

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._from)
            .not_valid_after(self._until)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )

    def context(self, host: str) -> ssl.SSLContext:
        """What a server of this host says to its clients: HTTP/1.1 over TLS 1.2 or later."""
        known = self._contexts.get(host)
        if known is not None:
            self._contexts.move_to_end(host)
            return known
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["http/1.1"])
        memory = os.memfd_create("certificate", os.MFD_CLOEXEC)  # a path for OpenSSL, and no file on any disk
        try:
            os.write(memory, self._chain(host))
            context.load_cert_chain(f"/proc/self/fd/{memory}")
        finally:
            os.close(memory)
        self._contexts[host] = context
        if len(self._contexts) > KEPT:
            self._contexts.popitem(last=False)
        return context

    def _chain(self, host: str) -> bytes:
        """Key and certificates in PEM."""
        address = literal(host)
        name = x509.DNSName(host) if address is None else x509.IPAddress(address)
        leaf = (
            self._builder(x509.Name([]), self._leaf_key.public_key())
            .add_extension(x509.SubjectAlternativeName([name]), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        key = self._leaf_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return key + leaf.public_bytes(Encoding.PEM) + self.certificate
