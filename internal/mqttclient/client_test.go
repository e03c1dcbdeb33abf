package mqttclient_test

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/homing-mq/homing/internal/mqtt"
	"github.com/homing-mq/homing/internal/mqttclient"
)

func TestConnectSaysWhatOptionsSay(t *testing.T) {
	for _, v := range versions {
		t.Run(v.String(), func(t *testing.T) {
			c, _, got := connect(t, mqttclient.Options{
				Version: v, ClientID: "GID_a@@@1", Username: "u", Password: "p", CleanStart: true,
				SessionExpiry: 7, ReceiveMaximum: 9, KeepAlive: 1500 * time.Millisecond,
				Will: &mqtt.Will{Topic: []byte("w"), Payload: []byte("gone"), QoS: 1},
			}, nil)
			if got.Version != v || string(got.ClientID) != "GID_a@@@1" || string(got.Username) != "u" || string(got.Password) != "p" ||
				!got.CleanStart || got.KeepAlive != 2 || !got.HasWill || string(got.Will.Payload) != "gone" {
				t.Errorf("CONNECT = %+v", got)
			}
			if v == mqtt.V5 && (got.Properties.SessionExpiry != 7 || got.Properties.ReceiveMaximum != 9) {
				t.Errorf("properties = %+v", got.Properties)
			}
			if c.ClientID() != "GID_a@@@1" || c.Version() != v {
				t.Errorf("client ID %q version %v", c.ClientID(), c.Version())
			}
		})
	}
}

func TestConnackIsHonoured(t *testing.T) {
	a := receiveMaximum(3)
	a.Properties.AssignedClientID = []byte("picked")
	a.Properties.MaximumPacketSize = 40
	a.Properties.Set(mqtt.PropAssignedClientID, mqtt.PropMaximumPacketSize)
	c, _, _ := connect(t, mqttclient.Options{CleanStart: true}, a)
	if c.ClientID() != "picked" || c.ReceiveMaximum() != 3 || c.Connack().Properties.MaximumPacketSize != 40 {
		t.Errorf("client ID %q, receive maximum %d", c.ClientID(), c.ReceiveMaximum())
	}
	if err := c.Enqueue(message("t", string(make([]byte, 40)), 0), nil); !errors.Is(err, mqttclient.ErrTooLarge) {
		t.Errorf("enqueue of 45 bytes: %v", err)
	}
}

func TestRefusal(t *testing.T) {
	for _, tt := range []struct {
		v         mqtt.Version
		code      mqtt.ReasonCode
		text      string
		permanent bool
	}{
		{mqtt.V5, mqtt.CodeBadUserNameOrPassword, "the server refused the connection: bad user name or password (who?)", true},
		{mqtt.V5, mqtt.CodeServerBusy, "the server refused the connection: server busy (who?)", false},
		{mqtt.V311, mqtt.ReturnNotAuthorized, "the server refused the connection: not authorized", true},
		{mqtt.V31, mqtt.ReturnServerUnavailable, "the server refused the connection: server unavailable", false},
	} {
		client, server := pair(t)
		p := newPeer(t, server)
		answer := &mqtt.Connack{Code: tt.code}
		answer.Properties.ReasonString = []byte("who?")
		answer.Properties.Set(mqtt.PropReasonString)
		go p.accept(answer)
		_, err := mqttclient.Dial(t.Context(), mqttclient.Options{
			Version: tt.v, DialConn: func(context.Context) (net.Conn, error) { return client, nil },
		})
		var refused *mqttclient.RefusedError
		if !errors.As(err, &refused) || refused.Error() != tt.text || refused.Permanent() != tt.permanent {
			t.Errorf("%v %v: %v", tt.v, tt.code, err)
		}
	}
}

