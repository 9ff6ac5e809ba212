"""Messages between versions."""

from __future__ import annotations

import msgspec

from meshproxy.control_api import IssueRequest, IssueResponse


def test_messages_are_json_that_others_can_read() -> None:
    assert msgspec.json.encode(IssueRequest(b"\x00\xff", "t")) == b'{"csr":"AP8=","join_token":"t"}'
    assert msgspec.json.decode(b'{"csr":"AP8="}', type=IssueRequest) == IssueRequest(b"\x00\xff")


def test_members_of_later_versions_are_ignored() -> None:
    message = b'{"certificate":"c","roots":"r","later":[1]}'
    assert msgspec.json.decode(message, type=IssueResponse) == IssueResponse("c", "r")
