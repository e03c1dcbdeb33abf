// Command go-remoting drives github.com/apache/rocketmq-client-go/v2 for the
// interop tests.
package main

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"

	rocketmq "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
	"github.com/apache/rocketmq-client-go/v2/rlog"

	"github.com/homing-mq/homing/test/interop/line"
)

func main() {
	rlog.SetLogLevel("warn")
	// SendAsync goes on with a nil reply once it has told of an error.
	primitive.PanicHandler = func(x any) { fmt.Fprintln(os.Stderr, "panic in the SDK:", x) }
	d := line.Driver{
		SDK:   "rocketmq-client-go 2.1.2 (Go)",
		Modes: []string{"sync", "async", "oneway", "batch", "delay", "ordered", "transaction"},
		Start: start,
		Code:  code,
	}
	d.Run()
}

type sender struct {
	config  line.Config
	plain   rocketmq.Producer
	ordered rocketmq.Producer // started when it is used
	inTx    rocketmq.TransactionProducer
}

func start(c line.Config) (line.Producer, error) {
	s := &sender{config: c}
	var err error
	if s.plain, err = s.producer("", nil); err != nil {
		return nil, err
	}
	return s, nil
}

// options are the SDK's own but for the address, credentials and group, which
// is one for each producer.
func (s *sender) options(suffix string) []producer.Option {
	list := []producer.Option{
		producer.WithNameServer(primitive.NamesrvAddr{s.config.Endpoint}),
		producer.WithGroupName(s.config.Group + suffix),
	}
	if s.config.AccessKey != "" {
		list = append(list, producer.WithCredentials(primitive.Credentials{AccessKey: s.config.AccessKey, SecretKey: s.config.SecretKey}))
	}
	return list
}

func (s *sender) producer(suffix string, selector producer.QueueSelector) (rocketmq.Producer, error) {
	list := s.options(suffix)
	if selector != nil {
		list = append(list, producer.WithQueueSelector(selector))
	}
	p, err := rocketmq.NewProducer(list...)
	if err != nil {
		return nil, err
	}
	return p, p.Start()
}

func (s *sender) Send(r *line.Request, done line.Done) {
	ctx := context.Background()
	switch r.Mode {
	case "sync":
		done(receipt(s.plain.SendSync(ctx, message(r, r.Body()))))
	case "async":
		err := s.plain.SendAsync(ctx, func(_ context.Context, result *primitive.SendResult, err error) {
			done(receipt(result, err))
		}, message(r, r.Body()))
		if err != nil {
			done(line.Receipt{}, err)
		}
	case "oneway":
		done(line.Receipt{}, s.plain.SendOneWay(ctx, message(r, r.Body())))
	case "batch":
		done(receipt(s.plain.SendSync(ctx, batch(r)...)))
	case "delay":
		done(receipt(s.plain.SendSync(ctx, message(r, r.Body()).WithDelayTimeLevel(r.DelayLevel))))
	case "ordered":
		done(s.sendOrdered(ctx, message(r, r.Body()).WithShardingKey(r.OrderKey)))
	case "transaction":
		done(s.sendInTransaction(ctx, message(r, r.Body())))
	default:
		done(line.Receipt{}, fmt.Errorf("mode %q is not one of this SDK", r.Mode))
	}
}

func message(r *line.Request, body []byte) *primitive.Message {
	m := primitive.NewMessage(r.Topic, body)
	for k, v := range r.Properties {
		m.WithProperty(k, v)
	}
	if r.Tag != "" {
		m.WithTag(r.Tag)
	}
	if len(r.Keys) > 0 {
		m.WithKeys(r.Keys)
	}
	return m
}

func batch(r *line.Request) (list []*primitive.Message) {
	for i := range r.Count {
		list = append(list, message(r, fmt.Appendf(nil, "%s-%d", r.Text, i)))
	}
	return list
}

var status = map[primitive.SendStatus]string{
	primitive.SendOK: "SEND_OK", primitive.SendFlushDiskTimeout: "FLUSH_DISK_TIMEOUT",
	primitive.SendFlushSlaveTimeout: "FLUSH_SLAVE_TIMEOUT", primitive.SendSlaveNotAvailable: "SLAVE_NOT_AVAILABLE",
}

func receipt(result *primitive.SendResult, err error) (line.Receipt, error) {
	if err != nil {
		return line.Receipt{}, err
	}
	ids := result.MsgID
	if ids == "" { // of a batch
		ids = result.OffsetMsgID
	}
	return line.Receipt{Status: status[result.Status], IDs: strings.Split(ids, ",")}, nil
}

func (s *sender) sendOrdered(ctx context.Context, m *primitive.Message) (line.Receipt, error) {
	if s.ordered == nil {
		p, err := s.producer("_ordered", producer.NewHashQueueSelector())
		if err != nil {
			return line.Receipt{}, err
		}
		s.ordered = p
	}
	return receipt(s.ordered.SendSync(ctx, m))
}

// commit is the listener of a transaction that succeeds.
type commit struct{}

func (commit) ExecuteLocalTransaction(*primitive.Message) primitive.LocalTransactionState {
	return primitive.CommitMessageState
}

func (commit) CheckLocalTransaction(*primitive.MessageExt) primitive.LocalTransactionState {
	return primitive.CommitMessageState
}

func (s *sender) sendInTransaction(ctx context.Context, m *primitive.Message) (line.Receipt, error) {
	if s.inTx == nil {
		p, err := rocketmq.NewTransactionProducer(commit{}, s.options("_transaction")...)
		if err != nil {
			return line.Receipt{}, err
		}
		if err := p.Start(); err != nil {
			return line.Receipt{}, err
		}
		s.inTx = p
	}
	result, err := s.inTx.SendMessageInTransaction(ctx, m)
	if err != nil {
		return line.Receipt{}, err
	}
	return receipt(result.SendResult, nil)
}

func (s *sender) Close() error {
	if s.ordered != nil {
		if err := s.ordered.Shutdown(); err != nil {
			return err
		}
	}
	if s.inTx != nil {
		if err := s.inTx.Shutdown(); err != nil {
			return err
		}
	}
	return s.plain.Shutdown()
}

var codeInText = regexp.MustCompile(`CODE: (\d+)`)

// code is in the text only.
func code(err error) int {
	m := codeInText.FindStringSubmatch(err.Error())
	if m == nil {
		return 0
	}
	n, _ := strconv.Atoi(m[1])
	return n
}
