// A workload that knows nothing of meshproxy: its identity is go-spiffe's, from the Workload API at SPIFFE_ENDPOINT_SOCKET.
//
//	peer serve CALLER-ID REST-ADDRESS GRPC-ADDRESS  terminates mTLS in front of a model server, HTTP/1.1 and HTTP/2
//	peer call ADDRESS SERVER-ID REST-BODY MESSAGE   calls a model over REST and gRPC until SIGTERM
//
// MESSAGE is base64. Both write a line of JSON when they work; "call" writes one for each certificate that it is shown,
// and ends with one that counts what became of its calls.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

const (
	restPath = "/v1/models/half_plus_two:predict"
	method   = "/tensorflow.serving.PredictionService/Predict"
	// As many calls have one connection: new ones are made all the time, and each lives for a while.
	callsAConnection = 20
	pause            = 10 * time.Millisecond
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	source, err := workloadapi.NewX509Source(ctx)
	check(err)
	defer source.Close()
	switch arguments := os.Args[2:]; os.Args[1] {
	case "serve":
		serve(ctx, source, spiffeid.RequireFromString(arguments[0]), arguments[1], arguments[2])
	case "call":
		call(ctx, source, arguments[0], spiffeid.RequireFromString(arguments[1]), arguments[2], arguments[3])
	}
}

func say(fields map[string]any) {
	line, err := json.Marshal(fields)
	check(err)
	fmt.Println(string(line))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(ctx context.Context, source *workloadapi.X509Source, caller spiffeid.ID, rest, grpcAddress string) {
	config := tlsconfig.MTLSServerConfig(source, source, tlsconfig.AuthorizeID(caller))
	config.NextProtos = []string{"h2", "http/1.1"}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	check(err)
	h2c := &http.Transport{Protocols: new(http.Protocols)}
	h2c.Protocols.SetUnencryptedHTTP2(true)
	toRest := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: rest})
	toGrpc := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: grpcAddress})
	toGrpc.Transport, toGrpc.FlushInterval = h2c, -1
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.Header.Get("content-type"), "application/grpc") {
			toGrpc.ServeHTTP(w, r)
		} else {
			toRest.ServeHTTP(w, r)
		}
	})}
	go func() {
		<-ctx.Done()
		server.Close()
	}()
	say(map[string]any{"event": "listening", "inbound": listener.Addr().String()})
	if err := server.Serve(listener); err != http.ErrServerClosed {
		check(err)
	}
}

type tally struct {
	sync.Mutex
	Answered map[string]int
	Failures []string
	Shown    map[string]bool
}

func (t *tally) count(kind string, err error) {
	t.Lock()
	defer t.Unlock()
	if err != nil {
		t.Failures = append(t.Failures, kind+": "+err.Error())
		return
	}
	t.Answered[kind]++
	if t.Answered[kind] == 1 && len(t.Answered) == 2 {
		say(map[string]any{"event": "listening"})
	}
}

// What the peer has shown, on each connection.
func (t *tally) shown(state tls.ConnectionState) error {
	t.Lock()
	defer t.Unlock()
	if serial := state.PeerCertificates[0].SerialNumber.String(); !t.Shown[serial] {
		t.Shown[serial] = true
		say(map[string]any{"event": "certificate shown", "serial": serial})
	}
	return nil
}

func call(ctx context.Context, source *workloadapi.X509Source, address string, peer spiffeid.ID, body, message string) {
	raw, err := base64.StdEncoding.DecodeString(message)
	check(err)
	tally := &tally{Answered: map[string]int{}, Failures: []string{}, Shown: map[string]bool{}}
	config := tlsconfig.MTLSClientConfig(source, source, tlsconfig.AuthorizeID(peer))
	config.VerifyConnection = tally.shown
	var callers sync.WaitGroup
	for kind, connect := range map[string]func() (func() error, io.Closer, error){
		"rest": func() (func() error, io.Closer, error) { return overRest(address, config.Clone(), body) },
		"grpc": func() (func() error, io.Closer, error) { return overGrpc(address, config.Clone(), raw) },
	} {
		callers.Add(1)
		go func() {
			defer callers.Done()
			for ctx.Err() == nil {
				one, closer, err := connect()
				check(err)
				for range callsAConnection {
					tally.count(kind, one())
					time.Sleep(pause)
				}
				closer.Close()
			}
		}()
	}
	callers.Wait()
	say(map[string]any{"answered": tally.Answered, "failures": tally.Failures})
}

type closer func()

func (c closer) Close() error { c(); return nil }

func overRest(address string, config *tls.Config, body string) (func() error, io.Closer, error) {
	config.NextProtos = []string{"http/1.1"}
	transport := &http.Transport{TLSClientConfig: config}
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	one := func() error {
		answer, err := client.Post("https://"+address+restPath, "application/json", strings.NewReader(body))
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err == nil && answer.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %s", answer.Status, text)
		}
		return err
	}
	return one, closer(transport.CloseIdleConnections), nil
}

// Messages as they are: the peer of this test has no stubs of TensorFlow Serving.
type bytesCodec struct{}

func (bytesCodec) Name() string                  { return "proto" }
func (bytesCodec) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (bytesCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = bytes.Clone(data)
	return nil
}

func overGrpc(address string, config *tls.Config, message []byte) (func() error, io.Closer, error) {
	connection, err := grpc.NewClient(
		"passthrough:///"+address,
		grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(bytesCodec{})),
	)
	one := func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		var answer []byte
		return connection.Invoke(ctx, method, &message, &answer)
	}
	return one, connection, err
}
