#!/bin/sh
# Gets the token issuers that tests/conformance starts: `fetch.sh keycloak FOLDER` or `fetch.sh oidc-provider FOLDER`.
# Once; afterwards the folder is complete. Without Java, Maven or Node, or without a network, it fails and says so.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=$2
new=$folder.new
rm -rf "$new"
mkdir -p "$new"
trap 'rm -rf "$new"' EXIT

need() {
    command -v "$1" >/dev/null || { echo "$1 is missing: on Debian and Ubuntu, apt-get install $2" >&2; exit 1; }
}

case $1 in
keycloak)
    version=26.7.3
    need java openjdk-17-jre-headless
    need mvn maven
    need unzip unzip
    mvn -q -B org.apache.maven.plugins:maven-dependency-plugin:2.8:copy \
        -Dartifact="org.keycloak:keycloak-quarkus-dist:$version:zip" -DoutputDirectory="$new" >&2
    zip=$new/keycloak-quarkus-dist-$version.zip
    echo "27a6535553c3cdcd083872ba40629efafb3475e3b758e0c6f691395561dd0f1f  $zip" | sha256sum --check --quiet >&2
    unzip -q "$zip" -d "$new"
    rm "$zip"
    # What a start would otherwise do each time. The database is in memory.
    JAVA_OPTS_APPEND=-XX:TieredStopAtLevel=1 nice "$new/keycloak-$version/bin/kc.sh" build --db=dev-mem >&2
    rm -rf "$folder"
    mv "$new/keycloak-$version" "$folder"
    ;;
oidc-provider)
    need node nodejs
    need npm npm
    cp "$here/package.json" "$here/package-lock.json" "$here/provider.mjs" "$new/"
    (cd "$new" && npm ci --no-audit --no-fund --loglevel=error >&2)
    rm -rf "$folder"
    mv "$new" "$folder"
    ;;
esac
