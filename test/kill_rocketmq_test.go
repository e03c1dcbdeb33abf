package test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	rpc "google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/homing-mq/homing/internal/rocketmq"
	pb "github.com/homing-mq/homing/internal/rocketmqpb"
)

// TestKillRocketMQ is TestKill for senders that are RocketMQ producers, over
// remoting and gRPC: what was answered with SEND_OK is delivered, a delayed
// message not before its time, QoS 2 and 0 not twice, and what was refused
// because the server shuts down never.
func TestKillRocketMQ(t *testing.T) {
	t.Parallel()
	c := newCrash(t, "", "rocketmq", "rocketmq-grpc")
	addr := map[bool]string{false: c.s.addr["rocketmq"], true: c.s.addr["rocketmq-grpc"]}
	c.run(func() {
		for i, kind := range producerKinds {
			p := &producer{c: c, id: "producer-" + kind.name, kind: kind, addr: addr[kind.grpc], r: c.random(uint64(200 + i))}
			c.senders.Go(p.run)
		}
	})
}

type producerKind struct {
	name     string
	grpc     bool
	window   int  // requests under way
	most     int  // messages in a request; 0: one
	keep     bool // cleansessionflag=false; without it nothing is delayed
	delays   bool // half of its messages
	oneway   bool
	restless bool // drops its connection now and then
	hasty    bool // does not wait long for answers
}

var producerKinds = []producerKind{
	{name: "sync", window: 1, keep: true},
	{name: "async", window: 30, keep: true, restless: true},
	{name: "batch", window: 3, most: 8, keep: true, delays: true},
	{name: "oneway", window: 1, keep: true, oneway: true, restless: true},
	{name: "careless", window: 10, restless: true},
	{name: "timer", window: 20, keep: true, delays: true, restless: true},
	{name: "grpc", grpc: true, window: 1, keep: true, hasty: true},
	{name: "grpc-many", grpc: true, window: 10, most: 4, keep: true, delays: true, restless: true},
}

const (
	requestEvery = 10 * time.Millisecond // one or two requests
	longestDelay = 3 * time.Second
)

// producer is a sender of TestKillRocketMQ. It runs in one goroutine. What is
// not answered when its connection ends may have been taken or not. An SDK sends
// that again as a new message, which is no different from the next one here.
type producer struct {
	c    *crash
	id   string
	kind producerKind
	addr string
	r    *rand.Rand

	n        int32             // the last request
	underWay map[int32][]entry // by request
	silent   []entry           // oneway, on this connection
	last     time.Time         // when all delayed messages are due
}

// parcel is a message of a producer.
type parcel struct {
	entry
	body  []byte
	keep  bool
	delay int64 // ms
	due   int64 // Unix ms; 0: at once
}

func (p *parcel) properties() [][2]string {
	return [][2]string{
		{"mqttSecondTopic", "/p2p/" + p.target}, {"qoslevel", strconv.Itoa(int(p.qos))}, {"cleansessionflag", strconv.FormatBool(!p.keep)},
	}
}

// verdict is what a producer is told of a message.
type verdict int

const (
	accepted   verdict = iota
	elsewhere          // the server shuts down
	offline            // the target is, and the message is not kept
	unknowable         // who knows
	broken             // unknowable, and the connection is of no use any more
	unexpected
)

// verdicts answer a request: one for each of its messages, or one for all.
type verdicts struct {
	n    int32
	list []verdict
	text string // of what is unexpected
}

// producerLink is a connection of a producer. What it sends is answered in any
// order.
type producerLink interface {
	// send reports whether the connection took it.
	send(n int32, list []parcel, oneway bool) bool
	// answers is closed at the end.
	answers() <-chan verdicts
	// close ends it. Then answers has what was answered before, and its end.
	close()
}

func (p *producer) run() {
	for !p.finished() {
		p.underWay, p.silent = make(map[int32][]entry), nil
		l := p.connect()
		if l == nil {
			return
		}
		left := p.converse(l)
		l.close()
		for a := range l.answers() {
			p.take(a)
		}
		if left {
			p.abandon()
		}
	}
	select { // so that everybody has had the time to send what was not answered
	case <-time.After(time.Until(p.last)):
	case <-p.c.over:
	}
}

