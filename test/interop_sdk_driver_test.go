package test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// sdk is somebody else's RocketMQ SDK, behind a driver in interop.
type sdk struct {
	name      string // of the driver
	transport string // the server's listener it talks to
	timer     bool   // it can delay by a time
	levels    bool   // it can delay by a level
	verifies  bool   // it takes only certificates that it knows
	demands   bool   // it does not start without credentials
	hides     bool   // it shows the text of code 16 only
	binary    bool   // it can write binary headers
}

var sdks = []*sdk{
	{name: "ons-client", transport: "rocketmq", timer: true, demands: true, hides: true, binary: true},
	{name: "rocketmq-client-4", transport: "rocketmq", levels: true, binary: true},
	{name: "rocketmq-client-5", transport: "rocketmq", timer: true, levels: true, binary: true},
	{name: "go-remoting", transport: "rocketmq", levels: true},
	{name: "rocketmq-client-java", transport: "rocketmq-grpc", timer: true},
	{name: "go-grpc", transport: "rocketmq-grpc", timer: true},
	{name: "node-grpc", transport: "rocketmq-grpc", timer: true, verifies: true},
	{name: "python-grpc", transport: "rocketmq-grpc", timer: true, verifies: true},
}

// install makes the driver. missing names what it needs and is not there.
func (x *sdk) install() (missing string, err error) {
	out, err := exec.Command("interop/install.sh", x.name).CombinedOutput()
	text := strings.TrimSpace(string(out))
	if exit, ok := err.(*exec.ExitError); ok && exit.ExitCode() == 3 {
		return text, nil
	}
	if err != nil {
		return "", fmt.Errorf("install: %w\n%s", err, text)
	}
	return "", nil
}

// identity is what a driver starts its producer with.
type identity struct {
	key, secret string // "": no credentials
	tls         bool
	env         string // one more of the driver's environment; "": none
}

// request is what a driver is asked to send; interop/README.md has the fields.
type request struct {
	ID         int               `json:"id"`
	Op         string            `json:"op"`
	Mode       string            `json:"mode,omitempty"`
	Topic      string            `json:"topic"`
	Tag        string            `json:"tag,omitempty"`
	Keys       []string          `json:"keys,omitempty"`
	Body       string            `json:"body"`
	Fill       int               `json:"fill"`
	Properties map[string]string `json:"properties"`
	DelayMS    int               `json:"delayMs"`
	DelayLevel int               `json:"delayLevel"`
	OrderKey   string            `json:"orderKey"`
	Count      int               `json:"count"`
	EveryMS    int               `json:"everyMs"`
}

// answer is anything a driver says.
type answer struct {
	Event      string
	SDK        string
	Modes      []string
	TLS        bool
	ID         int
	OK         bool
	Status     string
	MessageID  string
	MessageIDs []string
	Code       int
	Error      string
	MS         json.RawMessage // a number; of a series a list
}

// ms is the time that something took, in milliseconds.
func (a answer) ms(t testing.TB) (n float64) {
	t.Helper()
	if err := json.Unmarshal(a.MS, &n); err != nil {
		t.Fatalf("ms is %q: %v", a.MS, err)
	}
	return n
}

// driver is an SDK's producer that runs.
type driver struct {
	*process
	t      testing.TB // of the test that uses it now
	sdk    *sdk
	hello  answer // what it said of its start
	lastID int

	mu      sync.Mutex
	waiting map[int]chan answer
}

// launch starts a producer of an SDK for addr and waits for what it says of its
// start. It ends with the test.
func (x *sdk) launch(t testing.TB, addr string, who identity) *driver {
	t.Helper()
	dir := t.TempDir()
	errors := filepath.Join(dir, "stderr")
	// The driver's two outputs must not get mixed.
	cmd := exec.Command("sh", "-c", `exec "$0" "$1" 2>"$2"`, "interop/run.sh", x.name, errors)
	cmd.Env = environ("HOME=" + dir) // where SDKs write their logs
	if who.env != "" {
		cmd.Env = append(cmd.Env, who.env)
	}
	d := &driver{t: t, sdk: x, waiting: make(map[int]chan answer), process: start(t, cmd)}
	t.Cleanup(func() {
		if log, err := os.ReadFile(errors); t.Failed() && err == nil {
			t.Logf("%s wrote to standard error:\n%s", x.name, log[max(0, len(log)-4000):])
		}
	})
	hello := make(chan answer, 1)
	go lines(d.process, func(line string) { d.heard(line, hello) })
	d.tell(map[string]any{
		"endpoint": addr, "accessKey": who.key, "secretKey": who.secret, "tls": who.tls, "group": "GID_interop", "topic": "orders",
	})
	select {
	case d.hello = <-hello:
	case <-d.done:
		select {
		case d.hello = <-hello:
		case <-time.After(lastWords):
			t.Fatalf("%s ended:\n%s", x.name, d.tail())
		}
	case <-timeout():
		t.Fatalf("%s does not start:\n%s", x.name, d.tail())
	}
	return d
}

// launched is a producer that has started.
func (x *sdk) launched(t testing.TB, addr string, who identity) *driver {
	t.Helper()
	d := x.launch(t, addr, who)
	if d.hello.Event != "started" {
		t.Fatalf("%s cannot start: %s", x.name, d.hello.Error)
	}
	return d
}

