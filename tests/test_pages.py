from __future__ import annotations

import pytest

from tests.pages import Block, are_lines_as_shown, blocks, is_as_shown, prompted, section

PAGE = """\
# A page

## First

```sh
one
```

```text
1 …
```

## Second part

```yaml
# file.yaml
a: 1
```

```sh
two
```

It prints nothing.

```text
no output
```

```console
$ three \\
    four
34
$ five
```
"""


def test_blocks() -> None:
    sh = [Block("sh", "one\n", "1 …\n"), Block("sh", "two\n")]
    assert blocks(PAGE, "sh") == sh
    assert [block.file for block in blocks(PAGE, "sh", "yaml")] == [None, "file.yaml", None]
    assert blocks(section(PAGE, "First"), "sh") == sh[:1]
    assert blocks(section(PAGE, "Second part"), "sh") == sh[1:]
    with pytest.raises(ValueError, match="no section Third"):
        section(PAGE, "Third")


def test_prompted_commands() -> None:
    assert prompted(PAGE) == [Block("sh", "three     four", "34\n"), Block("sh", "five", "")]


@pytest.mark.parametrize(
    ("shown", "printed", "expected"),
    [
        ("a  b\n", "a b", True),
        ("…\nb", "several\nlines\nb\n", True),
        ("pod-…  2/2  Running", "pod-5fd    2/2   Running\n", True),
        ("pod-… 2/2", "pod-5fd 1/2", False),
        ("[1]", "1", False),
        ("403", "403\nmore", False),
    ],
)
def test_comparison(shown: str, printed: str, expected: bool) -> None:
    assert is_as_shown(shown, printed) is expected


def test_comparison_by_lines() -> None:
    assert are_lines_as_shown("a …\n\nb\na …\n", "b\nmore\na 1\n")
    assert not are_lines_as_shown("a …\nc …\n", "b\na 1\n")
