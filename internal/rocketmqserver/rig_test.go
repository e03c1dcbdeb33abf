package rocketmqserver

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/homing-mq/homing/internal/auth"
	"github.com/homing-mq/homing/internal/broker"
	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/mqtt"
	"github.com/homing-mq/homing/internal/rocketmq"
	"github.com/homing-mq/homing/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a gateway on a core and a store in memory. One access key, AK, with the
// secret SK may be used where auth.AccessKeys says so.
type rig struct {
	*Server
	t        *testing.T
	core     *broker.Broker
	remoting string // addresses
	grpc     string
}

// patience bounds every wait of these tests.
const patience = 10 * time.Second

type rigOptions struct {
	auth   auth.Options
	core   func(*broker.Options)
	server func(*Options)
	log    *slog.Logger // nil: none
}

func newRig(t *testing.T, o rigOptions) *rig {
	t.Helper()
	r := &rig{t: t}
	var batch broker.Batch
	st, err := store.Open(store.Options{
		Dir: "data", FS: vfs.NewMem(), Sync: store.SyncOS, SegmentSize: 1 << 20,
		Done: func(ops []mq.Op, err error) { r.core.Committed(ops, err, &batch) },
	})
	if err != nil {
		t.Fatal(err)
	}
	a, err := auth.New(o.auth)
	if err != nil {
		t.Fatal(err)
	}
	log := o.log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	copt := broker.Options{Store: st, Auth: a, Log: log, StoreAfter: 20 * time.Millisecond, PendingSize: 1 << 20, PendingAll: 64 << 20}
	if o.core != nil {
		o.core(&copt)
	}
	if r.core, err = broker.New(copt); err != nil {
		t.Fatal(err)
	}
	opt := Options{
		Broker: r.core, Auth: a, Log: log, BodySize: 64 << 10, TopicLength: 65535, MaxQoS: 2, MaxDelay: time.Hour,
		Unanswered: 100, ReadBytes: 8 << 20, IdleTimeout: patience, FrameTime: patience,
	}
	if o.server != nil {
		o.server(&opt)
	}
	if r.Server, err = New(opt); err != nil {
		t.Fatal(err)
	}
	l, g := listen(t), listen(t)
	r.remoting, r.grpc = l.Addr().String(), g.Addr().String()
	r.ServeRemoting(l, l.Addr().(*net.TCPAddr).AddrPort().Port())
	r.ServeGRPC(g)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := r.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		r.core.Close()
		if err := st.Close(); err != nil {
			t.Error(err)
		}
		a.Close()
	})
	return r
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

var theKey = []auth.AccessKey{{Key: "AK", Secret: "SK"}}

// got is a message as a device sees it.
type got struct {
	topic, payload string
	qos            mq.QoS
	props          string // user properties, key=value, and the content type
	expires        bool
}

// device is a client of the core that acknowledges what it gets.
type device struct {
	r     *rig
	id    string
	sess  *broker.Session
	got   chan got
	mute  bool // does not acknowledge
	mu    sync.Mutex
	owes  []owed
	batch broker.Batch
}

type owed struct {
	qos mq.QoS
	pid uint16
}

// device connects a device; with persistent set its messages are kept for it.
func (r *rig) device(id string, persistent bool) *device {
	r.t.Helper()
	d := &device{r: r, id: id, got: make(chan got, 10000)}
	d.connect(persistent)
	return d
}

func (d *device) connect(persistent bool) {
	d.r.t.Helper()
	expiry := uint32(0)
	if persistent {
		expiry = broker.NeverExpires
	}
	d.batch.Begin()
	s, err := d.r.core.Connect(broker.ConnectRequest{ClientID: d.id, Conn: d, Expiry: expiry, ReceiveMax: 100}, &d.batch)
	if err != nil {
		d.r.t.Fatal(err)
	}
	d.mu.Lock()
	d.sess = s
	d.mu.Unlock()
	d.batch.Flush()
	d.Flush(&d.batch)
	d.batch.Flush()
}

