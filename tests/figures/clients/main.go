// Calls over grpc-go or net/http at a fixed rate, and counts what is lost.
package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/metadata"
)

type raw struct{}

func (raw) Marshal(v any) ([]byte, error)   { return *(v.(*[]byte)), nil }
func (raw) Unmarshal(d []byte, v any) error { *(v.(*[]byte)) = append([]byte(nil), d...); return nil }
func (raw) Name() string                    { return "proto" }

func main() {
	kind, addr := os.Args[1], os.Args[2] // `grpc` or `http`
	rate, _ := strconv.Atoi(os.Args[3])
	seconds, _ := strconv.Atoi(os.Args[4])
	channels, _ := strconv.Atoi(os.Args[5])
	body, _ := os.ReadFile(os.Args[6])
	encoding.RegisterCodec(raw{})
	var call func(i int) error
	if kind == "grpc" {
		var ccs []*grpc.ClientConn
		for range channels {
			cc, _ := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
			ccs = append(ccs, cc)
		}
		call = func(i int) error {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			ctx = metadata.AppendToOutgoingContext(ctx, "x-model-server", "models")
			var out []byte
			return ccs[i%channels].Invoke(ctx, "/tensorflow.serving.PredictionService/Predict", &body, &out)
		}
	} else {
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
		call = func(i int) error {
			req, _ := http.NewRequest("POST", "http://"+addr+"/v1/models/half_plus_two:predict", strings.NewReader(`{"instances": [1.0]}`))
			req.Header.Set("x-model-server", "models")
			resp, err := client.Do(req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if _, err := io.ReadAll(resp.Body); err != nil {
				return err
			}
			if resp.StatusCode != 200 {
				return fmt.Errorf("status %d", resp.StatusCode)
			}
			return nil
		}
	}
	var lost atomic.Int64
	var mu sync.Mutex
	errs := map[string]int{}
	var wg sync.WaitGroup
	begun := time.Now()
	n := rate * seconds
	for i := range n {
		time.Sleep(time.Until(begun.Add(time.Duration(i) * time.Second / time.Duration(rate))))
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := call(i); err != nil {
				lost.Add(1)
				mu.Lock()
				errs[err.Error()[:min(120, len(err.Error()))]]++
				mu.Unlock()
			}
		}()
	}
	wg.Wait()
	fmt.Printf("go-%s calls %d lost %d %v\n", kind, n, lost.Load(), errs)
}
