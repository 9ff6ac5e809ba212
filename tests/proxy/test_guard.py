"""A guarded callback never raises: its object is told instead."""

from __future__ import annotations

import inspect

import pytest

from meshproxy.proxy.guard import guarded
from meshproxy.refusal import Reason, Refusal


class Called:
    def __init__(self) -> None:
        self.errors: list[Exception] = []
        self.heard: list[tuple[int, str]] = []

    @guarded
    def callback(self, number: int, *, word: str = "a") -> None:
        """What it does."""
        if number < 0:
            raise ValueError(number)
        self.heard.append((number, word))

    @guarded
    def refusing(self) -> None:
        raise Refusal(Reason.OVERLOADED, "no")

    @guarded
    def cancelled(self) -> None:
        raise KeyboardInterrupt

    def crashed(self, error: Exception) -> None:
        self.errors.append(error)


def test_arguments_are_passed_on() -> None:
    called = Called()
    called.callback(1)
    called.callback(number=2, word="b")
    assert (called.heard, called.errors) == ([(1, "a"), (2, "b")], [])


def test_what_it_raises_goes_to_crashed() -> None:
    called = Called()
    called.callback(-1)
    called.refusing()
    assert [type(error) for error in called.errors] == [ValueError, Refusal]


def test_what_is_no_exception_of_a_request_is_not_kept() -> None:
    """KeyboardInterrupt and the like end the process, not a request."""
    called = Called()
    with pytest.raises(KeyboardInterrupt):
        called.cancelled()
    assert called.errors == []


def test_it_looks_like_what_it_guards() -> None:
    assert Called.callback.__name__ == "callback"
    assert Called.callback.__doc__ == "What it does."
    assert list(inspect.signature(Called.callback).parameters) == ["self", "number", "word"]
