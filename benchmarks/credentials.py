"""Who is who in a benchmark: one CA, a server, a client, one token; made anew for every run, never kept."""

from __future__ import annotations

import datetime
import ipaddress
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from pathlib import Path

TRUST_DOMAIN = "bench.example"
CLIENT_ID = f"spiffe://{TRUST_DOMAIN}/ns/pricing/sa/quoter"
SERVER_ID = f"spiffe://{TRUST_DOMAIN}/ns/serving/sa/models"
ISSUER = "https://login.bench.example"
AUDIENCE = "models"
GROUP = "finance"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Files of one run."""

    folder: Path
    token: str

    @property
    def bundle(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def jwks(self) -> Path:
        return self.folder / "jwks.json"

    def certificate(self, who: str) -> Path:
        """`who` is `server` or `client`."""
        return self.folder / f"{who}.pem"

    def key(self, who: str) -> Path:
        return self.folder / f"{who}-key.pem"


def make_credentials(folder: Path) -> Credentials:
    """Writes everything that peers and load need into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.UTC)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "benchmark CA")])

    def builder(subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        )

    def usage(*, signs_certificates: bool) -> x509.KeyUsage:
        return x509.KeyUsage(
            digital_signature=not signs_certificates,
            key_cert_sign=signs_certificates,
            crl_sign=signs_certificates,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )

    ca = (
        builder(ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    (folder / "ca.pem").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    for who, spiffe_id in (("server", SERVER_ID), ("client", CLIENT_ID)):
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(spiffe_id)]
        if who == "server":
            names += [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        certificate = (
            builder(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "benchmark")]), key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([x509.OID_SERVER_AUTH, x509.OID_CLIENT_AUTH])
                if hasattr(x509, "OID_SERVER_AUTH")
                else x509.ExtendedKeyUsage(
                    [x509.oid.ExtendedKeyUsageOID.SERVER_AUTH, x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH]
                ),
                critical=False,
            )
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        (folder / f"{who}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (folder / f"{who}-key.pem").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    signer = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(signer.public_key()))
    (folder / "jwks.json").write_text(json.dumps({"keys": [public | {"kid": "k1", "use": "sig", "alg": "RS256"}]}))
    issued = int(time.time())
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "quoter@bench.example",
        "iat": issued,
        "nbf": issued,
        "exp": issued + 86_400,
        "jti": "5c1f0e9e-6d0a-4a55-8f3b-6f1c2f8b6d10",
        "azp": "quoter",
        "groups": [GROUP, "pricing", "staff"],
    }
    token = jwt.encode(claims, signer, algorithm="RS256", headers={"kid": "k1", "typ": "at+jwt"})
    return Credentials(folder, token)
