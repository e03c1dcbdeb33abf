package gateway

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pires/go-proxyproto"
)

// Proxies are the addresses of the load balancers that say by the PROXY protocol
// whose connection it is.
type Proxies struct{ list []netip.Prefix }

// ParseProxies reads addresses like 10.0.0.0/8, 10.0.0.1 and fd00::/8. Its errors
// go on after the setting's name.
func ParseProxies(list []string) (p Proxies, err error) {
	for _, text := range list {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			ip, err := netip.ParseAddr(text)
			if err != nil || ip.Zone() != "" {
				return p, fmt.Errorf("must be addresses of load balancers, like 10.0.0.0/8 or 10.0.0.1, not %q", text)
			}
			prefix = netip.PrefixFrom(ip, ip.BitLen())
		}
		switch {
		case prefix.Addr().Is4In6():
			return p, fmt.Errorf("must have IPv4 addresses in their own form, like 10.0.0.0/8, not %q", text)
		case prefix != prefix.Masked():
			return p, fmt.Errorf("has %q, which has bits behind its length; did you mean %s?", text, prefix.Masked())
		}
		p.list = append(p.list, prefix)
	}
	return p, nil
}

// has reports whether connections from an address begin with a header.
func (p Proxies) has(a netip.Addr) bool {
	return slices.ContainsFunc(p.list, func(x netip.Prefix) bool { return x.Contains(a) })
}

const (
	signatureV1 = "PROXY "
	signatureV2 = "\r\n\r\n\x00\r\nQUIT\n"

	longestV1 = 107     // bytes, with the line's end
	fixedV2   = 16      // bytes before the addresses
	longestV2 = 4 << 10 // bytes in all; the library's limit too
)

var (
	errNoHeader   = errors.New("the connection does not begin with a PROXY protocol header, as all from listen.proxy-protocol must")
	errHeaderLate = errors.New("the PROXY protocol header did not arrive within limits.connect-timeout")
	errHeaderLong = fmt.Errorf("the PROXY protocol header is longer than %d bytes", longestV2)
	errNotStream  = errors.New("the PROXY protocol header is not about a TCP connection")
)

// headerEnd returns how long the header is that b begins with; 0: its end is not
// there.
func headerEnd(b []byte) (int, error) {
	switch {
	case begins(b, signatureV2, 1):
		if len(b) < fixedV2 {
			return 0, nil
		}
		n := fixedV2 + int(binary.BigEndian.Uint16(b[fixedV2-2:]))
		switch {
		case n > longestV2:
			return 0, errHeaderLong
		case n > len(b):
			return 0, nil
		}
		return n, nil
	case begins(b, signatureV1, 1):
		if i := bytes.IndexByte(b[:min(len(b), longestV1)], '\n'); i >= 0 {
			return i + 1, nil
		}
		if len(b) >= longestV1 {
			return 0, proxyproto.ErrVersion1HeaderTooLong
		}
		return 0, nil
	}
	return 0, errNoHeader
}

// readHeader reads the header of a connection, and not a byte more: who reads from
// the socket afterwards finds what the client has sent. It returns the client's
// address, or that of the connection if the balancer itself has opened it. The
// header must arrive by the deadline.
func readHeader(nc *net.TCPConn, deadline time.Time) (netip.AddrPort, error) {
	header, err := takeHeader(nc, deadline)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return netip.AddrPort{}, errHeaderLate
	case err != nil:
		return netip.AddrPort{}, err
	}
	h, err := proxyproto.Read(bufio.NewReaderSize(bytes.NewReader(header), len(header)))
	if err != nil {
		return netip.AddrPort{}, malformed(header, err)
	}
	own := AddrOf(nc.RemoteAddr())
	switch {
	case h.Command.IsLocal(), h.TransportProtocol == proxyproto.UnixStream:
		return own, nil
	case !h.TransportProtocol.IsStream():
		return netip.AddrPort{}, errNotStream
	}
	client := AddrOf(h.SourceAddr)
	if !client.IsValid() {
		return netip.AddrPort{}, errNotStream
	}
	return client, nil
}

// malformed is the error for a header that the library does not take, which says
// what it was. A header of version 1 is text.
func malformed(header []byte, err error) error {
	text := strings.TrimPrefix(err.Error(), "proxyproto: ")
	if begins(header, signatureV1, len(signatureV1)) {
		return fmt.Errorf("the PROXY protocol header %q is malformed: %s", bytes.TrimRight(header, "\r\n"), text)
	}
	return fmt.Errorf("the PROXY protocol header of version 2 is malformed: %s", text)
}

// takeHeader reads the bytes of the header.
func takeHeader(nc *net.TCPConn, deadline time.Time) (header []byte, err error) {
	raw, err := nc.SyscallConn()
	if err != nil {
		return nil, err
	}
	_ = nc.SetReadDeadline(deadline)
	defer func() { _ = nc.SetReadDeadline(time.Time{}) }()
	var peeked [longestV2]byte
	for {
		var n int
		var rerr error
		if err := raw.Read(func(fd uintptr) bool {
			n, rerr = peek(int(fd), peeked[len(header):])
			return !errors.Is(rerr, syscall.EAGAIN)
		}); err != nil {
			return nil, err
		}
		switch {
		case rerr != nil:
			return nil, rerr
		case n == 0:
			return nil, io.EOF
		}
		have := len(header)
		end, err := headerEnd(peeked[:have+n])
		if err != nil {
			return nil, err
		}
		take := n // all of it is the header's
		if end > 0 {
			take = end - have
		}
		if _, err := io.ReadFull(nc, peeked[have:have+take]); err != nil {
			return nil, err
		}
		if header = peeked[:have+take]; end > 0 {
			return header, nil
		}
	}
}

// peek is a read that leaves the bytes in the socket.
func peek(fd int, p []byte) (int, error) {
	for {
		n, _, err := syscall.Recvfrom(fd, p, syscall.MSG_PEEK)
		if !errors.Is(err, syscall.EINTR) {
			return n, err
		}
	}
}
