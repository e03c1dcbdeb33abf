package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/auth"
)

// patience bounds what should take milliseconds.
const patience = 30 * time.Second

// serverOn runs a server with its data in dir and returns its URL and what ends
// it.
func serverOn(t *testing.T, dir, address string, flags ...string) (url string, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	logRead, logWrite := io.Pipe()
	args := append([]string{
		"serve", "--data", dir, "--mqtt", address, "--mqtts", "", "--ws", "", "--wss", "", "--http", "", "--rocketmq", "", "--rocketmq-grpc", "",
		"--set", "store.sync=os", "--set", "log.format=json", "--set", "log.level=debug",
	}, flags...)
	done := make(chan int, 1)
	go func() {
		code := run(ctx, args, &console{In: strings.NewReader(""), Out: io.Discard, Err: logWrite})
		logWrite.Close()
		done <- code
	}()
	found := make(chan string, 1)
	logged := make(chan string, 1)
	go func() {
		var all strings.Builder
		lines := bufio.NewScanner(logRead)
		for lines.Scan() {
			fmt.Fprintln(&all, lines.Text())
			var line struct{ Msg, Address string }
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "listening" {
				found <- line.Address
			}
		}
		logged <- all.String()
	}()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if code := <-done; code != 0 {
				t.Errorf("server: exit code %d", code)
			}
			if log := <-logged; t.Failed() {
				t.Logf("the server's log:\n%s", log)
			}
		})
	}
	t.Cleanup(stop)
	select {
	case address := <-found:
		return "tcp://" + address, stop
	case <-time.After(patience):
		t.Fatal("the server does not start")
		panic("unreachable")
	}
}

func newServer(t *testing.T, flags ...string) string {
	t.Helper()
	url, _ := serverOn(t, t.TempDir(), "127.0.0.1:0", flags...)
	return url
}

// command is the outcome of one.
type command struct {
	code     int
	out, err string
}

func homing(t *testing.T, stdin string, args ...string) command {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out, errs bytes.Buffer
	code := run(ctx, args, &console{In: strings.NewReader(stdin), Out: &out, Err: &errs})
	return command{code, out.String(), errs.String()}
}

// want compares with the exit code and the output: standard output if the code
// is 0, otherwise standard error.
func (c command) want(t *testing.T, code int, text string) {
	t.Helper()
	got := c.out
	if code != 0 {
		got = c.err
	}
	if c.code != code || got != text {
		t.Errorf("exit code %d\nstdout: %sstderr: %swant %d\n%s", c.code, c.out, c.err, code, text)
	}
}

// listening is a "homing listen" that is connected.
type listeningCmd struct {
	t     *testing.T
	lines chan string
	done  chan command
	stop  context.CancelFunc
}

// listen starts one and waits until it is connected.
func listen(t *testing.T, url, clientID string, flags ...string) *listeningCmd {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	l := &listeningCmd{t: t, lines: make(chan string, 100), done: make(chan command, 1), stop: stop}
	outRead, outWrite := io.Pipe()
	errs := &waitBuffer{found: make(chan struct{}), text: " as " + clientID + "\n"}
	go func() {
		args := append([]string{"listen", "--server", url, "--client-id", clientID}, flags...)
		code := run(ctx, args, &console{In: strings.NewReader(""), Out: outWrite, Err: errs})
		outWrite.Close()
		l.done <- command{code: code, err: errs.String()}
	}()
	go func() {
		lines := bufio.NewScanner(outRead)
		for lines.Scan() {
			l.lines <- lines.Text()
		}
		close(l.lines)
	}()
	t.Cleanup(stop)
	select {
	case <-errs.found:
	case c := <-l.done:
		t.Fatalf("listen: %+v", c)
	case <-time.After(patience):
		t.Fatalf("listen does not connect: %s", errs.String())
	}
	return l
}

// next returns the next line.
func (l *listeningCmd) next() string {
	l.t.Helper()
	select {
	case line := <-l.lines:
		return line
	case <-time.After(patience):
		l.t.Fatal("no message")
		panic("unreachable")
	}
}

// end waits for the exit.
func (l *listeningCmd) end() command {
	l.t.Helper()
	select {
	case c := <-l.done:
		return c
	case <-time.After(patience):
		l.t.Fatal("listen does not end")
		panic("unreachable")
	}
}

