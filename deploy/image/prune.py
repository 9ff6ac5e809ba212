"""Deletes what is installed in the image and never used there; run once, by the environment that it is about.

- What C extensions were made of (Cython sources, headers) and stubs of types: compilers and type checkers read them.
- The package `cffi`, which makes C extensions. `_cffi_backend`, which those of cryptography need, is beside it.
- lightkube's modules of kinds of Kubernetes, one for each version of an API group, that no module of meshproxy imports.
- Modules that cannot be imported, because what they need is not installed: other event loops and protocols, pytest.

The bill of materials lists every package that has a file left.
"""

from __future__ import annotations

import importlib
import pkgutil
import shutil
import sys
import sysconfig
from pathlib import Path

SOURCES = {".c", ".h", ".hash", ".pxd", ".pxi", ".pyi", ".pyx"}
KINDS = ("lightkube.models", "lightkube.resources")
DEVELOPMENT = "meshproxy.devtools."
"""What it imports is in the other image only, and is nothing of lightkube's."""


def import_ours() -> None:
    """Import all modules of meshproxy."""
    for module in pkgutil.walk_packages(importlib.import_module("meshproxy").__path__, "meshproxy."):
        if not module.name.endswith("__main__") and not module.name.startswith(DEVELOPMENT):
            importlib.import_module(module.name)


def has_what_it_needs(name: str) -> bool:
    """Whether everything that a module imports is installed."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        return False
    except Exception:  # for other reasons, such as a module of another system: not what is asked
        return True
    return True


def main() -> None:
    packages = Path(sysconfig.get_path("purelib"))
    for path in packages.rglob("*"):
        if path.suffix in SOURCES:
            path.unlink()
    shutil.rmtree(packages / "cffi")
    import_ours()
    for folder in KINDS:
        for path in (packages / folder.replace(".", "/")).glob("*.py"):
            if path.stem != "__init__" and f"{folder}.{path.stem}" not in sys.modules:
                path.unlink()
    useless = [
        path
        for path in packages.rglob("*.py")
        if path.parts[len(packages.parts)] != "meshproxy"
        and path.stem != "__main__"
        and not has_what_it_needs(".".join(path.relative_to(packages).with_suffix("").parts).removesuffix(".__init__"))
    ]
    for path in useless:
        path.unlink()


if __name__ == "__main__":
    main()
