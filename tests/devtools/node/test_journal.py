from __future__ import annotations

from meshproxy.devtools.node.journal import Journal


def test_the_end_of_a_pod() -> None:
    now = 0.0
    journal = Journal(lambda: now)
    journal.note("shop/a", "deleted, with 30 s")
    journal.note("shop/b", "deleted, with 5 s")
    now = 30.25
    journal.note_killed("shop/a", "curl", "1 sh, 2 sleep")
    journal.note("shop/a", "ended with 137", "curl")
    journal.note("shop/a", "ended with 0", "meshproxy")
    assert journal.take_killed() == ["shop/a"]
    assert journal.take_killed() == []
    assert journal.of("shop/a") == (
        "shop/a\n"
        "  00:00:00.000 deleted, with 30 s\n"
        "  00:00:30.250 curl: SIGKILL; it runs 1 sh, 2 sleep\n"
        "  00:00:30.250 curl: ended with 137\n"
        "  00:00:30.250 meshproxy: ended with 0\n"
    )
    assert journal.of("shop/c") == "shop/c\n"
