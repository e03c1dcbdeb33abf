// Command go-grpc drives github.com/apache/rocketmq-clients/golang/v5 for the
// interop tests.
package main

import (
	"context"
	"fmt"
	"time"

	golang "github.com/apache/rocketmq-clients/golang/v5"
	"github.com/apache/rocketmq-clients/golang/v5/credentials"

	"github.com/homing-mq/homing/test/interop/line"
)

func main() {
	d := line.Driver{
		SDK:   "rocketmq-clients/golang 5.1.4 (Go)",
		Modes: []string{"sync", "async", "delay", "ordered", "transaction"},
		TLS:   true,
		Start: start,
		Code:  code,
	}
	d.Run()
}

type sender struct{ golang.Producer }

func start(c line.Config) (line.Producer, error) {
	golang.EnableSsl = c.TLS
	config := &golang.Config{Endpoint: c.Endpoint}
	if c.AccessKey != "" {
		config.Credentials = &credentials.SessionCredentials{AccessKey: c.AccessKey, AccessSecret: c.SecretKey}
	}
	checker := &golang.TransactionChecker{Check: func(*golang.MessageView) golang.TransactionResolution { return golang.COMMIT }}
	p, err := golang.NewProducer(config, golang.WithTopics(c.Topic), golang.WithTransactionChecker(checker))
	if err != nil {
		return nil, err
	}
	return &sender{p}, p.Start()
}

func (s *sender) Send(r *line.Request, done line.Done) {
	ctx := context.Background()
	m := message(r)
	switch r.Mode {
	case "async":
		s.SendAsync(ctx, m, func(_ context.Context, list []*golang.SendReceipt, err error) { done(receipt(list, err)) })
	case "delay":
		m.SetDelayTimestamp(time.Now().Add(time.Duration(r.DelayMS) * time.Millisecond))
		done(receipt(s.Producer.Send(ctx, m)))
	case "ordered":
		m.SetMessageGroup(r.OrderKey)
		done(receipt(s.Producer.Send(ctx, m)))
	case "sync":
		done(receipt(s.Producer.Send(ctx, m)))
	case "transaction":
		done(s.sendInTransaction(ctx, m))
	default:
		done(line.Receipt{}, fmt.Errorf("mode %q is not one of this SDK", r.Mode))
	}
}

func message(r *line.Request) *golang.Message {
	m := &golang.Message{Topic: r.Topic, Body: r.Body()}
	for k, v := range r.Properties {
		m.AddProperty(k, v)
	}
	if r.Tag != "" {
		m.SetTag(r.Tag)
	}
	m.SetKeys(r.Keys...)
	return m
}

func receipt(list []*golang.SendReceipt, err error) (line.Receipt, error) {
	if err != nil {
		return line.Receipt{}, err
	}
	r := line.Receipt{Status: "SEND_OK"}
	for _, x := range list {
		r.IDs = append(r.IDs, x.MessageID)
	}
	return r, nil
}

func (s *sender) sendInTransaction(ctx context.Context, m *golang.Message) (line.Receipt, error) {
	transaction := s.BeginTransaction()
	r, err := receipt(s.SendWithTransaction(ctx, m, transaction))
	if err != nil {
		return r, err
	}
	return r, transaction.Commit()
}

func (s *sender) Close() error { return s.GracefulStop() }

func code(err error) int {
	if status, ok := golang.AsErrRpcStatus(err); ok {
		return int(status.GetCode())
	}
	return 0
}
