#!/usr/bin/env bash
# Builds spire-server and spire-agent into a folder, from the pinned module and with the modules that its go.sum names,
# then `peer`, which is there when all of them are.
#
# usage: build.sh FOLDER
#
# Of the plugins only those are kept that the tests configure: with the clouds, Kubernetes and containers it is 1,900
# packages and ten minutes of CPU, without them a third. CGO is for SQLite, the system's (libsqlite3-dev).
set -euo pipefail
version=v1.13.3
sum=h1:wDTK8tj8ShO5izjue/OFanVaehmjUxSxHtSWxBY+FJQ=

mkdir -p "$1"
into=$(realpath "$1")
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
sources=$(mktemp -d)
trap 'rm -rf "$sources"' EXIT

download=$(cd "$sources" && go mod download -json "github.com/spiffe/spire@$version")
field() { sed -n "s/^\t\"$1\": \"\(.*\)\",\{0,1\}$/\1/p" <<<"$download"; }
[ "$(field Sum)" = "$sum" ] || { echo "spire $version is $(field Sum), not $sum" >&2; exit 1; }
cp -R "$(field Dir)/." "$sources"
chmod -R u+w "$sources"
cd "$sources"

for kind in server/keymanager agent/keymanager server/nodeattestor agent/nodeattestor server/upstreamauthority \
    server/notifier server/bundlepublisher agent/workloadattestor agent/svidstore; do
    file=pkg/${kind%/*}/catalog/${kind#*/}.go
    # Lines like `"github.com/.../keymanager/awskms"` and `awskms.BuiltIn(),`.
    sed -i -E '/plugin\/[a-z]+\/|\.BuiltIn\(\),$/{/(memory|jointoken|unix)("|\.)/!d}' "$file"
done
gofmt -l -w pkg/server/catalog pkg/agent/catalog >/dev/null
export GOFLAGS="-trimpath -buildvcs=false" CGO_ENABLED=1
echo '#include <sqlite3.h>' | ${CC:-cc} -E - >/dev/null ||
    { echo 'SQLite is missing: on Debian and Ubuntu, apt-get install gcc libsqlite3-dev' >&2; exit 1; }
nice go build -p "${JOBS:-$(nproc)}" -tags libsqlite3 -ldflags '-s -w' -o "$into/" ./cmd/spire-server ./cmd/spire-agent
cd "$here/peer"
nice go build -trimpath -buildvcs=false -ldflags '-s -w' -o "$into/peer" .
