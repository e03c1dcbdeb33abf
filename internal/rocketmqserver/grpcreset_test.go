package rocketmqserver

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	pb "github.com/homing-mq/homing/internal/rocketmqpb"
)

// What a test sends of HTTP/2.
const (
	frameSettings = 4
	frameWindow   = 8
	flagEnd       = 1 // the stream, or acknowledges SETTINGS
	flagHeaders   = 4 // all of them
)

func appendFrame(b []byte, kind, flags byte, stream uint32, payload ...byte) []byte {
	b = append(b, byte(len(payload)>>16), byte(len(payload)>>8), byte(len(payload)), kind, flags)
	return append(binary.BigEndian.AppendUint32(b, stream), payload...)
}

// appendCall appends the headers of a call.
func appendCall(b []byte, stream uint32, method string) []byte {
	var headers []byte
	for _, h := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", method}, {":authority", "x"}, {"content-type", "application/grpc"}, {"te", "trailers"},
		{"x-mq-client-id", "tester"},
	} {
		headers = append(headers, 0, byte(len(h[0])))
		headers = append(headers, h[0]...)
		headers = append(headers, byte(len(h[1])))
		headers = append(headers, h[1]...)
	}
	return appendFrame(b, frameOfCall, flagHeaders, stream, headers...)
}

// http2 opens a connection that speaks HTTP/2, and reads it to the end: gone is
// closed then.
func (r *rig) http2(secure bool) (nc net.Conn, gone chan struct{}) {
	r.t.Helper()
	nc, err := net.Dial("tcp", r.grpc)
	if err == nil && secure {
		nc = tls.Client(nc, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	}
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(patience))
	b := appendFrame([]byte(http2Greeting), frameSettings, 0, 0)
	if _, err := nc.Write(appendFrame(b, frameSettings, flagEnd, 0)); err != nil {
		r.t.Fatal(err)
	}
	gone = make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = io.Copy(io.Discard, nc)
	}()
	return nc, gone
}

// TestGRPCRapidReset: a connection whose calls are reset as soon as they have
// begun, by the client or because it breaks the protocol on them, is closed,
// counted and logged once; others do not notice.
func TestGRPCRapidReset(t *testing.T) {
	for name, reset := range map[string]func(b []byte, stream uint32) []byte{
		"RST_STREAM": func(b []byte, stream uint32) []byte { return appendFrame(b, frameReset, 0, stream, 0, 0, 0, 8) },
		"window of 0": func(b []byte, stream uint32) []byte { // the server resets
			return appendFrame(b, frameWindow, 0, stream, 0, 0, 0, 0)
		},
	} {
		for _, secure := range []bool{false, true} {
			var log lockedBuffer
			r := newRig(t, rigOptions{log: slog.New(slog.NewTextHandler(&log, nil))})
			d, innocent := r.device("online", false), r.producer()
			wants(t, innocent.send(calling(t), message("/p2p/online", "before")).Status, pb.Code_OK, "")
			nc, gone := r.http2(secure)
			sent := 0
			for stream := uint32(1); sent < 50*maxResets; stream += 2 {
				b := appendCall(nil, stream, pb.MessagingService_SendMessage_FullMethodName)
				if _, err := nc.Write(reset(b, stream)); err != nil {
					break
				}
				sent++
			}
			if sent == 50*maxResets {
				_ = nc.SetDeadline(time.Now().Add(time.Second))
			}
			<-gone
			if n := r.Stats.Resetting.Load(); n != 1 {
				t.Errorf("%s, TLS %v: %d connections closed after %d resets", name, secure, n, sent)
			}
			if n := strings.Count(log.String(), "are reset"); n != 1 {
				t.Errorf("%s, TLS %v: %d lines in the log:\n%s", name, secure, n, log.String())
			}
			wants(t, innocent.send(calling(t), message("/p2p/online", "after")).Status, pb.Code_OK, "")
			for _, want := range []string{"before", "after"} {
				if g := d.next(); g.payload != want {
					t.Errorf("%s, TLS %v: %+v arrives", name, secure, g)
				}
			}
			if n := r.Stats.Accepted[GRPC].Load(); n != 2 {
				t.Errorf("%s, TLS %v: %d connections", name, secure, n)
			}
		}
	}
}

