#!/usr/bin/env bash
# Apache HttpClient over HTTP/2 fails calls at a graceful GOAWAY: what is open, and what it queues behind.
#
# Expected: GOAWAY with NO_ERROR lets requests up to its last stream id finish (RFC 9113, section 6.8). The client reads
#   their answers, and sends what comes later on another connection.
# Happens: the server gets one request, sends GOAWAY which names it, and answers it. A second call is made behind GOAWAY.
#   - httpclient5 5.6.5: closes the connection at GOAWAY, so the first call fails (ConnectionClosedException); the second
#     was put into the queue of that connection and fails too (RequestNotExecutedException).
#   - httpclient5 5.5: the first call gets its answer. The second waits in the queue of that connection until then, and
#     fails (ConnectionClosedException), although it has never been sent.
#   Neither is repeated, and there is no second connection.
# Since: seen with httpclient5 5.5 (httpcore5-h2 5.3.4) and 5.6.5 (5.4.4), HttpAsyncClients.createHttp2Default().
# Matters: servers and proxies that drain as RFC 9113 says fail calls of these clients at every rollout. Such callers
#   should use HTTP/1.1, or repeat what is safe to repeat.
# Source: org/apache/hc/core5/http2/impl/nio/AbstractH2StreamMultiplexer.java, of 5.3.4: after GOAWAY commands are taken
#   from the queue only to fail them. The loop at `case GOAWAY` cancels streams above the last stream if they are the
#   server's (`!idGenerator.isSameSide`), where it means the client's.
set -euo pipefail
version=${1:-5.6.5}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat >Calls.java <<'JAVA'
import java.util.concurrent.*;
import org.apache.hc.client5.http.async.methods.*;
import org.apache.hc.client5.http.impl.async.HttpAsyncClients;
import org.apache.hc.core5.concurrent.FutureCallback;

public class Calls {
  public static void main(String[] arguments) throws Exception {
    var client = HttpAsyncClients.createHttp2Default();
    client.start();
    var first = call(client, arguments[0]);
    System.in.read();
    var second = call(client, arguments[0]);
    System.out.println(first.get(10, TimeUnit.SECONDS) + " " + second.get(10, TimeUnit.SECONDS));
    System.exit(0);
  }

  static CompletableFuture<String> call(org.apache.hc.client5.http.impl.async.CloseableHttpAsyncClient client, String url) {
    var ended = new CompletableFuture<String>();
    client.execute(SimpleRequestBuilder.get(url).build(), new FutureCallback<SimpleHttpResponse>() {
      public void completed(SimpleHttpResponse response) { ended.complete(String.valueOf(response.getCode())); }
      public void failed(Exception error) { ended.complete(error.getClass().getSimpleName()); }
      public void cancelled() { ended.complete("cancelled"); }
    });
    return ended;
  }
}
JAVA
for each in 5.5 "$version"; do
    mkdir -p "$each"
    cat >"$each/pom.xml" <<XML
<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>calls</groupId><artifactId>calls</artifactId><version>1</version><dependencies>
<dependency><groupId>org.apache.httpcomponents.client5</groupId><artifactId>httpclient5</artifactId>
<version>$each</version></dependency>
<dependency><groupId>org.slf4j</groupId><artifactId>slf4j-nop</artifactId><version>1.7.36</version></dependency>
</dependencies></project>
XML
    { (cd "$each" && mvn -q -B dependency:copy-dependencies -DoutputDirectory=jars) &&
        javac -cp "$each/jars/*" -d "$each" Calls.java; } >log 2>&1 || { cat log >&2; exit 2; }
done
timeout 120 python3 - "$version" <<'PY'
import socket
import struct
import subprocess
import sys
import threading

DATA, HEADERS, SETTINGS, PING, GOAWAY = 0, 1, 4, 6, 7
EXPECTED = {
    ("5.5", False): "200 200",
    ("5.5", True): "200 ConnectionClosedException",
    (sys.argv[1], False): "200 200",
    (sys.argv[1], True): "ConnectionClosedException RequestNotExecutedException",
}


def frame(kind, flags, stream, payload=b""):
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def serve(connection, go_on, goaway):
    """Answers all requests; the first one after the second call was made, and after a GOAWAY that names it."""
    reader = connection.makefile("rb")
    reader.read(24)
    connection.sendall(frame(SETTINGS, 0, 0))
    first = None
    try:
        while head := reader.read(9):
            kind, flags, stream = struct.unpack("!BBI", head[3:])
            payload = reader.read(int.from_bytes(head[:3], "big"))
            if kind == SETTINGS and not flags & 1:
                connection.sendall(frame(SETTINGS, 1, 0))
            elif kind == PING:  # the client has read GOAWAY
                go_on()
                threading.Timer(1, answer, (connection, first)).start()
            elif kind == HEADERS and first is None:
                first = stream
                if goaway:
                    connection.sendall(frame(GOAWAY, 0, 0, struct.pack("!II", stream, 0)))
                connection.sendall(frame(PING, 0, 0, bytes(8)))
            elif kind == HEADERS:
                answer(connection, stream)
    except OSError:
        pass
    go_on()  # the client has closed the connection


def answer(connection, stream):
    try:
        connection.sendall(frame(HEADERS, 4, stream, b"\x88") + frame(DATA, 1, stream, b"ok"))  # :status 200
    except OSError:
        pass


def accept(listener, go_on, goaway):
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0], go_on, goaway), daemon=True).start()


changed = []
for (version, goaway), expected in EXPECTED.items():
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    command = ["java", "-cp", f"{version}/jars/*:{version}", "Calls", url]
    client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)

    def go_on(client=client):
        try:
            client.stdin.write(b"\n")
        except OSError:
            pass

    threading.Thread(target=accept, args=(listener, go_on, goaway), daemon=True).start()
    seen = client.stdout.read().decode().strip()
    client.wait()
    print(f"httpclient5 {version}, {'GOAWAY' if goaway else 'no GOAWAY':9} {seen}")
    if seen != expected:
        changed.append(f"{version}: expected {expected}")
sys.exit("changed: " + "; ".join(changed) if changed else 0)
PY
