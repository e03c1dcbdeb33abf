// Package line is what the Go drivers of the interop tests have in common: the
// protocol of ../README.md, JSON objects by lines on standard input and output.
package line

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Config is the first line of input.
type Config struct {
	Endpoint  string `json:"endpoint"`
	AccessKey string `json:"accessKey"` // "": no credentials
	SecretKey string `json:"secretKey"`
	TLS       bool   `json:"tls"`
	Group     string `json:"group"`
	Topic     string `json:"topic"`
}

// Request is any other line of input.
type Request struct {
	ID         int               `json:"id"`
	Op         string            `json:"op"` // send, series or close
	Mode       string            `json:"mode"`
	Topic      string            `json:"topic"`
	Tag        string            `json:"tag"`
	Keys       []string          `json:"keys"`
	Text       string            `json:"body"`
	Fill       int               `json:"fill"`
	Properties map[string]string `json:"properties"`
	DelayMS    int64             `json:"delayMs"`
	DelayLevel int               `json:"delayLevel"`
	OrderKey   string            `json:"orderKey"`
	Count      int               `json:"count"`
	EveryMS    int               `json:"everyMs"`
}

// Body is the message's body.
func (r *Request) Body() []byte { return []byte(r.Text + strings.Repeat("x", r.Fill)) }

// Receipt is what an SDK returns of a send that was accepted.
type Receipt struct {
	Status string
	IDs    []string
}

// Done is told the end of a send, once, by any goroutine.
type Done func(Receipt, error)

// Producer is a producer of an SDK.
type Producer interface {
	// Send sends in the request's mode. It may return before done is called.
	Send(r *Request, done Done)
	Close() error
}

// Driver is an SDK.
type Driver struct {
	SDK   string
	Modes []string
	TLS   bool
	Start func(Config) (Producer, error)
	Code  func(error) int // the server's code in an error; 0: none
}

type hello struct {
	Event string   `json:"event"` // started or failed
	SDK   string   `json:"sdk,omitempty"`
	Modes []string `json:"modes,omitempty"`
	TLS   bool     `json:"tls"`
	MS    float64  `json:"ms"`
	Code  int      `json:"code,omitempty"`
	Error string   `json:"error,omitempty"`
}

type answer struct {
	ID         int      `json:"id"`
	OK         bool     `json:"ok"`
	Status     string   `json:"status,omitempty"`
	MessageID  string   `json:"messageId,omitempty"`
	MessageIDs []string `json:"messageIds,omitempty"`
	Code       int      `json:"code,omitempty"`
	Error      string   `json:"error,omitempty"`
	MS         any      `json:"ms,omitempty"` // a number, or one for each message of a series
}

var output sync.Mutex

func say(x any) {
	b, err := json.Marshal(x)
	if err != nil {
		panic(err) // nothing in it can fail
	}
	output.Lock()
	defer output.Unlock()
	os.Stdout.Write(append(b, '\n'))
}

func since(start time.Time) float64 { return float64(time.Since(start)) / float64(time.Millisecond) }

// Run is the program: it ends with the input, or with op close.
func (d *Driver) Run() {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 16<<20)
	var c Config
	if !in.Scan() {
		return
	}
	if err := json.Unmarshal(in.Bytes(), &c); err != nil {
		d.fail(err)
	}
	start := time.Now()
	p, err := d.Start(c)
	if err != nil {
		d.fail(err)
	}
	say(hello{Event: "started", SDK: d.SDK, Modes: d.Modes, TLS: d.TLS, MS: since(start)})
	for in.Scan() {
		r := new(Request)
		if err := json.Unmarshal(in.Bytes(), r); err != nil {
			say(answer{Error: "bad request: " + err.Error()})
			continue
		}
		if r.Op == "close" {
			d.close(p, r.ID)
		}
		d.handle(p, r)
	}
	d.close(p, 0)
}

func (d *Driver) fail(err error) {
	say(hello{Event: "failed", Code: d.Code(err), Error: err.Error()})
	os.Exit(1)
}

func (d *Driver) close(p Producer, id int) {
	err := p.Close()
	if id != 0 {
		a := answer{ID: id, OK: err == nil}
		if err != nil {
			a.Error = err.Error()
		}
		say(a)
	}
	os.Exit(0)
}

func (d *Driver) handle(p Producer, r *Request) {
	switch r.Op {
	case "send":
		var once sync.Once // some SDKs call back twice
		start := time.Now()
		p.Send(r, func(receipt Receipt, err error) {
			once.Do(func() { d.answer(r, start, receipt, err) })
		})
	case "series":
		d.series(p, r)
	default:
		say(answer{ID: r.ID, Error: fmt.Sprintf("unknown op %q", r.Op)})
	}
}

func (d *Driver) answer(r *Request, start time.Time, receipt Receipt, err error) {
	a := answer{ID: r.ID, OK: err == nil, Status: receipt.Status, MessageIDs: receipt.IDs, MS: since(start)}
	if len(receipt.IDs) > 0 {
		a.MessageID = receipt.IDs[0]
	}
	if err != nil {
		a.Code, a.Error = d.Code(err), err.Error()
	}
	say(a)
}

// series sends one message after the other; each body is the time of its send
// in Unix microseconds.
func (d *Driver) series(p Producer, r *Request) {
	took := make([]float64, 0, r.Count)
	one := *r
	one.Mode = "sync"
	for range r.Count {
		start := time.Now()
		one.Text = strconv.FormatInt(start.UnixMicro(), 10)
		var failed error
		p.Send(&one, func(_ Receipt, err error) { failed = err })
		if failed != nil {
			say(answer{ID: r.ID, Code: d.Code(failed), Error: failed.Error()})
			return
		}
		took = append(took, since(start))
		time.Sleep(time.Duration(r.EveryMS) * time.Millisecond)
	}
	say(answer{ID: r.ID, OK: true, MS: took})
}