// TestResets: which resets count, however the frames are cut into reads.
func TestResets(t *testing.T) {
	type step struct {
		after time.Duration
		by    func(b []byte) []byte
	}
	calls := func(from, n uint32) func([]byte) []byte {
		return func(b []byte) []byte {
			for i := range n {
				b = appendCall(b, from+2*i, "/x")
			}
			return b
		}
	}
	resets := func(from, n uint32) func([]byte) []byte {
		return func(b []byte) []byte {
			for i := range n {
				b = appendFrame(b, frameReset, 0, from+2*i, 0, 0, 0, 8)
			}
			return b
		}
	}
	other := func(b []byte) []byte { return appendFrame(b, 0, 0, 1, make([]byte, 5000)...) } // DATA
	for _, x := range []struct {
		name  string
		steps []step
		over  bool
	}{
		{"as many as allowed", []step{{0, calls(1, maxResets)}, {0, resets(1, maxResets)}}, false},
		{"one more", []step{{0, calls(1, maxResets+1)}, {0, other}, {0, resets(1, maxResets+1)}}, true},
		{"as many each second", []step{
			{0, calls(1, maxResets)}, {0, resets(1, maxResets)},
			{time.Second, calls(1+2*maxResets, maxResets)}, {0, resets(1+2*maxResets, maxResets)},
		}, false},
		{"many that have waited for long", []step{{0, calls(1, 5*maxResets)}, {time.Second, other}, {time.Second, other}, {time.Second, resets(1, 5*maxResets)}}, false},
		{"many that have waited for long, with nothing between", []step{{0, calls(1, 5*maxResets)}, {3 * time.Second, resets(1, 5*maxResets)}}, false},
		{"one stream again and again", []step{{0, calls(1, 1)}, {0, func(b []byte) []byte {
			for range maxResets + 1 {
				b = resets(1, 1)(b)
			}
			return b
		}}}, true},
		{"streams that do not exist", []step{{0, resets(1, maxResets+1)}}, true},
	} {
		for _, piece := range []int{1, 7, 9, 13, 4096, 1 << 20} {
			var r resetCount
			now := int64(time.Hour)
			var in frames
			over := false
			for _, s := range x.steps {
				now += int64(s.after)
				for b := s.by(nil); len(b) > 0; {
					n := min(piece, len(b))
					in.scan(b[:n], func(f frame) { over = r.received(f, now) || over })
					b = b[n:]
				}
			}
			if over != x.over {
				t.Errorf("%s in pieces of %d: %v", x.name, piece, over)
			}
		}
	}
}

// TestServerResets: of its own resets those count that the client is to blame for.
func TestServerResets(t *testing.T) {
	for code, want := range map[byte]bool{0: false, 1: true, 3: true, 5: true, 7: false} {
		var r resetCount
		var out frames
		over := false
		var b []byte
		for i := range uint32(maxResets + 1) {
			b = appendFrame(b, frameReset, 0, 1+2*i, 0, 0, 0, code)
		}
		for _, c := range b {
			out.scan([]byte{c}, func(f frame) { over = r.sent(f, int64(time.Hour)) || over })
		}
		if over != want {
			t.Errorf("code %d: %v", code, over)
		}
	}
}

// TestWatchedReads: what is read is what came, and the greeting is no frame.
func TestWatchedReads(t *testing.T) {
	var r bytes.Buffer
	r.WriteString(http2Greeting)
	r.Write(appendCall(nil, 1, "/x"))
	want := bytes.Clone(r.Bytes())
	w := newWatched(&bufferConn{Buffer: &r}, nil)
	got := make([]byte, 0, len(want))
	for {
		var b [5]byte
		n, err := w.Read(b[:])
		got = append(got, b[:n]...)
		if errors.Is(err, io.EOF) {
			break
		}
	}
	if !bytes.Equal(got, want) || w.resets.newest != 1 {
		t.Errorf("%d of %d bytes, newest stream %d", len(got), len(want), w.resets.newest)
	}
}

type bufferConn struct {
	net.Conn
	*bytes.Buffer
}

func (b *bufferConn) Read(p []byte) (int, error)  { return b.Buffer.Read(p) }
func (b *bufferConn) Write(p []byte) (int, error) { return b.Buffer.Write(p) }
