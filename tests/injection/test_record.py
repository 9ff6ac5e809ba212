from __future__ import annotations

import pytest

from meshproxy.injection.draft import Undo
from meshproxy.injection.record import read_record, write_record


def test_a_record_is_read_as_it_was_written() -> None:
    undo = Undo([("spec", "volumes")], {("spec", "containers", "a", "lifecycle"): "x: 1", ("metadata",): None})
    text = write_record(undo)
    assert "\n" not in text
    record = read_record(text)
    assert record.made == (("spec", "volumes"),)
    assert dict(record.was) == undo.was


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"version": "1", "made": [[1]], "was": []}'])
def test_what_is_no_record(text: str) -> None:
    with pytest.raises(ValueError):
        read_record(text)
