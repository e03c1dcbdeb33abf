package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
	"time"

	"github.com/homing-mq/homing/internal/mqtt"
)

// flood is a number of clients that send PINGREQ without end and read what comes
// back, to see what others have to bear beside them.
type flood struct {
	conns []net.Conn
	wg    sync.WaitGroup
}

// pings is what they send at a time.
var pings = bytes.Repeat([]byte{byte(mqtt.PINGREQ) << 4, 0}, 4096)

// startFlood connects n clients, over TCP only, and lets them begin. The caller
// calls stop.
func (c *Connect) startFlood(ctx context.Context, n int, name string) (*flood, error) {
	f := &flood{}
	for i := range n {
		if err := f.connect(ctx, c, fmt.Sprintf("%sf%d", name, i)); err != nil {
			f.stop()
			return nil, fmt.Errorf("connect flooding client %d: %w", i, err)
		}
	}
	return f, nil
}

func (f *flood) connect(ctx context.Context, c *Connect, clientID string) error {
	o := c.client(clientID)
	server, err := url.Parse(o.Server)
	if err != nil {
		return err
	}
	if server.Scheme != "tcp" && server.Scheme != "mqtt" {
		return fmt.Errorf("flooding clients connect to tcp:// servers, not to %s://", server.Scheme)
	}
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", server.Host)
	if err != nil {
		return err
	}
	f.conns = append(f.conns, nc)
	connect := mqtt.Connect{
		Version: mqtt.V311, CleanStart: true, ClientID: []byte(clientID),
		HasUsername: o.Username != "", Username: []byte(o.Username), HasPassword: o.Password != "", Password: []byte(o.Password),
	}
	if _, err := nc.Write(connect.Append(nil, mqtt.V311)); err != nil {
		return err
	}
	_ = nc.SetReadDeadline(time.Now().Add(30 * time.Second))
	var connack [4]byte
	if _, err := io.ReadFull(nc, connack[:]); err != nil {
		return err
	}
	if connack[3] != 0 {
		return fmt.Errorf("CONNACK with return code %d", connack[3])
	}
	_ = nc.SetReadDeadline(time.Time{})
	f.wg.Go(func() { _, _ = io.Copy(io.Discard, nc) })
	f.wg.Go(func() {
		for {
			if _, err := nc.Write(pings); err != nil {
				return
			}
		}
	})
	return nil
}

func (f *flood) stop() {
	for _, nc := range f.conns {
		_ = nc.Close()
	}
	f.wg.Wait()
}
