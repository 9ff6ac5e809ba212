// An OpenTelemetry Collector for the tests: OTLP in, to the log and to files; and a processor that refuses.
package main

import (
	"context"
	"log"
	"sync/atomic"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/exporter/fileexporter"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/fileprovider"
	"go.opentelemetry.io/collector/connector"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/debugexporter"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/otelcol"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/processorhelper"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/service/telemetry/otelconftelemetry"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Refuse is the configuration of a processor that stands for a backend: the receiver answers as its status says.
type Refuse struct {
	// Times is how many exports are refused before the others are taken.
	Times int64 `mapstructure:"times"`
	// Code is that of gRPC: 8 becomes HTTP status 429, 14 becomes 503, 3 becomes 400.
	Code uint32 `mapstructure:"code"`
	// RetryAfter is told to the client; 0: it is not.
	RetryAfter time.Duration `mapstructure:"retry_after"`
	// Delay is waited before each answer.
	Delay time.Duration `mapstructure:"delay"`
}

func newRefuse(ctx context.Context, set processor.Settings, config component.Config, next consumer.Traces) (processor.Traces, error) {
	refuse := config.(*Refuse)
	var seen atomic.Int64
	return processorhelper.NewTraces(ctx, set, config, next, func(ctx context.Context, spans ptrace.Traces) (ptrace.Traces, error) {
		select {
		case <-time.After(refuse.Delay):
		case <-ctx.Done():
			return spans, ctx.Err()
		}
		if seen.Add(1) > refuse.Times {
			return spans, nil
		}
		answer := status.New(codes.Code(refuse.Code), "refused by the test")
		if refuse.RetryAfter > 0 {
			var err error
			answer, err = answer.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(refuse.RetryAfter)})
			if err != nil {
				return spans, err
			}
		}
		return spans, answer.Err()
	})
}

func factories() (otelcol.Factories, error) {
	refuse := processor.NewFactory(component.MustNewType("refuse"), func() component.Config { return &Refuse{} },
		processor.WithTraces(newRefuse, component.StabilityLevelDevelopment))
	made := otelcol.Factories{Telemetry: otelconftelemetry.NewFactory()}
	var err error
	if made.Receivers, err = otelcol.MakeFactoryMap[receiver.Factory](otlpreceiver.NewFactory()); err != nil {
		return made, err
	}
	if made.Processors, err = otelcol.MakeFactoryMap[processor.Factory](refuse); err != nil {
		return made, err
	}
	if made.Exporters, err = otelcol.MakeFactoryMap[exporter.Factory](debugexporter.NewFactory(), fileexporter.NewFactory()); err != nil {
		return made, err
	}
	if made.Extensions, err = otelcol.MakeFactoryMap[extension.Factory](); err != nil {
		return made, err
	}
	made.Connectors, err = otelcol.MakeFactoryMap[connector.Factory]()
	return made, err
}

func main() {
	command := otelcol.NewCommand(otelcol.CollectorSettings{
		BuildInfo: component.BuildInfo{Command: "collector", Description: "a Collector for tests", Version: "0.165.0"},
		Factories: factories,
		ConfigProviderSettings: otelcol.ConfigProviderSettings{ResolverSettings: confmap.ResolverSettings{
			ProviderFactories: []confmap.ProviderFactory{fileprovider.NewFactory()},
			DefaultScheme:     "file",
		}},
	})
	if err := command.Execute(); err != nil {
		log.Fatal(err)
	}
}
