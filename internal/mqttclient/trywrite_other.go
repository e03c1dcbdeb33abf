//go:build !unix

package mqttclient

import "net"

// tryWriter does not exist here: a goroutine does the writing.
type tryWriter struct{}

func newTryWriter(net.Conn) *tryWriter { return nil }

func (*tryWriter) write([]byte) (int, error) { panic("unreachable") }
