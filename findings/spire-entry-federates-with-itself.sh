#!/usr/bin/env bash
# One SPIRE entry that federates with its own trust domain takes every workload's identity away.
#
# Expected: the server refuses such an entry when it is made (it knows its own trust domain, and
#   `bundle set` refuses that domain), or the agent leaves the one entry out.
# Happens: `entry create -federatesWith spiffe://OWN` is taken without a word. From then on the agent's
#   synchronization ends with "getting a federated bundle for the server's own trust domain is not
#   allowed", as a whole: no entry is added, and no SVID is renewed, of any workload of that agent.
#   As each SVID expires, its workload gets nothing more. Both logs have it, at level error, without the
#   entry. Deleting that mends it within ten seconds.
# Since: seen in 1.13.3 (other releases were not tried).
# Matters: a script that gives all trust domains of a federation to each entry writes such an entry
#   into each domain, for a workload that need not even exist; an hour later (the default TTL) the
#   whole node is without identities, and what was changed last is not where anybody looks.
# Source: SPIRE, pkg/agent/client/client.go, fetchBundles: of the federated bundles only NotFound is
#   skipped, any other error ends FetchUpdates; pkg/server/api/entry.go reads the domains of an entry
#   without comparing them with its own.
#
# Needs go, gcc and libsqlite3-dev. Builds server and agent without the plugins of clouds and
# Kubernetes, which are not used here: five minutes of CPU.
set -euo pipefail
version=${1:-1.13.3}
dir=$(mktemp -d)
cleanup() {
    # shellcheck disable=SC2046
    kill $(jobs -p) 2>/dev/null || true
    wait 2>/dev/null || true
    chmod -R u+w "$dir"
    rm -rf "$dir"
}
trap cleanup EXIT
mkdir "$dir/sources" "$dir/server" "$dir/agent"
cd "$dir/sources"
from=$(go mod download -json "github.com/spiffe/spire@v$version" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
[ -n "$from" ] || { echo "cannot download SPIRE $version" >&2; exit 2; }
cp -R "$from/." . && chmod -R u+w .
for file in pkg/{server/catalog/{keymanager,nodeattestor,upstreamauthority,notifier,bundlepublisher},agent/catalog/{keymanager,nodeattestor,workloadattestor,svidstore}}.go; do
    sed -i -E '/plugin\/[a-z]+\/|\.BuiltIn\(\),$/{/(memory|jointoken|unix)("|\.)/!d}' "$file"
done
gofmt -w pkg/server/catalog pkg/agent/catalog
CGO_ENABLED=1 GOFLAGS="-trimpath -buildvcs=false" \
    nice go build -tags libsqlite3 -ldflags '-s -w' -o "$dir" ./cmd/spire-server ./cmd/spire-agent ||
    { echo "cannot build SPIRE $version" >&2; exit 2; }

cd "$dir"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat >server.conf <<CONF
server {
  bind_address = "127.0.0.1"
  bind_port = $port
  socket_path = "$dir/server.sock"
  trust_domain = "mesh.example"
  data_dir = "$dir/server"
  log_level = "WARN"
  default_x509_svid_ttl = "20s"
}
plugins {
  DataStore "sql" {
    plugin_data {
      database_type = "sqlite3"
      connection_string = "$dir/server/datastore.sqlite3"
    }
  }
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "memory" { plugin_data {} }
}
CONF
server() { ./spire-server "$1" "$2" -socketPath "$dir/server.sock" "${@:3}"; }
attempt() { # up to 30 s
    for _ in $(seq 60); do "$@" >/dev/null 2>&1 && return 0 || sleep 0.5; done
    return 1
}
./spire-server run -config server.conf >server.log 2>&1 &
attempt ./spire-server healthcheck -socketPath "$dir/server.sock"
server bundle show >bootstrap.pem
token=$(server token generate -spiffeID spiffe://mesh.example/agent | sed 's/Token: //')
cat >agent.conf <<CONF
agent {
  data_dir = "$dir/agent"
  log_level = "WARN"
  server_address = "127.0.0.1"
  server_port = $port
  socket_path = "$dir/agent.sock"
  trust_bundle_path = "$dir/bootstrap.pem"
  trust_domain = "mesh.example"
  join_token = "$token"
}
plugins {
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "memory" { plugin_data {} }
  WorkloadAttestor "unix" { plugin_data {} }
}
CONF
./spire-agent run -config agent.conf >agent.log 2>&1 &
entry() { server entry create -parentID spiffe://mesh.example/agent -selector "unix:uid:$1" -spiffeID "$2" "${@:3}"; }
has_identity() { timeout 10 ./spire-agent api fetch x509 -socketPath "$dir/agent.sock" | grep -q "SPIFFE ID"; }
has_none() { ! has_identity; }

echo "SPIRE $version"
entry "$(id -u)" spiffe://mesh.example/workload >/dev/null
attempt has_identity || { echo "the workload has no identity to begin with: see the agent's log" >&2; cat agent.log >&2; exit 2; }
echo "a workload has an identity, of 20 s, which the agent renews"
sleep 30
has_identity || { echo "changed: it is not renewed" >&2; exit 1; }
bad=$(entry 4242 spiffe://mesh.example/other -federatesWith spiffe://mesh.example | sed -n 's/^Entry ID *: //p')
[ -n "$bad" ] || { echo "changed: the entry is refused" >&2; exit 1; }
echo "an entry for another user that federates with mesh.example itself: taken"
attempt has_none || { echo "changed: the workload keeps its identity" >&2; exit 1; }
echo "the workload has none any more; the agent's log:"
grep -om1 'Synchronize failed.*not allowed' agent.log | sed 's/^/    /'
server entry delete -entryID "$bad" >/dev/null
attempt has_identity || { echo "changed: deleting the entry does not mend it" >&2; exit 1; }
echo "the entry is deleted: the workload has an identity again"