// waitBuffer closes found when text has been written to it.
type waitBuffer struct {
	mu    sync.Mutex
	b     bytes.Buffer
	text  string
	found chan struct{}
	once  sync.Once
}

func (w *waitBuffer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, err := w.b.Write(p)
	if strings.Contains(w.b.String(), w.text) {
		w.once.Do(func() { close(w.found) })
	}
	return n, err
}

func (w *waitBuffer) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

func TestSendToListen(t *testing.T) {
	url := newServer(t)
	for _, version := range []string{"5", "3.1.1", "3.1"} {
		acknowledged := "delivered or kept\n"
		if version != "5" {
			acknowledged = "acknowledged; MQTT " + version + " does not say whether it was delivered or kept\n"
		}
		for qos, want := range []string{"sent; QoS 0 is not acknowledged\n", acknowledged, acknowledged} {
			t.Run(fmt.Sprintf("%s QoS %d", version, qos), func(t *testing.T) {
				l := listen(t, url, "dev1", "-n", "2", "--version", version)
				for _, text := range []string{"hello", "two\nlines"} {
					homing(t, "", "send", "--server", url, "--version", version, "-q", fmt.Sprint(qos), "dev1", text).want(t, 0, want)
				}
				for _, want := range []string{"hello", `"two\nlines"`} {
					if got := l.next(); got != fmt.Sprintf("homing/p2p/dev1 QoS %d: %s", qos, want) {
						t.Errorf("got %s", got)
					}
				}
				if c := l.end(); c.code != 0 {
					t.Errorf("listen: %+v", c)
				}
			})
		}
	}
}