func (d *device) disconnect() {
	d.batch.Begin()
	d.r.core.Disconnect(d.sess, d, broker.Departure{}, &d.batch)
	d.batch.Flush()
}

func (d *device) subscribe(filter string) {
	d.r.t.Helper()
	d.batch.Begin()
	d.r.core.Subscribe(d.sess, &mq.Principal{ClientID: d.id}, []mq.Subscription{{Filter: filter, QoS: 2}}, &d.batch)
	d.batch.Flush()
}

// next returns the next message that the device has got.
func (d *device) next() got {
	d.r.t.Helper()
	select {
	case g := <-d.got:
		return g
	case <-time.After(patience):
		d.r.t.Fatalf("%s gets nothing", d.id)
		return got{}
	}
}

// nothing checks that the device has got no message of what is handled: the next
// is one that is sent now.
func (d *device) nothing() {
	d.r.t.Helper()
	var batch broker.Batch
	batch.Begin()
	m := &mq.Message{Topic: []byte("nothing/p2p/" + d.id), Payload: []byte("sent last")}
	if code := d.r.core.Publish(broker.Source{Principal: &mq.Principal{AccessKey: "AK"}}, m, nil, 0, &batch); code != mq.OK {
		d.r.t.Fatal(code)
	}
	batch.Flush()
	if g := d.next(); g.payload != "sent last" {
		d.r.t.Errorf("%s gets %+v", d.id, g)
		for g.payload != "sent last" {
			g = d.next()
		}
	}
}

// quiet checks that the device gets no message for a while: of requests that wait
// for room, which nobody can see.
func (d *device) quiet() {
	d.r.t.Helper()
	select {
	case g := <-d.got:
		d.r.t.Errorf("%s gets %+v", d.id, g)
	case <-time.After(100 * time.Millisecond):
	}
}

// The rest of device is broker.Conn.

func (d *device) SendConnack(*broker.Session, bool, *broker.Batch) {}
func (d *device) Takes(*mq.Message, broker.Header) bool            { return true }
func (d *device) Close(broker.CloseReason)                         {}
func (d *device) Settle()                                          {}
func (d *device) Revoked() bool                                    { return false }

func (d *device) Quiesce() {}

func (d *device) SendPublish(m *mq.Message, h broker.Header, b *broker.Batch) broker.SendResult {
	var props []string
	var p mqtt.Properties
	if err := mqtt.DecodeProps(m.Props, &p); err != nil {
		d.r.t.Errorf("properties: %v", err)
	}
	for k, v := range mqtt.UserProperties(m.Props) {
		props = append(props, fmt.Sprintf("%s=%s", k, v))
	}
	if p.Has(mqtt.PropContentType) {
		props = append(props, fmt.Sprintf("(%s)", p.ContentType))
	}
	d.got <- got{string(m.SeenTopic()), string(m.Payload), h.QoS, strings.Join(props, " "), m.Expiry != 0}
	if h.QoS > 0 && !d.mute {
		d.mu.Lock()
		d.owes = append(d.owes, owed{h.QoS, h.PacketID})
		d.mu.Unlock()
		b.Touch(d)
	}
	return broker.Sent
}

func (d *device) SendAck(kind broker.AckKind, pid uint16, _ mq.Code, b *broker.Batch) {
	if kind == broker.Pubrel {
		d.mu.Lock()
		d.owes = append(d.owes, owed{3, pid})
		d.mu.Unlock()
		b.Touch(d)
	}
}

func (d *device) Flush(b *broker.Batch) {
	d.mu.Lock()
	owes, s := d.owes, d.sess
	if s == nil { // not connected yet
		owes = nil
	} else {
		d.owes = nil
	}
	d.mu.Unlock()
	for _, o := range owes {
		switch o.qos {
		case 1:
			d.r.core.Puback(s, d, o.pid, b)
		case 2:
			d.r.core.Pubrec(s, d, o.pid, false, b)
		case 3:
			d.r.core.Pubcomp(s, d, o.pid, b)
		}
	}
}