func (p *producer) finished() bool {
	return isClosed(p.c.over) || isClosed(p.c.producing) && len(p.underWay) == 0
}

// connect connects when the server is there; nil: the run is over.
func (p *producer) connect() (l producerLink) {
	p.c.whenUp(func() error {
		conn, err := net.DialTimeout("tcp", p.addr, time.Second)
		if err != nil {
			return err
		}
		if p.kind.grpc {
			l = newGRPCLink(conn, p.id, p.patience)
		} else {
			l = newRemotingLink(conn, rocketmq.Serialize(p.r.IntN(2)))
		}
		return nil
	})
	return l
}

// patience is how long the next answer is waited for.
func (p *producer) patience() time.Duration {
	if p.kind.hasty && p.r.IntN(4) == 0 {
		return time.Duration(p.r.IntN(8000)) * time.Microsecond
	}
	return patience
}

// converse goes on until the connection ends or all is done. It reports whether
// the producer has left.
func (p *producer) converse(l producerLink) (left bool) {
	tick := time.NewTicker(requestEvery)
	defer tick.Stop()
	var bored <-chan time.Time
	if p.kind.restless {
		bored = time.After(time.Duration(50+p.r.IntN(1500)) * time.Millisecond)
	}
	for !p.finished() {
		select {
		case a, ok := <-l.answers():
			if !ok || !p.take(a) {
				return false
			}
		case <-tick.C:
			if !isClosed(p.c.producing) && !p.produce(l) {
				return false
			}
		case <-bored:
			if !isClosed(p.c.draining) {
				return true
			}
		case <-p.c.over:
		}
	}
	return false
}

// abandon is after the producer has left: what it had not been told of may be
// handled later than what it sends from now on.
func (p *producer) abandon() {
	for _, list := range p.underWay {
		p.silent = append(p.silent, list...)
	}
	for _, e := range p.silent {
		p.loosen(e)
	}
}

func (p *producer) loosen(e entry) {
	p.c.ledger.note(e, func(f *fate) { f.loose = true })
}

// produce sends new messages. It reports whether the connection took them.
func (p *producer) produce(l producerLink) bool {
	for range 1 + p.r.IntN(2) {
		if len(p.underWay) >= p.kind.window {
			break
		}
		var list []parcel
		for range 1 + p.r.IntN(max(p.kind.most, 1)) {
			list = append(list, p.newParcel())
		}
		p.n++
		for _, one := range list {
			if p.kind.oneway {
				p.silent = append(p.silent, one.entry)
			} else {
				p.underWay[p.n] = append(p.underWay[p.n], one.entry)
			}
		}
		if !l.send(p.n, list, p.kind.oneway) {
			return false
		}
	}
	return true
}

func (p *producer) newParcel() parcel {
	one := parcel{keep: p.kind.keep}
	one.entry = entry{sender: p.id, target: p.c.ids[p.r.IntN(len(p.c.ids))], qos: []byte{0, 1, 1, 2, 2}[p.r.IntN(5)]}
	f := fate{exempt: mayRepeat(one.target), loose: p.kind.grpc && p.kind.window > 1}
	if p.kind.delays && p.r.IntN(2) == 0 {
		one.delay = 1 + p.r.Int64N(longestDelay.Milliseconds())
		one.due = time.Now().UnixMilli() + one.delay
		p.last = time.Now().Add(longestDelay)
		f.due, f.loose = one.due, true
	}
	p.c.ledger.send(&one.entry, f)
	filling := p.r.IntN(200)
	if p.r.IntN(50) == 0 {
		filling = 20000
	}
	one.body = one.payload(filling)
	return one
}

// take takes down what the producer learns. It reports whether the connection
// goes on.
func (p *producer) take(a verdicts) bool {
	list := p.underWay[a.n]
	if list == nil {
		p.c.ledger.problem("%s: an answer to request %d, which does not wait for it: %v %s", p.id, a.n, a.list, a.text)
	}
	delete(p.underWay, a.n)
	on := true
	for i, e := range list {
		switch v := a.list[min(i, len(a.list)-1)]; {
		case v == accepted && e.qos == 0: // promises nothing
		case v == accepted:
			p.c.ledger.acknowledge(e, "SEND_OK")
		case v == elsewhere:
			p.c.ledger.note(e, func(f *fate) { f.untaken = true })
		case v == offline && !p.kind.keep:
		case v == unknowable:
			p.loosen(e)
		case v == broken:
			on = false
		default:
			p.c.ledger.problem("%s: request %d is answered with %v %s: %+v", p.id, a.n, a.list, a.text, e)
		}
	}
	return on
}

