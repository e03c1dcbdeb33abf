//go:build unix

package mqttclient

import (
	"errors"
	"net"
	"os"
	"syscall"
)

// tryWriter writes to a TCP socket without waiting. One goroutine at a time.
type tryWriter struct {
	raw   syscall.RawConn
	once  func(fd uintptr) bool // a method value, made once
	buf   []byte
	n     int
	errno error
}

// newTryWriter returns nil if conn is not a plain TCP connection.
func newTryWriter(conn net.Conn) *tryWriter {
	t, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return nil
	}
	w := &tryWriter{raw: raw}
	w.once = w.attempt
	return w
}

// write returns how much of buf the socket took; less than all without an error
// means that it is full.
func (w *tryWriter) write(buf []byte) (int, error) {
	w.buf, w.n, w.errno = buf, 0, nil
	err := w.raw.Write(w.once)
	if err == nil {
		err = w.errno
	}
	w.buf = nil
	return w.n, err
}

func (w *tryWriter) attempt(fd uintptr) bool {
	for w.n < len(w.buf) {
		n, err := syscall.Write(int(fd), w.buf[w.n:])
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if errors.Is(err, syscall.EAGAIN) {
			return true
		}
		if err != nil {
			w.errno = os.NewSyscallError("write", err)
			return true
		}
		w.n += n
	}
	return true
}
