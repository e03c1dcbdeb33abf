package main

import (
	"strings"
	"testing"

	"github.com/homing-mq/homing/internal/mqtt"
	"github.com/homing-mq/homing/internal/mqttclient"
)

// With a persistent session messages wait, and -n leaves the rest on the server.
func TestListenPersistent(t *testing.T) {
	url := newServer(t)
	for _, version := range []string{"5", "3.1.1"} {
		id := "dev-" + version
		l := listen(t, url, id, "--persistent", "--version", version)
		l.stop()
		if c := l.end(); c.code != 0 {
			t.Fatalf("listen: %+v", c)
		}
		for _, text := range []string{"1", "2", "3"} {
			homing(t, "", "send", "--server", url, "-q", "2", id, text).want(t, 0, "delivered or kept\n")
		}
		for _, text := range []string{"1", "2", "3"} {
			l := listen(t, url, id, "--persistent", "--version", version, "-n", "1")
			if got := l.next(); got != "homing/p2p/"+id+" QoS 2: "+text && got != "homing/p2p/"+id+" QoS 2 dup: "+text {
				t.Errorf("got %s, want %s", got, text)
			}
			if c := l.end(); c.code != 0 {
				t.Errorf("listen: %+v", c)
			}
		}
	}
}

func TestListenFilter(t *testing.T) {
	url := newServer(t)
	l := listen(t, url, "dev1", "-f", "news/#", "--filter", "weather/+/now", "-n", "1")
	c, err := mqttclient.Dial(t.Context(), mqttclient.Options{Server: url, CleanStart: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// The subscriptions are made after "connected" is said.
	for r := (mqttclient.Result{Code: mqtt.CodeNoMatchingSubscribers}); r.Code == mqtt.CodeNoMatchingSubscribers; {
		r, err = c.Publish(t.Context(), &mqtt.Publish{Topic: []byte("weather/here/now"), Payload: []byte("rain"), QoS: 1})
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := l.next(); got != "weather/here/now QoS 1: rain" {
		t.Errorf("got %s", got)
	}
	homing(t, "", "listen", "--server", url, "--client-id", "dev2", "-f", "x/p2p/dev1").
		want(t, 1, "homing: connected to "+url+" as dev2\nhoming: the server refused the subscription to x/p2p/dev1: not authorized (0x87)\n")
}

// A second client with the same client ID takes over: the first gives up, for
// otherwise both would forever.
func TestListenTakenOver(t *testing.T) {
	url := newServer(t)
	first := listen(t, url, "dev1")
	listen(t, url, "dev1")
	if c := first.end(); c.code != 1 || !strings.Contains(c.err, "the server closed the connection: session taken over") {
		t.Errorf("%+v", c)
	}
}

// The server restarts: listen says so, comes back, and gets what was sent to it.
func TestListenReconnects(t *testing.T) {
	dir := t.TempDir()
	url, stop := serverOn(t, dir, "127.0.0.1:0")
	l := listen(t, url, "dev1", "--persistent", "-n", "1")
	stop()
	url2, _ := serverOn(t, dir, strings.TrimPrefix(url, "tcp://"))
	if url2 != url {
		t.Fatalf("server is at %s", url2)
	}
	homing(t, "", "send", "--server", url, "dev1", "welcome back").want(t, 0, "delivered or kept\n")
	if got := l.next(); got != "homing/p2p/dev1 QoS 1: welcome back" {
		t.Errorf("got %s", got)
	}
	c := l.end()
	if c.code != 0 || !strings.Contains(c.err, "; trying again in ") || strings.Count(c.err, "connected to") != 2 {
		t.Errorf("%+v", c)
	}
}

// brokenPipe is an output that takes nothing.
type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errBroken }

var errBroken = usagef("nobody reads")

// What cannot be printed is not acknowledged.
func TestListenOutputFails(t *testing.T) {
	url := newServer(t)
	homing(t, "", "send", "--server", url, "--keep", "dev1", "precious").want(t, 0, "delivered or kept\n")
	errs := &waitBuffer{found: make(chan struct{})}
	if code := run(t.Context(), []string{"listen", "--server", url, "--client-id", "dev1"}, &console{Out: brokenPipe{}, Err: errs}); code == 0 {
		t.Error("no error")
	}
	l := listen(t, url, "dev1", "-n", "1")
	if got := l.next(); !strings.HasSuffix(got, ": precious") {
		t.Errorf("got %s", got)
	}
}

func TestPlain(t *testing.T) {
	for in, want := range map[string]string{
		"":                "",
		"grüße\t中文 \"q\"": "grüße\t中文 \"q\"",
		"a\x1b[2J":        `"a\x1b[2J"`,
		"a\nb":            `"a\nb"`,
		"\xff":            `"\xff"`,
		"\u202e":          `"\u202e"`,
	} {
		if got := plain([]byte(in)); got != want {
			t.Errorf("%q: got %s, want %s", in, got, want)
		}
	}
}
