"""What pages tell a reader to type: each command of meshproxy exists, with its options."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from meshproxy.cli.main import main
from tests import pages
from tests.docs.test_pages import PAGES, REPOSITORY, name

ENDS = {"|", "||", "&&", ";", "&", "(", ")", ">"}
BEFORE = {*ENDS, "--", "$", "do", "time"}


def commands(text: str) -> Iterator[list[str]]:
    """The words behind `meshproxy`, wherever a command begins: also in a container that kubectl or docker enters."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = [";", *lexer, ";"]
        for at, word in enumerate(words):
            if Path(word).name == "meshproxy" and (words[at - 1] in BEFORE or words[at - 2] == "exec"):
                rest = words[at + 1 :]
                yield rest[: next(end for end, each in enumerate(rest) if each in ENDS)]


def problems(words: list[str]) -> list[str]:
    """Commands and options that do not exist, and options that take a value and have another option behind them."""
    command: click.Command = main
    context = click.Context(main)
    found: list[str] = []
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if isinstance(command, click.Group) and not word.startswith("-"):
            known = command.get_command(context, word)
            if known is None:
                return [*found, f"no command {word} of {command.name}"]
            command = known
        elif word.startswith("-") and word != "-":
            option, _, value = word.partition("=")
            known_options = {
                name: each for each in command.get_params(context) for name in (*each.opts, *each.secondary_opts)
            }
            if option not in known_options:
                found.append(f"{command.name} has no option {option}")
            elif takes_value(known_options[option]) and not value and re.match("--?[a-z]", following):
                found.append(f"{option} of {command.name} lacks its value")
    return found


def takes_value(option: click.Parameter) -> bool:
    return isinstance(option, click.Option) and not (option.is_flag or option.count)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_and_options_exist(page: Path) -> None:
    for block in pages.blocks(page.read_text(), "sh", "console"):
        for words in commands(block.text):
            assert problems(words) == [], " ".join(words)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_those_in_sentences_exist(page: Path) -> None:
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text())
    for span in re.findall(r"`meshproxy ([^`|]*[^`|:])`", text):  # with a colon at its end it is something else
        assert problems(span.split()) == [], span


def test_what_lacks_its_value_is_found() -> None:
    assert problems(["stat", "--control", "--by", "caller"]) == ["--control of stat lacks its value"]
    assert problems(["stat", "--control", "HOST:PORT", "--by"]) == []  # an option that a sentence names only
    assert problems(["stat", "--control=HOST:PORT", "--by", "caller"]) == []
    assert problems(["check", "--pre", "--injector", "policy"]) == []


def test_what_does_not_exist_is_found() -> None:
    page = """\
$ kubectl exec a -c meshproxy -- meshproxy status --x=1 | meshproxy config chek -
for a in b; do meshproxy check \\
  --y; done
"""
    found = [problem for words in commands(page) for problem in problems(words)]
    assert found == ["status has no option --x", "no command chek of config", "check has no option --y"]
    assert list(commands("docker build --tag meshproxy .")) == []
    quickstart = (REPOSITORY / "docs" / "quickstart-kubernetes.md").read_text()
    typed = [words for block in pages.blocks(quickstart, "sh") for words in commands(block.text)]
    assert [words[0] for words in typed] == ["check", "install", "install", "proxy-status", "install"]
