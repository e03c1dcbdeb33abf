package test

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/homing-mq/homing/internal/mqtt"
)

// script is everything that one connection does. It follows from the seed and
// its number alone.
type script struct {
	number    uint64
	at        time.Duration // since the load began
	transport string        // "raw:..." is TCP to the port of a transport
	version   mqtt.Version
	whole     bool   // begins with an unbroken CONNECT: what comes back is checked
	bare      bool   // sends no acknowledgements itself: the window can be counted
	reader    string // none, watch, answer
	ending    string // close, wait, half, reset
	steps     []fuzzStep
}

// fuzzStep writes data after a pause.
type fuzzStep struct {
	pause time.Duration
	data  []byte
}

// newScript makes the script with a number.
func newScript(seed, number uint64) *script {
	r := rand.New(rand.NewPCG(seed, number))
	s := &script{
		number: number, version: []mqtt.Version{mqtt.V31, mqtt.V311, mqtt.V311, mqtt.V5, mqtt.V5, mqtt.V5}[r.IntN(6)],
		reader:    []string{"none", "watch", "watch", "answer", "answer"}[r.IntN(5)],
		ending:    []string{"close", "wait", "wait", "half", "reset"}[r.IntN(5)],
		transport: "mqtt",
	}
	switch n := r.IntN(100); {
	case n < 10:
		s.transport = "ws"
	case n < 16:
		s.transport = "mqtts"
	case n < 18:
		s.transport = "wss"
	case n < 21:
		s.transport = "raw:ws"
	case n < 23:
		s.transport = "raw:mqtts"
	}
	g := &packets{Rand: r, version: s.version}
	switch n := r.IntN(100); {
	case n < 5:
		s.flood(g)
	case n < 10:
		s.noise(g)
	case n < 14 && s.version == mqtt.V5:
		s.login(g)
	default:
		s.converse(g)
	}
	if s.transport == "raw:ws" {
		s.frame(g)
	}
	return s
}

// converse sends packets: all in good form, or some broken.
func (s *script) converse(g *packets) {
	broken := []int{0, 0, 10, 50}[g.IntN(4)] // of 100
	s.bare = broken == 0
	var list [][]byte
	if g.chance(95) {
		list = append(list, g.connect().Append(nil, s.version))
		s.whole = !g.chance(broken)
	}
	if g.chance(50) {
		list = append(list, g.subscribe().Append(nil, s.version))
	}
	for n := g.IntN(40); len(list) < n+2; {
		p := g.next()
		if _, acks := p.(*mqtt.Ack); acks {
			s.bare = false
		}
		list = append(list, p.Append(nil, s.version))
	}
	for i := range list {
		if other := list[g.IntN(len(list))]; i == 0 && !s.whole || i > 0 && g.chance(broken) {
			list[i] = mutate(g.Rand, list[i], other)
		}
	}
	if g.chance(60) {
		for _, b := range list {
			s.add(g, b)
		}
		return
	}
	all := []byte(strings.Join(asStrings(list), ""))
	if g.chance(40) {
		s.add(g, all)
		return
	}
	if s.reader == "answer" { // its packets would get in between
		s.reader = "watch"
	}
	s.pieces(g, all)
}

func asStrings(list [][]byte) (out []string) {
	for _, b := range list {
		out = append(out, string(b))
	}
	return out
}

// pieces writes b in parts that mean nothing.
func (s *script) pieces(g *packets, b []byte) {
	longest := []int{1, 3, 20, 500}[g.IntN(4)]
	for len(b) > 0 && len(s.steps) < 300 {
		n := min(1+g.IntN(longest), len(b))
		s.add(g, b[:n])
		b = b[n:]
	}
	s.add(g, b)
}

func (s *script) add(g *packets, b []byte) {
	var pause time.Duration
	if g.chance(15) {
		pause = time.Duration(g.IntN(5)) * time.Millisecond
	}
	s.steps = append(s.steps, fuzzStep{pause, b})
}

// flood publishes much that comes back, and reads nothing.
func (s *script) flood(g *packets) {
	s.reader, s.whole = "none", true
	c := &mqtt.Connect{ClientID: []byte(fuzzIDs[g.IntN(12)]), CleanStart: g.chance(50)}
	expires(g.number())(c)
	m := &mqtt.Publish{Topic: []byte("fuzz/a"), Payload: []byte(fuzzPayloads[len(fuzzPayloads)-1-g.IntN(2)])}
	if g.chance(30) { // ends soon, at the receive maximum, if it is MQTT 5
		m.QoS = g.qos()
	}
	filter := []string{"#", "fuzz/+", "$share/g/fuzz/#"}[g.IntN(3)]
	if g.chance(30) {
		m.Topic = []byte(topicOf(string(c.ClientID)))
	}
	b := c.Append(nil, s.version)
	b = (&mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Filter{{Topic: []byte(filter), QoS: 2}}}).Append(b, s.version)
	s.add(g, b)
	for i := range uint16(60 + g.IntN(300)) {
		if m.QoS > 0 {
			m.PacketID = i + 1
		}
		s.add(g, m.Append(nil, s.version))
	}
}