// remotingLink is a producerLink as the SDKs of RocketMQ 4 have it.
type remotingLink struct {
	conn      net.Conn
	serialize rocketmq.Serialize
	in        chan verdicts
}

func newRemotingLink(conn net.Conn, serialize rocketmq.Serialize) *remotingLink {
	l := &remotingLink{conn: conn, serialize: serialize, in: make(chan verdicts, 4096)}
	go l.read()
	return l
}

func (l *remotingLink) answers() <-chan verdicts { return l.in }
func (l *remotingLink) close()                   { l.conn.Close() }

// read is the reader. It takes answers until the connection ends.
func (l *remotingLink) read() {
	defer close(l.in)
	r := bufio.NewReader(l.conn)
	for {
		var answer rocketmq.Command
		err := readCommand(r, &answer)
		switch {
		case err == nil:
			l.in <- remotingVerdicts(&answer)
		case errors.Is(err, rocketmq.ErrMalformed), errors.Is(err, rocketmq.ErrTooLarge):
			l.in <- verdicts{list: []verdict{unexpected}, text: err.Error()}
			return
		default:
			return
		}
	}
}

func readCommand(r io.Reader, c *rocketmq.Command) error {
	const limit = 64 << 10
	b := make([]byte, 4, 1024)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	size := binary.BigEndian.Uint32(b)
	if size > limit {
		return rocketmq.ErrTooLarge
	}
	b = append(b, make([]byte, size)...)
	if _, err := io.ReadFull(r, b[4:]); err != nil {
		return err
	}
	f, _, _, err := rocketmq.Split(b, limit)
	if err != nil {
		return err
	}
	return c.Decode(f.Serialize, f.Header)
}

func remotingVerdicts(answer *rocketmq.Command) verdicts {
	a := verdicts{n: answer.Opaque, list: []verdict{unexpected}, text: fmt.Sprintf("%d %s", answer.Code, answer.Remark)}
	switch code := rocketmq.ResponseCode(answer.Code); {
	case !answer.IsResponse():
	case code == rocketmq.Success:
		a.list[0] = accepted
	case code == rocketmq.ServiceNotAvailable && strings.Contains(a.text, "shutting down"):
		a.list[0] = elsewhere
	case code == rocketmq.ConsumerNotOnline:
		a.list[0] = offline
	}
	return a
}

func (l *remotingLink) send(n int32, list []parcel, oneway bool) bool {
	request := rocketmq.Command{Code: int32(rocketmq.SendMessageV2), Language: rocketmq.LanguageJava, Version: 479, Opaque: n}
	if oneway {
		request.Flag = rocketmq.FlagOneway
	}
	body, properties := list[0].body, remotingProperties(&list[0])
	batch := len(list) > 1
	if batch {
		request.Code, body, properties = int32(rocketmq.SendBatchMessage), nil, ""
		for i := range list {
			body = rocketmq.AppendBatchMessage(body, rocketmq.BatchMessage{Body: list[i].body, Properties: []byte(remotingProperties(&list[i]))})
		}
	}
	for i, value := range []string{
		"producers", "kill", "TBW102", "4", "0", "0", strconv.FormatInt(time.Now().UnixMilli(), 10), "0", properties, "0", "false", "0",
		strconv.FormatBool(batch), "homing",
	} {
		request.Ext = append(request.Ext, rocketmq.Field{Key: []byte{'a' + byte(i)}, Value: []byte(value)})
	}
	_ = l.conn.SetWriteDeadline(time.Now().Add(patience))
	_, err := l.conn.Write(request.Append(nil, l.serialize, body))
	return err == nil
}

