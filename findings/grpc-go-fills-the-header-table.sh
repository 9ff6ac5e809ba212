#!/usr/bin/env bash
# grpc-go puts every call's request id into HPACK's dynamic table, and so pushes its own constant fields out.
#
# Expected: fields that are the same in each call go into the table and take an octet afterwards; a value that
#   never comes again is sent as a literal without indexing (RFC 7541, 6.2.2), as grpcio sends metadata.
# Happens: each call adds its request id and, whenever its text differs, `grpc-timeout`. Of 80 calls with one
#   id each, all 80 add it. About every 40 calls the table of 4,096 octets has come around: the path,
#   authority, content type, user agent and all other constant fields are gone and sent anew, 103
#   octets instead of 35, and so on for as long as the connection lives. No two heads have the same octets.
# Since: seen in grpc-go 1.85.0 with golang.org/x/net 0.62.0, beside grpcio 1.85.3.
# Matters: a proxy or server that recognises heads by their octets, or keeps what it has decoded by them, finds
#   nothing for Go clients that send a request id or a deadline, which is most of them; each head must be decoded,
#   and each changes the state of the decoder. Measured with grpcio alone, this is not seen.
# Source: google.golang.org/grpc, internal/transport/http2_client.go, createHeaderFields: no field is
#   `Sensitive`, the one case in which golang.org/x/net/http2/hpack, Encoder.WriteField, does not index what fits.
set -euo pipefail
version=${1:-1.85.0}
dir=$(mktemp -d)
trap 'chmod -R u+w "$dir"; rm -rf "$dir"' EXIT
export GOPATH=$dir/go GOFLAGS=-modcacherw GOTOOLCHAIN=local GOCACHE=$dir/cache
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check grpcio==1.85.3 || { echo "cannot install grpcio" >&2; exit 2; }
cat >calls.py <<'PY'
import sys

import grpc

print("grpcio", grpc.__version__)
with grpc.insecure_channel(sys.argv[1]) as channel:
    call = channel.unary_unary("/models.Service/Predict")
    for number in range(80):
        metadata = (("x-request-id", f"00000000-0000-4000-8000-{number:012}"), ("x-tenant", "one of few"))
        call.future(b"", timeout=5, metadata=metadata).exception()
PY
cat >main.go <<'GO'
// The server reads the heads of 80 calls, and says which fields they add to the dynamic table.
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

const calls = 80

type seen struct {
	calls, least, most int
	added              map[string]int
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}

func read(conn net.Conn) seen {
	defer conn.Close()
	_, err := io.ReadFull(conn, make([]byte, len(http2.ClientPreface)))
	check(err)
	framer := http2.NewFramer(conn, conn)
	check(framer.WriteSettings())
	found := seen{added: map[string]int{}, least: 1 << 20}
	name := ""
	decoder := hpack.NewDecoder(4096, func(field hpack.HeaderField) { name = field.Name })
	for found.calls < calls {
		frame, err := framer.ReadFrame()
		check(err)
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				check(framer.WriteSettingsAck())
			}
		case *http2.PingFrame:
			if !frame.IsAck() {
				check(framer.WritePing(true, frame.Data))
			}
		case *http2.HeadersFrame:
			// One octet after the other: a field ends where the decoder has one more, and its first octet tells the kind.
			block, first := frame.HeaderBlockFragment(), 0
			for at := range block {
				name = ""
				_, err := decoder.Write(block[at : at+1])
				check(err)
				if name != "" {
					if block[first]&0xc0 == 0x40 {
						found.added[name]++
					}
					first = at + 1
				}
			}
			check(decoder.Close())
			found.calls++
			found.least, found.most = min(found.least, len(block)), max(found.most, len(block))
			var answer bytes.Buffer
			encoder := hpack.NewEncoder(&answer)
			for _, field := range []hpack.HeaderField{{Name: ":status", Value: "200"}, {Name: "content-type", Value: "application/grpc"}, {Name: "grpc-status", Value: "5"}} {
				check(encoder.WriteField(field))
			}
			head := http2.HeadersFrameParam{StreamID: frame.StreamID, BlockFragment: answer.Bytes(), EndStream: true, EndHeaders: true}
			check(framer.WriteHeaders(head))
		}
	}
	return found
}

type empty struct{}

func (empty) Marshal(any) ([]byte, error) { return nil, nil }
func (empty) Unmarshal([]byte, any) error { return nil }
func (empty) Name() string                { return "empty" }

func call(address string) {
	fmt.Println("grpc-go", grpc.Version)
	client, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(err)
	for number := 0; number < calls; number++ {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		id := fmt.Sprintf("00000000-0000-4000-8000-%012d", number)
		ctx = metadata.AppendToOutgoingContext(ctx, "x-request-id", id, "x-tenant", "one of few")
		client.Invoke(ctx, "/models.Service/Predict", nil, nil, grpc.ForceCodec(empty{}))
		cancel()
	}
}

func main() {
	for _, isGo := range []bool{true, false} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		check(err)
		found := make(chan seen, 1)
		go func() {
			conn, err := listener.Accept()
			check(err)
			found <- read(conn)
		}()
		if isGo {
			call(listener.Addr().String())
		} else {
			said, err := exec.Command("venv/bin/python", "calls.py", listener.Addr().String()).Output()
			check(err)
			fmt.Print(string(said))
		}
		heads := <-found
		fmt.Printf("  %d heads of %d to %d octets; added: request id %d times, path %d times, grpc-timeout %d times\n",
			heads.calls, heads.least, heads.most, heads.added["x-request-id"], heads.added[":path"], heads.added["grpc-timeout"])
		same := heads.added["x-request-id"] == 0 && heads.added[":path"] == 1
		if isGo {
			same = heads.added["x-request-id"] == calls && heads.added[":path"] > 1
		}
		if !same {
			fmt.Println("this has changed")
			os.Exit(1)
		}
	}
}
GO
{ go mod init example/heads && go get "google.golang.org/grpc@v$version" golang.org/x/net@v0.62.0 && go mod tidy && nice go build -o heads .; } >log 2>&1 ||
    { cat log >&2; echo "cannot build with grpc-go $version" >&2; exit 2; }
timeout 60 ./heads
