"""The identities of a benchmark: one CA, a server, a client, one token; created for each run and deleted after it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.devtools.issuer import DevelopmentIssuer

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
    """Writes everything that peers and load need into a folder. P-256 certificates, an RS256 token of 2,048 bits."""
    authority = DevelopmentCA.create(TRUST_DOMAIN)
    authority.write(folder)
    authority.issue(SERVER_ID, dns=("localhost",)).write(folder, "server")
    authority.issue(CLIENT_ID).write(folder, "client")
    issuer = DevelopmentIssuer(ISSUER, audience=AUDIENCE, algorithm="RS256")
    (folder / "jwks.json").write_text(json.dumps(issuer.jwks()))
    token = issuer.token(
        "quoter@bench.example",
        expires_in=86_400,
        jti="5c1f0e9e-6d0a-4a55-8f3b-6f1c2f8b6d10",
        azp="quoter",
        groups=[GROUP, "pricing", "staff"],
    )
    return Credentials(folder, token)
