#!/usr/bin/env bash
# dnspython loads an HTTP client into every process that looks up a name, once one is installed.
#
# Expected: DNS over HTTPS is an extra (`dnspython[doh]`): its libraries are imported by whoever makes
#   such a query, or at least only where the extra was asked for.
# Happens: `import dns.resolver` imports httpx2, httpcore2, h2 and what they need as soon as recent
#   versions of them are installed, whatever brought them: 88 modules and 5 MB of memory for a
#   process that asks its name server by UDP. `dns._features.force("doh", False)` before the first
#   import prevents it.
# Since: seen in 2.9.2 with httpx2 2.16.2.
# Matters: another package that depends on httpx2 (a Kubernetes client, an SDK of a model vendor) grows
#   every process of the same environment. A sidecar is paid for once per pod.
# Source: dns/query.py and dns/_asyncio_backend.py: `if dns._features.have("doh"): import httpx2`.
set -euo pipefail
version=${1:-2.9.2}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check "dnspython==$version" ||
    { echo "cannot install the packages" >&2; exit 2; }
cat >"$dir/measure.py" <<'PY'
import asyncio
import ssl
import sys


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4 / 1024


before = resident()
if "without" in sys.argv:
    import dns._features

    dns._features.force("doh", False)
import dns.asyncresolver

roots = {"httpx2", "httpcore2", "h2", "hpack", "anyio"}
found = [name for name in sys.modules if name.partition(".")[0] in roots]
print(f"{len(found)} modules of an HTTP client, {resident() - before:.1f} MB more")
sys.exit(0 if bool(found) == ("loads" in sys.argv) else 1)
PY
run() {
    printf '%-34s' "$1"
    "$dir/venv/bin/python" "$dir/measure.py" "$2" >/dev/null || true # compiles the modules
    "$dir/venv/bin/python" "$dir/measure.py" "$2" || { echo "changed: expected otherwise" >&2; exit 1; }
}
run "dnspython $version alone" none
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check httpx2==2.16.2 "h2==4.4.1" ||
    { echo "cannot install the packages" >&2; exit 2; }
run "with httpx2 2.16.2 installed" loads
run "... and the feature forced off" without
