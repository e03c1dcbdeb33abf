package test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"
	paho3 "github.com/eclipse/paho.mqtt.golang"
)

func init() {
	installed := func() string { return "" }
	flavours = append(flavours,
		flavour{"paho.mqtt.golang 3.1.1", installed, connectPaho3("mqtt")},
		flavour{"paho.mqtt.golang 3.1.1 over WebSocket", installed, connectPaho3("ws")},
		flavour{"paho.golang 5", installed, connectPaho5},
	)
}

// pahoClient3 is paho.mqtt.golang. It needs the default handler: P2P messages
// match no subscription of its own.
type pahoClient3 struct {
	queue
	c paho3.Client
}

func connectPaho3(transport string) func(testing.TB, *server, string, bool) client {
	return func(t testing.TB, s *server, id string, persistent bool) client {
		t.Helper()
		p := &pahoClient3{queue: newQueue(t, "paho.mqtt.golang "+id)}
		url := map[string]string{"mqtt": "tcp://" + s.addr["mqtt"], "ws": "ws://" + s.addr["ws"] + "/mqtt"}[transport]
		o := paho3.NewClientOptions().AddBroker(url).SetClientID(id).SetProtocolVersion(4).SetCleanSession(!persistent).
			SetAutoReconnect(false).SetConnectRetry(false).
			SetDefaultPublishHandler(func(_ paho3.Client, m paho3.Message) {
				p.ch <- arrived{m.Topic(), string(m.Payload()), m.Qos(), m.Retained()}
			})
		p.c = paho3.NewClient(o)
		p.wait(p.c.Connect())
		t.Cleanup(func() { p.c.Disconnect(0) })
		return p
	}
}

func (p *pahoClient3) wait(token paho3.Token) {
	p.t.Helper()
	if !token.WaitTimeout(patience) || token.Error() != nil {
		p.t.Fatalf("%s: %v", p.name, token.Error())
	}
}

func (p *pahoClient3) publish(topic, payload string, qos byte) {
	p.t.Helper()
	p.wait(p.c.Publish(topic, qos, false, payload))
}

func (p *pahoClient3) close() { p.c.Disconnect(1000) }

// pahoClient5 is paho.golang.
type pahoClient5 struct {
	queue
	c *paho.Client
}

func connectPaho5(t testing.TB, s *server, id string, persistent bool) client {
	t.Helper()
	p := &pahoClient5{queue: newQueue(t, "paho.golang "+id)}
	conn, err := net.Dial("tcp", s.addr["mqtt"])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	p.c = paho.NewClient(paho.ClientConfig{
		Conn: conn, ClientID: id,
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(r paho.PublishReceived) (bool, error) {
			p.ch <- arrived{r.Packet.Topic, string(r.Packet.Payload), r.Packet.QoS, r.Packet.Retain}
			return true, nil
		}},
	})
	hello := &paho.Connect{ClientID: id, KeepAlive: 60, CleanStart: !persistent}
	if persistent {
		expiry := uint32(never)
		hello.Properties = &paho.ConnectProperties{SessionExpiryInterval: &expiry}
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if ack, err := p.c.Connect(ctx, hello); err != nil || ack.ReasonCode != 0 {
		t.Fatalf("%s: %v %+v", p.name, err, ack)
	}
	return p
}

func (p *pahoClient5) publish(topic, payload string, qos byte) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	res, err := p.c.Publish(ctx, &paho.Publish{Topic: topic, Payload: []byte(payload), QoS: qos})
	if err != nil || qos > 0 && res.ReasonCode != 0 {
		p.t.Fatalf("%s: %v %+v", p.name, err, res)
	}
}

func (p *pahoClient5) close() {
	_ = p.c.Disconnect(&paho.Disconnect{})
	select {
	case <-p.c.Done():
	case <-time.After(patience):
		p.t.Errorf("%s does not end", p.name)
	}
}
