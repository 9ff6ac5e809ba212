"""Children of any module; `test_child` has more of their failures."""

from __future__ import annotations

import sys

import pytest

from meshproxy.config.child_process import ChildFailed, Task, output_of

VERSION = Task("platform", "the process that tells the platform", "telling the platform")


async def test_what_a_module_writes() -> None:
    assert sys.platform in (await output_of(VERSION, seconds=30.0)).decode().lower()


async def test_arguments_are_passed_on() -> None:
    compiling = Task("py_compile", "the process that compiles", "compiling")
    with pytest.raises(ChildFailed, match="the process that compiles exited with status 1"):
        await output_of(compiling, ["/nowhere.py"], seconds=30.0)


async def test_one_that_takes_too_long() -> None:
    with pytest.raises(ChildFailed, match="telling the platform took longer than 0 s"):
        await output_of(VERSION, seconds=0.0)
