"""What sidecars and control planes of version 0.1 send and read. It is never changed, whatever `control_api` becomes.
When 0.3 is made, and 0.1 need not be understood any more, it is replaced by what 0.2 sends."""

from __future__ import annotations

import msgspec

ISSUE = b"/meshproxy.control.v1alpha1.Identity/Issue"
WATCH = b"/meshproxy.control.v1alpha1.Documents/Watch"

ISSUE_REQUEST = b'{"csr":"MIHs","join_token":"mpj1-x"}'
ISSUE_RESPONSE = b'{"certificate":"-----BEGIN CERTIFICATE-----\\n","roots":"-----BEGIN CERTIFICATE-----\\n"}'
SIDECAR_REPORT = (
    b'{"sidecar":"resnet","software":"0.1.0","version":"a1","refused":"b2","problems":["mesh.yaml:3: no such server"]}'
)
DOCUMENT_SET = b'{"version":"a1","text":"kind: MeshConfig\\n"}'


class IssueRequest(msgspec.Struct, frozen=True):
    csr: bytes
    join_token: str = ""


class IssueResponse(msgspec.Struct, frozen=True):
    certificate: str
    roots: str


class SidecarReport(msgspec.Struct, frozen=True):
    sidecar: str
    software: str = ""
    version: str = ""
    refused: str = ""
    problems: tuple[str, ...] = ()


class DocumentSet(msgspec.Struct, frozen=True):
    version: str
    text: str