func remotingProperties(p *parcel) string {
	var b []byte
	for _, pair := range p.properties() {
		b = rocketmq.AppendProperty(b, pair[0], pair[1])
	}
	switch {
	case p.due == 0:
	case p.seq%2 == 0:
		b = rocketmq.AppendProperty(b, "TIMER_DELAY_MS", strconv.FormatInt(p.delay, 10))
	default:
		b = rocketmq.AppendProperty(b, "TIMER_DELIVER_MS", strconv.FormatInt(p.due, 10))
	}
	return string(b)
}

// grpcLink is a producerLink as the SDKs of RocketMQ 5 have it. Each request is
// a call with a goroutine of its own.
type grpcLink struct {
	conn     *grpc.ClientConn
	service  pb.MessagingServiceClient
	id       string
	patience func() time.Duration
	ctx      context.Context // of all calls
	cancel   context.CancelFunc
	calls    sync.WaitGroup
	in       chan verdicts
}

// newGRPCLink speaks gRPC on a connection, and makes no other one.
func newGRPCLink(conn net.Conn, id string, patience func() time.Duration) *grpcLink {
	first := make(chan net.Conn, 1)
	first <- conn
	dial := func(context.Context, string) (net.Conn, error) {
		select {
		case conn := <-first:
			return conn, nil
		default:
			return nil, net.ErrClosed
		}
	}
	client, err := grpc.NewClient("passthrough:///homing", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(dial))
	if err != nil {
		panic(err) // the options are wrong
	}
	l := &grpcLink{conn: client, service: pb.NewMessagingServiceClient(client), id: id, patience: patience, in: make(chan verdicts, 4096)}
	l.ctx, l.cancel = context.WithCancel(metadata.AppendToOutgoingContext(context.Background(), "x-mq-client-id", id))
	client.Connect() // so that conn is closed with it
	return l
}

func (l *grpcLink) answers() <-chan verdicts { return l.in }

func (l *grpcLink) close() {
	l.cancel()
	l.conn.Close()
	l.calls.Wait()
	close(l.in)
}

func (l *grpcLink) send(n int32, list []parcel, _ bool) bool {
	request := new(pb.SendMessageRequest)
	for i := range list {
		p := &list[i]
		m := &pb.Message{
			Topic: &pb.Resource{Name: "kill"}, UserProperties: make(map[string]string), Body: p.body,
			SystemProperties: &pb.SystemProperties{MessageId: fmt.Sprint(l.id, n, i), BodyEncoding: pb.Encoding_IDENTITY, MessageType: pb.MessageType_NORMAL},
		}
		for _, pair := range p.properties() {
			m.UserProperties[pair[0]] = pair[1]
		}
		if p.due > 0 {
			m.SystemProperties.MessageType = pb.MessageType_DELAY
			m.SystemProperties.DeliveryTimestamp = timestamppb.New(time.UnixMilli(p.due))
		}
		request.Messages = append(request.Messages, m)
	}
	ctx, cancel := context.WithTimeout(l.ctx, l.patience())
	l.calls.Go(func() {
		defer cancel()
		answer, err := l.service.SendMessage(ctx, request)
		l.in <- grpcVerdicts(n, answer, err)
	})
	return true
}

func grpcVerdicts(n int32, answer *pb.SendMessageResponse, err error) verdicts {
	a := verdicts{n: n}
	switch status.Code(err) {
	case rpc.OK:
	case rpc.DeadlineExceeded, rpc.Canceled:
		a.list = []verdict{unknowable}
		return a
	case rpc.Unavailable:
		a.list = []verdict{broken}
		return a
	default:
		a.list, a.text = []verdict{unexpected}, err.Error()
		return a
	}
	all := []*pb.Status{answer.GetStatus()}
	if len(answer.GetEntries()) > 0 {
		all = nil
		for _, e := range answer.Entries {
			all = append(all, e.GetStatus())
		}
	}
	for _, s := range all {
		a.list = append(a.list, grpcVerdict(s))
		a.text += " " + s.String()
	}
	return a
}

func grpcVerdict(s *pb.Status) verdict {
	switch s.GetCode() {
	case pb.Code_OK:
		return accepted
	case pb.Code_HA_NOT_AVAILABLE:
		return elsewhere
	case pb.Code_NOT_FOUND:
		return offline
	}
	return unexpected
}
