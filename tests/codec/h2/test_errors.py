"""Error codes as RFC 9113 section 7 numbers them."""

from __future__ import annotations

import h2.errors

from meshproxy.codec.h2.errors import ConnectionFault, ErrorCode, StreamFault


def test_codes_are_those_of_everyone_else() -> None:
    assert {code.name: code.value for code in ErrorCode} == {code.name: code.value for code in h2.errors.ErrorCodes}


def test_faults_say_what_they_are_about() -> None:
    fault = ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too much", "control_rate")
    assert (fault.code, fault.reason, fault.limit, fault.is_of_peer) == (11, "too much", "control_rate", False)
    broken = StreamFault(5, ErrorCode.STREAM_CLOSED, "late")
    assert (broken.stream, broken.code, str(broken)) == (5, 5, "late")
