package config

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/homing-mq/homing/internal/gateway"
	"github.com/homing-mq/homing/internal/mq"
)

// Listener is one address the server listens on.
type Listener struct {
	Key  string // "listen.mqtt"
	Addr string
	TLS  bool
}

// Listeners returns the addresses that are not off.
func (c *Config) Listeners() []Listener {
	var on []Listener
	for _, l := range []Listener{
		{Key: "listen.mqtt", Addr: c.Listen.MQTT},
		{Key: "listen.mqtts", Addr: c.Listen.MQTTS, TLS: true},
		{Key: "listen.ws", Addr: c.Listen.WS},
		{Key: "listen.wss", Addr: c.Listen.WSS, TLS: true},
		{Key: "listen.rocketmq", Addr: c.Listen.RocketMQ},
		{Key: "listen.rocketmq-grpc", Addr: c.Listen.RocketMQGRPC},
		{Key: "listen.http", Addr: c.Listen.HTTP},
	} {
		if l.Addr != "" {
			on = append(on, l)
		}
	}
	return on
}

// errorf is a mistake in the value of a setting, or in how two go together.
func (l *loader) errorf(path, format string, args ...any) error {
	return &Error{Where: l.origin[path], Text: path + " " + fmt.Sprintf(format, args...)}
}

// validate checks what the tags cannot say.
func (l *loader) validate() error {
	c := l.cfg
	if err := l.validateListeners(); err != nil {
		return err
	}
	if err := l.validateWeb(); err != nil {
		return err
	}
	switch {
	case c.Data == "":
		return l.errorf("data", "is empty; give a directory, like ./data")
	case c.P2P.InboxBytes != 0 && c.P2P.InboxBytes < c.Limits.PacketSize:
		return l.errorf("p2p.inbox-bytes", "must be at least limits.packet-size (%s), or 0, not %s: a large message would never fit",
			c.Limits.PacketSize, c.P2P.InboxBytes)
	case c.Limits.PendingBytes < c.Limits.PacketSize:
		return l.errorf("limits.pending-bytes", "must be at least limits.packet-size (%s), not %s: a large message would never fit",
			c.Limits.PacketSize, c.Limits.PendingBytes)
	case c.Limits.PendingBytesTotal < c.Limits.PendingBytes:
		return l.errorf("limits.pending-bytes-total", "must be at least limits.pending-bytes (%s), not %s",
			c.Limits.PendingBytes, c.Limits.PendingBytesTotal)
	case c.Limits.KeepAlive%time.Second != 0:
		return l.errorf("limits.keep-alive", "must be whole seconds, not %s: MQTT knows no others", c.Limits.KeepAlive)
	case c.Sys.Interval != 0 && c.Sys.Interval < time.Second:
		return l.errorf("sys.interval", "must be at least 1s, or 0s, not %s", c.Sys.Interval)
	case c.Limits.SessionExpiry%time.Second != 0:
		return l.errorf("limits.session-expiry", "must be whole seconds, not %s: MQTT knows no others", c.Limits.SessionExpiry)
	case c.MQTT.ResponseTopic != "" && !strings.Contains(c.MQTT.ResponseTopic, "%c"):
		return l.errorf("mqtt.response-topic", "must have %%c, which stands for the client ID, not %q: clients would get each other's answers", c.MQTT.ResponseTopic)
	case strings.ContainsAny(c.MQTT.ResponseTopic, "+#\x00"):
		return l.errorf("mqtt.response-topic", "must be a topic name, without + and #, not %q", c.MQTT.ResponseTopic)
	case c.MQTT.ResponseTopic != "" && !isResponseTopic(c.MQTT.ResponseTopic):
		return l.errorf("mqtt.response-topic", "must be PARENT/p2p/%%c, more levels may follow, not %q: elsewhere nobody gets answers without subscribing", c.MQTT.ResponseTopic)
	case c.RocketMQ.Advertise != "" && !isHostPort(c.RocketMQ.Advertise):
		return l.errorf("rocketmq.advertise", "must be HOST:PORT, like mq.example.com:9876, or empty, not %q", c.RocketMQ.Advertise)
	case c.RocketMQ.AdvertiseGRPC != "" && !isHostPort(c.RocketMQ.AdvertiseGRPC):
		return l.errorf("rocketmq.advertise-grpc", "must be HOST:PORT, like mq.example.com:8081, or empty, not %q", c.RocketMQ.AdvertiseGRPC)
	case c.RocketMQ.VIPChannel && c.VIPAddr() == "":
		return l.errorf("rocketmq.vip-channel", "needs listen.rocketmq with a port of at least 3, not %q: it listens two below", c.Listen.RocketMQ)
	case c.Store.DiskLimit != 0 && c.Store.DiskLimit < 16*c.Limits.PacketSize:
		return l.errorf("store.disk-limit", "must be at least 16 times limits.packet-size (%s), or 0, not %s: its segments must hold such a message",
			c.Limits.PacketSize, c.Store.DiskLimit)
	}
	return nil
}

