"""`meshproxy audit report`: an access review as a page that prints on paper."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshproxy.cli import _audit_files, _options

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from meshproxy.audit.period import Period
    from meshproxy.audit.review import Review


@click.command("report", short_help="Write an access review of a period, as HTML that prints on paper.")
@_audit_files.paths
@click.option(
    "--period",
    default="30d",
    show_default=True,
    metavar="PERIOD",
    help="Such as 2026-11, 2026-Q4, 2026, 30d, or 2026-11-01..2026-11-15 (UTC).",
)
@click.option(
    "--config",
    "documents",
    multiple=True,
    type=click.Path(exists=True),
    metavar="PATH",
    help="The documents that say who may: a file, or a folder of them; may be repeated.",
)
@_audit_files.public_keys
@click.option(
    "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), metavar="PATH", help="The page to write."
)
def report(paths: tuple[str, ...], period: str, documents: tuple[str, ...], keys: tuple[Path, ...], out: Path) -> None:
    """Write an access review: who may, who did, denials, admin verbs, changes of policy, identities, gaps.

    The whole trail is verified as it is read, and the page says what was found. Exit status: 0, or 3 if the trail is
    not as it was written; the page is written all the same.

    \b
    Example:
        meshproxy audit report audit.jsonl --period 2026-Q4 --config policy/ --out q4.html
    """
    import sys
    import time

    from meshproxy.audit.period import read_period
    from meshproxy.audit.review import Review, grants_of
    from meshproxy.cli._audit_files import notes_of, read_public_key
    from meshproxy.cli._policy_sets import load
    from meshproxy.cli.main import FOUND

    try:
        from meshproxy.audit.review_page import Verdict, page
    except ImportError:
        raise click.ClickException("the page needs jinja2: pip install 'meshproxy[control]'") from None
    from meshproxy.audit.verify import Verifier

    now = time.time()
    span = _options.read(lambda text: read_period(text, now), period, "--period")
    grants = grants_of(load(documents)) if documents else None
    review = Review()
    verifier = Verifier([read_public_key(each) for each in keys])
    for name in _audit_files.with_ended(paths):
        with _audit_files.opened(name) as lines:
            verifier.read(name, _reviewed(lines, review, span))
    verifier.finish()
    is_wrong = verifier.problem_count > 0 or not verifier.chains
    count = sum(chain.lines for chain in verifier.chains.values())
    said = "The trail is as it was written." if not is_wrong else "THE TRAIL IS NOT AS IT WAS WRITTEN: see section 7."
    verdict = Verdict(not is_wrong, said, count, [str(each) for each in verifier.problems], notes_of(verifier))
    try:
        out.write_text(page(review, span, verdict, grants, now), "utf-8")
    except OSError as error:
        raise click.ClickException(f"cannot write {out}: {error.strerror}") from None
    click.echo(f"{out}: {review.lines:,} lines. {said}")
    if is_wrong:
        sys.exit(FOUND)


def _reviewed(lines: Iterable[bytes], review: Review, period: Period) -> Iterator[bytes]:
    """The lines, each after it was counted."""
    from meshproxy.audit.lines import BadLine, read_line

    for line in lines:
        try:
            record = read_line(line)
        except BadLine:
            pass  # the verifier says so
        else:
            if period.start <= record.time < period.end:
                review.add(record)
        yield line