// login is enhanced authentication that goes well, and is done again.
func (s *script) login(g *packets) {
	s.reader, s.whole = "answer", true
	c := &mqtt.Connect{ClientID: g.name(fuzzIDs), CleanStart: g.chance(50)}
	begin := func(p *mqtt.Properties) {
		p.AuthMethod, p.AuthData = []byte(scramMethod), []byte("n,,n="+fuzzUser+",r="+scramNonce)
		p.Set(mqtt.PropAuthMethod, mqtt.PropAuthData)
	}
	begin(&c.Properties)
	s.add(g, c.Append(nil, s.version))
	for range 4 + g.IntN(8) {
		b := g.next().Append(nil, s.version)
		if g.chance(50) {
			again := &mqtt.Auth{Code: mqtt.CodeReauthenticate}
			if begin(&again.Properties); g.chance(20) {
				again.Properties.AuthData = nil
			}
			b = again.Append(nil, s.version)
		}
		if g.chance(15) {
			b = mutate(g.Rand, b, b)
		}
		s.add(g, b)
	}
	s.steps[1].pause = 100 * time.Millisecond // until CONNACK only AUTH may follow
}

// noise is nothing that anybody meant.
func (s *script) noise(g *packets) {
	if g.chance(50) {
		s.whole = true
		s.add(g, g.connect().Append(nil, s.version))
	}
	s.pieces(g, noise(g.Rand, 1+g.IntN(2000)))
}

// frame makes WebSocket of it by hand: the upgrade, then frames of any kind,
// some of them broken.
func (s *script) frame(g *packets) {
	s.whole, s.reader = false, "none"
	if g.chance(20) {
		return
	}
	for i := range s.steps {
		b := s.steps[i].data
		opcode := byte(2)
		if g.chance(10) {
			opcode = byte(g.IntN(16))
		}
		f := []byte{0x80 | opcode}
		if g.chance(10) {
			f[0] &^= 0x80 // to be continued
		}
		switch n := len(b); {
		case n < 126:
			f = append(f, 0x80|byte(n))
		case n < 1<<16:
			f = binary.BigEndian.AppendUint16(append(f, 0x80|126), uint16(n))
		default:
			f = binary.BigEndian.AppendUint64(append(f, 0x80|127), uint64(n))
		}
		f = append(append(f, 0, 0, 0, 0), b...) // a mask that changes nothing
		if g.chance(5) {
			f = mutate(g.Rand, f, b)
		}
		s.steps[i].data = f
	}
	upgrade := "GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
	if g.chance(15) {
		upgrade = string(mutate(g.Rand, []byte(upgrade), nil))
	}
	s.steps = append([]fuzzStep{{data: []byte(upgrade)}}, s.steps...)
}

const scriptHead = "connection %d at %s over %s version %d whole %t bare %t reader %s ending %s"

// String is the script as text, for a file that parseScripts reads.
func (s *script) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, scriptHead+"\n", s.number, s.at, s.transport, s.version, s.whole, s.bare, s.reader, s.ending)
	for _, x := range s.steps {
		fmt.Fprintf(&b, "%s %s\n", x.pause, hex.EncodeToString(x.data))
	}
	return b.String()
}

// parseScripts reads what String wrote, script after script, after a line with
// the seed.
func parseScripts(text string) (seed uint64, list []*script, err error) {
	first, rest, _ := strings.Cut(text, "\n")
	if _, err := fmt.Sscanf(first, "seed %d", &seed); err != nil {
		return 0, nil, fmt.Errorf("line 1 is not the seed: %w", err)
	}
	for line := range strings.Lines(rest) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "connection ") {
			s := &script{}
			var at string
			if _, err := fmt.Sscanf(line, scriptHead, &s.number, &at, &s.transport, &s.version, &s.whole, &s.bare, &s.reader, &s.ending); err != nil {
				return 0, nil, fmt.Errorf("%s: %w", line, err)
			}
			if s.at, err = time.ParseDuration(at); err != nil {
				return 0, nil, err
			}
			list = append(list, s)
			continue
		}
		if len(list) == 0 {
			return 0, nil, fmt.Errorf("%.40q belongs to no connection", line)
		}
		pause, data, _ := strings.Cut(line, " ")
		var x fuzzStep
		if x.pause, err = time.ParseDuration(pause); err != nil {
			return 0, nil, err
		}
		if x.data, err = hex.DecodeString(data); err != nil {
			return 0, nil, err
		}
		last := list[len(list)-1]
		last.steps = append(last.steps, x)
	}
	return seed, list, nil
}