func TestSendToOfflineTarget(t *testing.T) {
	url := newServer(t)
	for _, version := range []string{"5", "3.1.1"} {
		send := func(args ...string) command {
			return homing(t, "", append([]string{"send", "--server", url, "--version", version}, args...)...)
		}
		acknowledged := "acknowledged; MQTT 3.1.1 does not say whether it was delivered or kept\n"
		if version == "5" {
			acknowledged = "delivered or kept\n"
			send("away", "lost").want(t, 1, "homing: not delivered: away is offline, and the message was not kept; --keep would keep it\n")
			send("away", "lost", "-n", "3").want(t, 1, "homing: 3 messages: not delivered: away is offline, and the message was not kept; --keep would keep it\n")
		}
		send("away", "kept", "--keep").want(t, 0, acknowledged)
		send("away", "kept, too", "-k", "-q", "2").want(t, 0, acknowledged)
		l := listen(t, url, "away", "-n", "2")
		for _, want := range []string{"homing/p2p/away QoS 1: kept", "homing/p2p/away QoS 2: kept, too"} {
			if got := l.next(); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
		l.end()
	}
}

// Nothing of the sender stays on the server: a message to it is not kept, as one
// to a persistent session would be.
func TestSendLeavesNoSession(t *testing.T) {
	url := newServer(t)
	for _, version := range []string{"5", "3.1.1", "3.1"} {
		sender := "sender-" + version
		if c := homing(t, "", "send", "--server", url, "--version", version, "--client-id", sender, "--keep", "x", "y"); c.code != 0 {
			t.Fatalf("%+v", c)
		}
		// The server may end the session a moment after the connection.
		var c command
		for range 200 {
			if c = homing(t, "", "send", "--server", url, sender, "z"); c.code != 0 {
				break
			}
		}
		c.want(t, 1, "homing: not delivered: "+sender+" is offline, and the message was not kept; --keep would keep it\n")
	}
}

// What waits for the client ID that send uses is not taken.
func TestSendDoesNotReceive(t *testing.T) {
	url := newServer(t)
	for _, text := range []string{"one", "two"} {
		homing(t, "", "send", "--server", url, "--keep", "dev1", text).want(t, 0, "delivered or kept\n")
	}
	homing(t, "", "send", "--server", url, "--client-id", "dev1", "--keep", "dev2", "x").want(t, 0, "delivered or kept\n")
	l := listen(t, url, "dev1", "-n", "2")
	for _, want := range []string{"one", "two"} {
		if got := l.next(); !strings.HasSuffix(got, ": "+want) {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestSendProperties(t *testing.T) {
	url := newServer(t)
	l := listen(t, url, "dev1", "--json", "-n", "4")
	file := filepath.Join(t.TempDir(), "payload")
	if err := os.WriteFile(file, []byte{0xFF, 0x00}, 0o600); err != nil {
		t.Fatal(err)
	}
	const ok = "delivered or kept\n"
	homing(t, "", "send", "--server", url, "dev1", "<x>", "-p", "a=1", "-p", "b=x=y,z", "--expiry", "90s",
		"--sub-topic", "/s/t", "--parent", "mine").want(t, 0, ok)
	homing(t, "", "send", "--server", url, "dev1", "--file", file).want(t, 0, ok)
	homing(t, "from\nstdin", "send", "--server", url, "dev1", "-f", "-").want(t, 0, ok)
	homing(t, "", "send", "--server", url, "dev1", "").want(t, 0, ok)
	at := regexp.MustCompile(`^\{"time":"[^"]+",`)
	for _, want := range []string{
		`{"topic":"mine/p2p/dev1/s/t","qos":1,"dup":false,"retain":false,"payload":"<x>","expiry":90,` +
			`"userProperties":[{"key":"a","value":"1"},{"key":"b","value":"x=y,z"}]}`,
		`{"topic":"homing/p2p/dev1","qos":1,"dup":false,"retain":false,"payloadBase64":"/wA="}`,
		`{"topic":"homing/p2p/dev1","qos":1,"dup":false,"retain":false,"payload":"from\nstdin"}`,
		`{"topic":"homing/p2p/dev1","qos":1,"dup":false,"retain":false,"payload":""}`,
	} {
		if got := at.ReplaceAllString(l.next(), "{"); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestSendMany(t *testing.T) {
	url := newServer(t)
	l := listen(t, url, "dev1", "-n", "5000")
	go func() {
		for range l.lines {
		}
	}()
	homing(t, "", "send", "--server", url, "dev1", "x", "-n", "5000", "-q", "2").want(t, 0, "5000 messages: delivered or kept\n")
	if c := l.end(); c.code != 0 {
		t.Errorf("listen: %+v", c)
	}
}

func TestSendRefused(t *testing.T) {
	url := newServer(t, "--set", "topics=[allowed]")
	homing(t, "", "send", "--server", url, "dev1", "x", "--keep", "--parent", "allowed").want(t, 0, "delivered or kept\n")
	c := homing(t, "", "send", "--server", url, "dev1", "x", "-n", "2")
	if c.code != 1 || !strings.HasPrefix(c.err, "homing: 2 messages: refused: not authorized (0x87)") {
		t.Errorf("%+v", c)
	}
	homing(t, "", "send", "--server", url, "dev1", "x", "--version", "3.1.1").
		want(t, 1, "homing: the server closed the connection; in MQTT 3.1.1 that is how it refuses a message; --version 5 tells why\n")
}

func TestSendLogin(t *testing.T) {
	url := newServer(t, "--set", "auth.access-keys=[{key: AK, secret: XXXXX}]")
	send := func(stdin string, args ...string) command {
		return homing(t, stdin, append([]string{"send", "--server", url, "--keep", "dev1", "x"}, args...)...)
	}
	send("", "--access-key", "AK", "--secret", "XXXXX").want(t, 0, "delivered or kept\n")
	send("XXXXX\n", "--access-key", "AK", "--secret", "-").want(t, 0, "delivered or kept\n")
	send("", "--client-id", "GID_Test@@@0001", "--user", auth.SignatureUser("AK", "i"), "--password", "vI009IZJZVGRwBwZvnbwjfuXxVM=").
		want(t, 0, "delivered or kept\n")
	for _, args := range [][]string{nil, {"--access-key", "AK", "--secret", "wrong"}, {"--user", "u", "--password", "p"}} {
		if c := send("", args...); c.code != 1 || !strings.Contains(c.err, "the server refused the connection: ") {
			t.Errorf("%v: %+v", args, c)
		}
	}
}

// A server that accepts connections and says nothing.
func TestSendToSilentServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = conn.Read(make([]byte, 1)) // CONNECT
		cancel()
		_, _ = io.Copy(io.Discard, conn)
	}()
	var errs bytes.Buffer
	code := run(ctx, []string{"send", "--server", "tcp://" + l.Addr().String(), "dev1", "x"}, &console{Out: io.Discard, Err: &errs})
	if code != exitInterrupted {
		t.Errorf("exit code %d: %s", code, errs.String())
	}
}
