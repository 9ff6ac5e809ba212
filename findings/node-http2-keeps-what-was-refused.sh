#!/usr/bin/env bash
# Refused uploads use up the memory of a Node client's HTTP/2 connection, which then rejects the answers of all others.
#
# Expected: a server that answers before a request has ended may reset the stream with NO_ERROR to say that it needs no
#   more of it (RFC 9113 section 8.1). The client reports the answer, forgets the rest of the upload, and goes on.
# Happens: what had been written of the upload and not sent counts against the memory of the session for as long as that
#   lives (`maxSessionMemory`, 10 MB). With fetch of undici, after two refused uploads of 4 MB all further requests fail
#   with ENHANCE_YOUR_CALM, which reads as if the server had sent it. The server has seen and answered them: it is the
#   client that rejects the answers' heads. The connection stays open and is used again. Where the server refuses
#   without the reset and reads on, some requests fail, too, and later ones are answered.
# Since: seen with undici 8.14.0 in Node 24.21.0; undici 7.30.2 in Node 20.20.2 does the same.
# Matters: proxies refuse before the body, for want of a right or a quota, and reset what they do not read. A client
#   that may not call one model loses the answers of all others on that connection, after the work was done, with an
#   error that blames the server.
# Source: Node, src/node_http2.cc (Http2Session::OnHeaderCallback, current_session_memory). With `maxSessionMemory: 1000`
#   nothing fails in Node's own client; undici has no setting for it.
set -euo pipefail
version=${1:-24.21.0}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm install --silent --no-audit --no-fund "node@$version" undici@8.14.0 >log 2>&1 || { cat log >&2; exit 2; }
node=$dir/node_modules/node/bin/node
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out cert.pem -days 2 \
    -subj /CN=localhost -addext subjectAltName=DNS:localhost >log 2>&1 || { cat log >&2; exit 2; }
cat >server.mjs <<'JS'
import fs from "node:fs";
import http2 from "node:http2";
const server = http2.createSecureServer({ key: fs.readFileSync("key.pem"), cert: fs.readFileSync("cert.pem") });
let taken = 0;
server.on("stream", (stream, head) => {
  stream.on("error", () => {}).resume();
  const path = head[":path"];
  if (path.startsWith("/refused")) {
    stream.respond({ ":status": 403 });
    stream.end("no");
    if (path === "/refused-and-reset") stream.once("finish", () => stream.close(http2.constants.NGHTTP2_NO_ERROR));
  } else if (path === "/count") {
    stream.respond({ ":status": 200 });
    stream.end(String(taken));
  } else {
    stream.on("end", () => {
      taken += 1;
      stream.respond({ ":status": 200 });
      stream.end("yes");
    });
  }
});
server.listen(0, "localhost", () => {
  fs.writeFileSync("new", `${server.address().port}`);
  fs.renameSync("new", "port");
});
JS
cat >client.mjs <<'JS'
import fs from "node:fs";
import { Agent, fetch } from "undici";
const refusal = process.argv[2];
const origin = `https://localhost:${fs.readFileSync("port")}`, ca = fs.readFileSync("cert.pem");
const upload = Buffer.alloc(4_000_000);
async function fetched(dispatcher, path, body) {
  try {
    const init = { method: "POST", body: new Blob([body]).stream(), duplex: "half", dispatcher };
    const answer = await fetch(origin + path, init);
    return [answer.status, await answer.text()];
  } catch (error) {
    return [error.cause.message.replace(/.*NGHTTP2_/, "").replaceAll(" ", "-")];
  }
}
const agent = new Agent({ allowH2: true, connections: 1, connect: { ca } });
const seen = [];
for (const path of [refusal, refusal, refusal, refusal, "/taken", "/taken"]) {
  seen.push((await fetched(agent, path, upload)).at(0));
}
const [, count] = await fetched(new Agent({ allowH2: true, connect: { ca } }), "/count", Buffer.alloc(1));
console.log(refusal, seen.join(" "), "answered by the server:", count);
process.exit(0);
JS
cat >expected <<'TEXT'
/refused 403 403 200 200 2
/refused-and-reset 403 403 ENHANCE_YOUR_CALM ENHANCE_YOUR_CALM 2
TEXT
echo "Node $("$node" --version), undici $("$node" -p 'require("undici/package.json").version')"
for refusal in /refused /refused-and-reset; do
    rm -f port
    "$node" server.mjs &
    server=$!
    for _ in $(seq 100); do [ -e port ] && break; sleep 0.1; done
    timeout 60 "$node" client.mjs "$refusal" || true
    kill "$server"
    wait "$server" 2>/dev/null || true
done | tee seen
# The third and the fourth upload are refused when the memory has just come to its end: either way will do.
awk '{print $1, $2, $3, $6, $7, $NF}' seen | diff expected - || { echo changed >&2; exit 1; }