// isHostPort reports whether an address is one that a client can dial.
func isHostPort(addr string) bool {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" {
		return false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

// VIPAddr is where the VIP channel of RocketMQ clients listens, "" if there can
// be none.
func (c *Config) VIPAddr() string {
	host, port, err := net.SplitHostPort(c.Listen.RocketMQ)
	n, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || perr != nil || n < 3 {
		return ""
	}
	return net.JoinHostPort(host, strconv.FormatUint(n-2, 10))
}

// isResponseTopic reports whether a topic is the P2P topic of the client that %c
// stands for.
func isResponseTopic(topic string) bool {
	kind, target := mq.ParseTopic([]byte(topic))
	return kind == mq.TopicP2P && string(target) == "%c"
}

func (l *loader) validateListeners() error {
	c := l.cfg
	at := make(map[string]string)
	for _, x := range c.Listeners() {
		_, port, err := net.SplitHostPort(x.Addr)
		if err != nil {
			return l.errorf(x.Key, "must be HOST:PORT, like 127.0.0.1:1883, :1883 or [::1]:1883, not %q", x.Addr)
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || port != strconv.FormatUint(n, 10) {
			return l.errorf(x.Key, "must end in a port from 0 to 65535, not %q", port)
		}
		if other, taken := at[x.Addr]; taken && port != "0" {
			return l.errorf(x.Key, "is %s, as is %s; give one of them another port", x.Addr, other)
		}
		at[x.Addr] = x.Key
		if x.TLS && c.TLS.Cert == "" {
			return l.errorf(x.Key, "needs a certificate; set tls.cert and tls.key")
		}
	}
	switch {
	case len(at) == 0:
		return l.errorf("listen.mqtt", "and all other listeners are off; give at least one an address")
	case c.TLS.Cert != "" && c.TLS.Key == "":
		return l.errorf("tls.cert", "needs its private key; set tls.key")
	case c.TLS.Key != "" && c.TLS.Cert == "":
		return l.errorf("tls.key", "needs its certificate; set tls.cert")
	}
	return nil
}

// validateWeb checks whom browsers and load balancers may speak for.
func (l *loader) validateWeb() error {
	at := &l.cfg.Listen
	if _, err := gateway.ParseOrigins(at.WSOrigins); err != nil {
		return l.errorf("listen.ws-origins", "%v", err)
	}
	if _, err := gateway.ParseHosts(at.Hosts); err != nil {
		return l.errorf("listen.hosts", "%v", err)
	}
	if _, err := gateway.ParseProxies(at.ProxyProtocol); err != nil {
		return l.errorf("listen.proxy-protocol", "%v", err)
	}
	return nil
}

// CheckExposure refuses listeners that other machines can reach when anybody
// can log in: anonymous says that clients without credentials get in. insecure
// is the user's word that this is meant.
func CheckExposure(c *Config, anonymous, insecure bool) error {
	if !anonymous || insecure {
		return nil
	}
	for _, l := range c.Listeners() {
		if IsLoopback(l.Addr) {
			continue
		}
		why, remedy := "no login is configured", `add a user with "homing passwd NAME", or auth.access-keys`
		if c.Auth.Anonymous {
			why, remedy = "auth.anonymous lets anybody in", "set auth.anonymous to false"
		}
		_, port, _ := net.SplitHostPort(l.Addr)
		return &Error{Text: fmt.Sprintf("%s is %s, which other machines can reach, but %s; %s, or listen on 127.0.0.1:%s, or start with --insecure",
			l.Key, l.Addr, why, remedy, port)}
	}
	return nil
}

// IsLoopback reports whether an address, HOST:PORT, is one that only this machine
// reaches. It does not look names up: they can change.
func IsLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
