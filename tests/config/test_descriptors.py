"""What to do where file descriptors run out."""

from __future__ import annotations

import errno

import pytest

from meshproxy.config.descriptors import cure


@pytest.mark.parametrize(
    ("number", "is_curable"),
    [(errno.EMFILE, True), (errno.ENFILE, False), (errno.ENOBUFS, False), (errno.ENOMEM, False), (-1, False)],
)
def test_only_the_limit_of_the_process_can_be_raised(number: int, is_curable: bool) -> None:
    assert ("(ulimit -n)" in cure(number)) is is_curable