// client is a RocketMQ client over remoting.
type client struct {
	t      *testing.T
	nc     net.Conn
	serial rocketmq.Serialize
	secret string // signs requests as AK; empty: does not
	opaque int32
}

func (r *rig) dial() *client {
	r.t.Helper()
	nc, err := net.Dial("tcp", r.remoting)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { nc.Close() })
	return &client{t: r.t, nc: nc}
}

func (r *rig) dialTLS() *client {
	r.t.Helper()
	nc, err := tls.Dial("tcp", r.remoting, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { nc.Close() })
	return &client{t: r.t, nc: nc}
}

// request sends a request and does not wait for the answer. ext is key, value,
// key, value...
func (c *client) request(code rocketmq.RequestCode, flag int32, body []byte, ext ...string) {
	c.t.Helper()
	c.opaque++
	cmd := rocketmq.Command{Code: int32(code), Opaque: c.opaque, Flag: flag, Version: 399}
	for i := 0; i < len(ext); i += 2 {
		cmd.Ext = append(cmd.Ext, rocketmq.Field{Key: []byte(ext[i]), Value: []byte(ext[i+1])})
	}
	if c.secret != "" {
		cmd.Ext = append(cmd.Ext, rocketmq.Field{Key: []byte("AccessKey"), Value: []byte("AK")})
		sum := rocketmq.Sign([]byte(c.secret), cmd.Ext, body)
		cmd.Ext = append(cmd.Ext, rocketmq.Field{Key: []byte("Signature"), Value: []byte(sum)})
	}
	if _, err := c.nc.Write(cmd.Append(nil, c.serial, body)); err != nil {
		c.t.Fatal(err)
	}
}

// answer is a response with its body.
type answer struct {
	rocketmq.Command
	code   rocketmq.ResponseCode
	remark string
	body   []byte
}

// answer reads the next response.
func (c *client) answer() answer {
	c.t.Helper()
	a, err := c.read()
	if err != nil {
		c.t.Fatal(err)
	}
	return a
}

func (c *client) read() (a answer, err error) {
	_ = c.nc.SetReadDeadline(time.Now().Add(patience))
	var size [4]byte
	if _, err := io.ReadFull(c.nc, size[:]); err != nil {
		return a, err
	}
	frame := make([]byte, 4+binary.BigEndian.Uint32(size[:]))
	copy(frame, size[:])
	if _, err := io.ReadFull(c.nc, frame[4:]); err != nil {
		return a, err
	}
	f, _, _, err := rocketmq.Split(frame, len(frame))
	if err != nil {
		return a, err
	}
	if err := a.Decode(f.Serialize, f.Header); err != nil {
		return a, err
	}
	a.code, a.remark, a.body = rocketmq.ResponseCode(a.Code), string(a.Remark), f.Body
	return a, nil
}

// do sends a request and returns the answer.
func (c *client) do(code rocketmq.RequestCode, body []byte, ext ...string) answer {
	c.t.Helper()
	c.request(code, 0, body, ext...)
	a := c.answer()
	if !a.IsResponse() || a.Opaque != c.opaque {
		c.t.Fatalf("answer %+v to request %d", a.Command, c.opaque)
	}
	return a
}

// properties encodes key, value, key, value...
func properties(kv ...string) string {
	var b []byte
	for i := 0; i < len(kv); i += 2 {
		b = rocketmq.AppendProperty(b, kv[i], kv[i+1])
	}
	return string(b)
}

// fields are the extension fields of a SEND_MESSAGE_V2.
func fields(topic, properties string, more ...string) []string {
	return append([]string{
		"a", "group", "b", topic, "c", "TBW102", "d", "4", "e", "2", "f", "0", "g", "1700000000000", "h", "0",
		"i", properties, "j", "0", "k", "false", "l", "0", "m", "false", "n", "homing",
	}, more...)
}

// send sends one message and returns the answer.
func (c *client) send(topic, body string, kv ...string) answer {
	c.t.Helper()
	return c.do(rocketmq.SendMessageV2, []byte(body), fields(topic, properties(kv...))...)
}