func TestDialStopsWithContext(t *testing.T) {
	client, server := pair(t)
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	p := newPeer(t, server)
	go func() {
		_, _, _ = p.next() // CONNECT, which is not answered
		cancel()
	}()
	_, err := mqttclient.Dial(ctx, mqttclient.Options{DialConn: func(context.Context) (net.Conn, error) { return client, nil }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("dial: %v", err)
	}
}

func TestServerAddresses(t *testing.T) {
	for _, server := range []string{"", "localhost", "http://localhost", "tcp://", "ftp://x"} {
		if _, err := mqttclient.Dial(t.Context(), mqttclient.Options{Server: server}); err == nil {
			t.Errorf("%q: no error", server)
		}
	}
}

func TestEndOfConnection(t *testing.T) {
	t.Run("DISCONNECT of the server", func(t *testing.T) {
		c, p, _ := connect(t, mqttclient.Options{}, nil)
		p.send(&mqtt.Disconnect{Code: mqtt.CodeSessionTakenOver})
		<-c.Done()
		var d *mqttclient.DisconnectedError
		if !errors.As(c.Err(), &d) || d.Code != mqtt.CodeSessionTakenOver {
			t.Errorf("err = %v", c.Err())
		}
	})
	t.Run("DISCONNECT after a write has failed", func(t *testing.T) {
		c, p, _ := connect(t, mqttclient.Options{}, nil)
		p.send(&mqtt.Disconnect{Code: mqtt.CodeSessionTakenOver})
		p.conn.Close()
		for c.PublishAsync(t.Context(), message("t", "", 0), nil) == nil {
		}
		<-c.Done()
		var d *mqttclient.DisconnectedError
		if !errors.As(c.Err(), &d) {
			t.Errorf("err = %v", c.Err())
		}
	})
	t.Run("server closes", func(t *testing.T) {
		c, p, _ := connect(t, mqttclient.Options{}, nil)
		p.conn.Close()
		<-c.Done()
		if !errors.Is(c.Err(), io.EOF) {
			t.Errorf("err = %v", c.Err())
		}
	})
	t.Run("graceful", func(t *testing.T) {
		c, p, _ := connect(t, mqttclient.Options{}, nil)
		done := make(chan error, 1)
		go func() { done <- c.Disconnect(t.Context()) }()
		var d mqtt.Disconnect
		p.expect(mqtt.DISCONNECT, &d)
		if _, _, err := p.next(); !errors.Is(err, io.EOF) {
			t.Errorf("after DISCONNECT: %v", err)
		}
		p.conn.Close()
		if err := wait(t, done); err != nil {
			t.Errorf("disconnect: %v", err)
		}
		if !errors.Is(c.Err(), mqttclient.ErrClosed) {
			t.Errorf("err = %v", c.Err())
		}
		if err := c.Enqueue(message("t", "", 0), nil); !errors.Is(err, mqttclient.ErrClosed) {
			t.Errorf("enqueue: %v", err)
		}
	})
	t.Run("abrupt", func(t *testing.T) {
		c, p, _ := connect(t, mqttclient.Options{}, nil)
		c.Close()
		if _, _, err := p.next(); !errors.Is(err, io.EOF) {
			t.Errorf("server sees %v", err)
		}
	})
	t.Run("reset", func(t *testing.T) {
		c, p, _ := connect(t, mqttclient.Options{}, nil)
		c.Reset()
		if _, _, err := p.next(); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("server sees %v", err)
		}
	})
}

// A malformed packet ends the connection with the reason code that answers it.
func TestMalformedPacket(t *testing.T) {
	c, p, _ := connect(t, mqttclient.Options{}, nil)
	if _, err := p.conn.Write([]byte{0x36, 3, 0, 1, 't'}); err != nil { // QoS 3
		t.Fatal(err)
	}
	var d mqtt.Disconnect
	p.expect(mqtt.DISCONNECT, &d)
	if d.Code != mqtt.CodeMalformedPacket {
		t.Errorf("code = %v", d.Code)
	}
	<-c.Done()
	if c.Err() == nil {
		t.Error("no error")
	}
}

func TestTooLargePacket(t *testing.T) {
	handler, got := collect()
	_, p, connect := connect(t, mqttclient.Options{MaximumPacketSize: 20, Handler: handler}, nil)
	if connect.Properties.MaximumPacketSize != 20 {
		t.Errorf("CONNECT says %d", connect.Properties.MaximumPacketSize)
	}
	p.send(message("t", "12345678901234", 0), message("t", "123456789012345", 0)) // 20 and 21 bytes
	wait(t, got)
	var d mqtt.Disconnect
	p.expect(mqtt.DISCONNECT, &d)
	if d.Code != mqtt.CodePacketTooLarge {
		t.Errorf("code = %v", d.Code)
	}
}

// Time is synctest's: the connection is net.Pipe.
func TestKeepAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		p := newPeer(t, server)
		go p.accept(new(mqtt.Connack))
		c, err := mqttclient.Dial(t.Context(), mqttclient.Options{
			KeepAlive: 10 * time.Second,
			DialConn:  func(context.Context) (net.Conn, error) { return client, nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		for range 3 {
			p.expect(mqtt.PINGREQ, new(mqtt.Pingreq))
			p.send(new(mqtt.Pingresp))
		}
		if d := time.Since(start); d > 30*time.Second {
			t.Errorf("three pings took %v", d)
		}
		go io.Copy(io.Discard, p.conn) // no answers from now on
		<-c.Done()
		if !errors.Is(c.Err(), mqttclient.ErrKeepAlive) {
			t.Errorf("err = %v", c.Err())
		}
	})
}

func TestServerKeepAliveComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		p := newPeer(t, server)
		a := new(mqtt.Connack)
		a.Properties.ServerKeepAlive = 4
		a.Properties.Set(mqtt.PropServerKeepAlive)
		go p.accept(a)
		c, err := mqttclient.Dial(t.Context(), mqttclient.Options{
			KeepAlive: time.Hour,
			DialConn:  func(context.Context) (net.Conn, error) { return client, nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		p.expect(mqtt.PINGREQ, new(mqtt.Pingreq))
		if d := time.Since(start); d > 4*time.Second {
			t.Errorf("ping after %v", d)
		}
		go io.Copy(io.Discard, p.conn)
		c.Close()
	})
}
