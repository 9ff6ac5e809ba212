"""Names that vulture takes for unused although something uses them: one a line, with who does."""
# ruff: noqa