// use lets a subtest use the driver until it ends.
func (d *driver) use(t testing.TB) {
	before := d.t
	d.t = t
	t.Cleanup(func() { d.t = before })
}

func (d *driver) heard(line string, hello chan<- answer) {
	var a answer
	if err := json.Unmarshal([]byte(line), &a); err != nil {
		return // an SDK that writes to standard output after all; tail shows it
	}
	if a.Event != "" {
		hello <- a
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if ch := d.waiting[a.ID]; ch != nil {
		ch <- a
		delete(d.waiting, a.ID)
	}
}

func (d *driver) tell(x any) {
	d.t.Helper()
	line, err := json.Marshal(x)
	if err == nil {
		_, err = d.in.Write(append(line, '\n'))
	}
	if err != nil {
		d.t.Fatalf("%s: %v\n%s", d.sdk.name, err, d.tail())
	}
}

// lastWords is how long what a driver has written may take to be read after its
// end.
const lastWords = 2 * time.Second

// ask sends a request and does not wait.
func (d *driver) ask(r request) <-chan answer {
	d.t.Helper()
	ch := make(chan answer, 1)
	d.mu.Lock()
	d.lastID++
	r.ID = d.lastID
	d.waiting[r.ID] = ch
	d.mu.Unlock()
	d.tell(r)
	return ch
}

func (d *driver) await(ch <-chan answer) answer {
	d.t.Helper()
	select {
	case a := <-ch:
		return a
	case <-d.done:
		select {
		case a := <-ch:
			return a
		case <-time.After(lastWords):
		}
		d.t.Fatalf("%s ended:\n%s", d.sdk.name, d.tail())
	case <-timeout():
		d.t.Fatalf("%s does not answer:\n%s", d.sdk.name, d.tail())
	}
	return answer{}
}

// send sends r, to the parent topic and in mode sync unless it says otherwise.
func (d *driver) send(r request) answer {
	d.t.Helper()
	return d.await(d.post(r))
}

// post is send without the wait.
func (d *driver) post(r request) <-chan answer {
	d.t.Helper()
	r.Op = "send"
	if r.Mode == "" {
		r.Mode = "sync"
	}
	if r.Topic == "" {
		r.Topic = "orders"
	}
	return d.ask(r)
}

// accepted checks that a message was accepted.
func (d *driver) accepted(what string, a answer) answer {
	d.t.Helper()
	if !a.OK || a.Status != "SEND_OK" && a.Status != "OK" {
		d.t.Fatalf("%s: not accepted: status %q, code %d: %s", what, a.Status, a.Code, a.Error)
	}
	return a
}

// refused checks that a message was refused with one of the codes, and says why
// with one of the words.
func (d *driver) refused(what string, a answer, codes []int, words ...string) {
	d.t.Helper()
	switch {
	case a.OK:
		d.t.Errorf("%s: accepted (%s)", what, a.Status)
	case !within(a.Code, codes):
		d.t.Errorf("%s: code %d, want %v: %s", what, a.Code, codes, a.Error)
	case !containsAny(strings.ToLower(a.Error), words...):
		d.t.Errorf("%s: %q does not say why: none of %q", what, a.Error, words)
	}
}

// within reports whether a code is one of list; one that is a multiple of 100
// and not 0 stands for the hundred.
func within(code int, list []int) bool {
	for _, c := range list {
		if code == c || c >= 1000 && c%100 == 0 && code/100 == c/100 {
			return true
		}
	}
	return false
}

// close shuts the producer down in good order.
func (d *driver) close() {
	d.t.Helper()
	if a := d.await(d.ask(request{Op: "close"})); !a.OK {
		d.t.Errorf("%s: close: %s", d.sdk.name, a.Error)
	}
	if code := d.wait(); code != 0 {
		d.t.Errorf("%s: exit code %d", d.sdk.name, code)
	}
}

// tap relays connections to a server, and looks at how they begin.
type tap struct {
	addr string

	mu sync.Mutex
	n  seen
}

// seen counts connections by how they begin.
type seen struct{ tls, plain, binary int } // binary: plain, with binary headers of remoting

func newTap(t testing.TB, to string) *tap {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	p := &tap{addr: l.Addr().String()}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.relay(c, to)
		}
	}()
	return p
}

func (p *tap) saw() seen {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.n
}

// relay relays one connection. After 4 bytes of length the header of a remoting
// request begins with its form.
func (p *tap) relay(c net.Conn, to string) {
	defer c.Close()
	s, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer s.Close()
	start := make([]byte, 5)
	if _, err := io.ReadFull(c, start); err != nil {
		return
	}
	p.mu.Lock()
	switch {
	case start[0] == 0x16: // a TLS handshake record
		p.n.tls++
	case start[0] == 0 && start[4] == 1:
		p.n.binary++
		fallthrough
	default:
		p.n.plain++
	}
	p.mu.Unlock()
	go func() {
		_, _ = io.Copy(c, s)
		c.Close()
	}()
	if _, err := s.Write(start); err == nil {
		_, _ = io.Copy(s, c)
	}
}
