#!/usr/bin/env bash
# The HTTP/2 client of Apache Pekko HTTP ends a connection, with all its calls, when the server resets one call; and
# sends calls on a connection that is going away.
#
# Expected: RST_STREAM ends one stream (RFC 9113, section 6.4). With REFUSED_STREAM the request has not been processed and
#   may be repeated. After GOAWAY a client must not open streams on that connection (section 6.8).
# Happens: two calls are made on one connection.
#   - The server resets the second before it answers: the client sends GOAWAY with PROTOCOL_ERROR ("Received unexpected
#     frame of type RstStreamFrame") and reads nothing more. Both calls get 502 when the server closes, the first one
#     too, which was about to be answered; until then they wait.
#   - The server sends GOAWAY that names the first call, and answers it. The second, which is made afterwards, is sent
#     on the same connection; 502 when that is closed, as its stream is above the last one.
#   Neither is repeated.
# Since: seen with pekko-http 1.2.0 and 1.3.0, managedPersistentHttp2WithPriorKnowledge().
# Matters: one call that a server or proxy refuses or times out fails all others of its connection, and each rollout of a
#   server that drains as RFC 9113 says fails what is called meanwhile. Use HTTP/1.1, or repeat what is safe to repeat.
set -euo pipefail
version=${1:-1.3.0}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat >Calls.java <<'JAVA'
import com.typesafe.config.ConfigFactory;
import java.util.concurrent.*;
import org.apache.pekko.actor.ActorSystem;
import org.apache.pekko.http.javadsl.Http;
import org.apache.pekko.http.javadsl.model.*;
import org.apache.pekko.stream.*;
import org.apache.pekko.stream.javadsl.*;

public class Calls {
  static class Ended implements RequestResponseAssociation, org.apache.pekko.http.scaladsl.model.RequestResponseAssociation {
    final CompletableFuture<Integer> status = new CompletableFuture<>();
  }

  static final AttributeKey<Ended> KEY = AttributeKey.create("ended", Ended.class);

  public static void main(String[] arguments) throws Exception {
    var system = ActorSystem.create("calls", ConfigFactory.parseString("pekko.loglevel=OFF").withFallback(ConfigFactory.load()));
    var materializer = Materializer.createMaterializer(system);
    var port = Integer.parseInt(arguments[0]);
    var http2 = Http.get(system).connectionTo("127.0.0.1").toPort(port).managedPersistentHttp2WithPriorKnowledge();
    var queue = Source.<HttpRequest>queue(10, OverflowStrategy.dropNew()).via(http2).to(Sink.foreach(response -> {
      response.discardEntityBytes(materializer);
      response.getAttribute(KEY).get().status.complete(response.status().intValue());
    })).run(materializer);
    Ended first = new Ended(), second = new Ended();
    var request = HttpRequest.GET("http://127.0.0.1:" + port + "/");
    queue.offer(request.addAttribute(KEY, first));
    System.in.read();
    queue.offer(request.addAttribute(KEY, second));
    Thread.setDefaultUncaughtExceptionHandler((thread, error) -> System.exit(1));
    System.out.println(first.status.get(20, TimeUnit.SECONDS) + " " + second.status.get(20, TimeUnit.SECONDS));
    System.exit(0);
  }
}
JAVA
cat >pom.xml <<XML
<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>calls</groupId><artifactId>calls</artifactId><version>1</version><dependencies>
<dependency><groupId>org.apache.pekko</groupId><artifactId>pekko-http_2.13</artifactId><version>$version</version></dependency>
<dependency><groupId>org.apache.pekko</groupId><artifactId>pekko-stream_2.13</artifactId><version>1.1.5</version></dependency>
<dependency><groupId>org.slf4j</groupId><artifactId>slf4j-nop</artifactId><version>2.0.16</version></dependency>
</dependencies></project>
XML
{ mvn -q -B dependency:copy-dependencies -DoutputDirectory=jars && javac -cp 'jars/*' Calls.java; } >log 2>&1 || { cat log >&2; exit 2; }
timeout 120 python3 - "$version" <<'PY'
import socket
import struct
import subprocess
import sys
import threading

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
REFUSED_STREAM = 7
EXPECTED = {"answers both": "200 200", "resets the second": "502 502", "sends GOAWAY": "200 502"}


def frame(kind, flags, stream, payload=b""):
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def answer(connection, stream):
    try:
        connection.sendall(frame(HEADERS, 4, stream, b"\x88") + frame(DATA, 1, stream, b"ok"))  # :status 200
    except OSError:
        pass


def serve(connection, go_on, does):
    """Answers the first call a second after the second one came, or after GOAWAY was read."""
    reader = connection.makefile("rb")
    reader.read(24)
    connection.sendall(frame(SETTINGS, 0, 0))
    first = None
    try:
        while head := reader.read(9):
            kind, flags, stream = struct.unpack("!BBI", head[3:])
            reader.read(int.from_bytes(head[:3], "big"))
            if kind == SETTINGS and not flags & 1:
                connection.sendall(frame(SETTINGS, 1, 0))
            elif kind == PING and flags & 1:  # the client has read what was sent before
                if does == "sends GOAWAY":
                    answer(connection, first)
                go_on()
            elif kind == GOAWAY:  # before, nothing ends: the client waits for the server to close
                connection.shutdown(socket.SHUT_RDWR)
            elif kind == HEADERS and first is None:
                first = stream
                if does == "sends GOAWAY":
                    connection.sendall(frame(GOAWAY, 0, 0, struct.pack("!II", stream, 0)))
                connection.sendall(frame(PING, 0, 0, bytes(8)))
            elif kind == HEADERS and does == "sends GOAWAY":
                print(f"stream {stream} was opened after GOAWAY with the last stream {first}")
                connection.shutdown(socket.SHUT_RDWR)
            elif kind == HEADERS:
                if does == "resets the second":
                    connection.sendall(frame(RST_STREAM, 0, stream, struct.pack("!I", REFUSED_STREAM)))
                else:
                    answer(connection, stream)
                threading.Timer(1, answer, (connection, first)).start()
    except OSError:
        pass


def accept(listener, go_on, does):
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0], go_on, does), daemon=True).start()


changed = []
for does, expected in EXPECTED.items():
    listener = socket.create_server(("127.0.0.1", 0))
    command = ["java", "-cp", "jars/*:.", "Calls", str(listener.getsockname()[1])]
    client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)

    def go_on(client=client):
        try:
            client.stdin.write(b"\n")
        except OSError:
            pass

    threading.Thread(target=accept, args=(listener, go_on, does), daemon=True).start()
    seen = client.stdout.read().decode().strip()
    client.wait()
    print(f"pekko-http {sys.argv[1]}, the server {does}: {seen}")
    if seen != expected:
        changed.append(does)
sys.exit(1 if changed else 0)
PY
