"""Every source file has a test file of its name, where a reader looks for it: `tests/PATH/test_FILE.py`."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent
NOT_TESTED = {"__init__.py", "__main__.py"}

DECLARATIONS = {
    "devtools/node/process.py": "processes in namespaces, which need root: tests/e2e/test_node.py",
    "devtools/node/worker.py": "pods of a real API server: tests/e2e/test_node.py",
    "web/source.py": "a protocol only",
    "proxy/ports.py": "protocols only; tests/proxy/test_fakes.py compares the fakes with them",
}
"""Files that need no test of their own, and why."""


def expected() -> dict[str, Path]:
    """The test file of each source file."""
    package = ROOT / "meshproxy"
    sources = (path.relative_to(package) for path in package.rglob("*.py") if path.name not in NOT_TESTED)
    return {str(path): ROOT / "tests" / path.with_name(f"test_{path.name}") for path in sources}


def test_each_source_file_has_a_test_file() -> None:
    missing = [source for source, test in expected().items() if not test.exists() and source not in DECLARATIONS]
    assert not missing, f"write tests/PATH/test_FILE.py for {', '.join(sorted(missing))}"


def test_only_what_exists_and_has_no_test_is_exempt() -> None:
    found = expected()
    assert [source for source in DECLARATIONS if source not in found or found[source].exists()] == []


def test_each_test_file_is_in_the_folder_of_a_package() -> None:
    """A test that is named after a source file must stand where that file is: moved sources take their tests along."""
    folders = {test.parent for test in expected().values()}
    own = {
        "benchmarks",
        "conformance",
        "containers",
        "docs",
        "drills",
        "e2e",
        "figures",
        "mesh",
        "processes",
        "spire",
        "tensorflow",
    }
    tests = ROOT / "tests"
    strays = [
        str(path.relative_to(tests))
        for path in tests.rglob("test_*.py")
        if path.parent not in folders and path.parent != tests and path.relative_to(tests).parts[0] not in own
    ]
    assert strays == []
