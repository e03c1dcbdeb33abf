package mqtt

import (
	"bytes"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// Generators: any packet that a caller may encode.

// lengths of strings around where encodings change.
var edgeLengths = []int{0, 1, 126, 127, 128, 1000, 16383, 16384, maxString}

func drawText(t *rapid.T, label string) []byte {
	if rapid.IntRange(0, 9).Draw(t, label+" is long") == 0 {
		return bytes.Repeat([]byte{'x'}, rapid.SampledFrom(edgeLengths).Draw(t, label+" length"))
	}
	var out []byte
	for _, r := range rapid.SliceOfN(rapid.Rune(), 0, 8).Draw(t, label) {
		if r != 0 && utf8.ValidRune(r) {
			out = utf8.AppendRune(out, r)
		}
	}
	return out
}

func drawBytes(t *rapid.T, label string) []byte {
	if rapid.IntRange(0, 9).Draw(t, label+" is long") == 0 {
		return bytes.Repeat([]byte{0}, rapid.SampledFrom(edgeLengths).Draw(t, label+" length"))
	}
	return rapid.SliceOfN(rapid.Byte(), 0, 8).Draw(t, label)
}

func drawTopic(t *rapid.T, label string) []byte {
	topic := bytes.Map(func(r rune) rune {
		if r == '+' || r == '#' {
			return '/'
		}
		return r
	}, drawText(t, label))
	if len(topic) == 0 {
		return []byte("t")
	}
	return topic
}

func drawFilter(t *rapid.T, label string) []byte {
	if f := drawText(t, label); len(f) > 0 {
		return f
	}
	return []byte("#")
}

func drawUser(t *rapid.T) (user []byte) {
	for range rapid.IntRange(0, 3).Draw(t, "user properties") {
		user = AppendUserProperty(user, drawText(t, "key"), drawText(t, "value"))
	}
	return user
}

// drawProperties returns properties for a packet of type in.
func drawProperties(t *rapid.T, in PacketType, v Version) (p Properties) {
	if v != V5 || rapid.Bool().Draw(t, "no properties") {
		return p
	}
	for id := range Prop(len(propTable)) {
		row := propTable[id]
		if id == PropUser || !row.in.has(in) || rapid.Bool().Draw(t, "skip") {
			continue
		}
		p.Set(id)
		low := uint32(0)
		if row.nonzero {
			low = 1
		}
		switch row.wire {
		case wireBool:
			*p.boolField(id) = rapid.Bool().Draw(t, row.name)
		case wireByte:
			*p.byteField(id) = rapid.ByteRange(0, 1).Draw(t, row.name)
		case wireUint16:
			*p.uint16Field(id) = rapid.Uint16Min(uint16(low)).Draw(t, row.name)
		case wireUint32:
			*p.uint32Field(id) = rapid.Uint32Min(low).Draw(t, row.name)
		case wireVarint:
			p.SubscriptionID = rapid.Uint32Range(low, maxRemaining).Draw(t, row.name)
		case wireText:
			*p.dataField(id) = drawText(t, row.name)
		case wireBinary:
			*p.dataField(id) = drawBytes(t, row.name)
		}
	}
	if p.Has(PropResponseTopic) {
		p.ResponseTopic = drawTopic(t, "response topic")
	}
	if p.Has(PropAuthData) || in == AUTH {
		p.Set(PropAuthMethod)
	}
	p.User = drawUser(t)
	return p
}

func drawCode(t *rapid.T, in PacketType, v Version) ReasonCode {
	var codes []ReasonCode
	for c := range ReasonCode(255) {
		ok := c.ValidIn(in)
		if v != V5 {
			ok = in == CONNACK && c <= ReturnNotAuthorized || in == SUBACK && (c <= CodeGrantedQoS2 || c == CodeUnspecifiedError)
		}
		if ok {
			codes = append(codes, c)
		}
	}
	if len(codes) == 0 {
		return CodeSuccess
	}
	return rapid.SampledFrom(codes).Draw(t, "code")
}

func drawCodes(t *rapid.T, in PacketType, v Version) (codes []ReasonCode) {
	for range rapid.IntRange(1, 4).Draw(t, "codes") {
		codes = append(codes, drawCode(t, in, v))
	}
	return codes
}

func drawID(t *rapid.T) uint16 { return rapid.Uint16Min(1).Draw(t, "packet identifier") }

func drawPublish(t *rapid.T, v Version) *Publish {
	p := &Publish{
		QoS:     rapid.ByteRange(0, 2).Draw(t, "QoS"),
		Retain:  rapid.Bool().Draw(t, "retain"),
		Topic:   drawTopic(t, "topic"),
		Payload: drawBytes(t, "payload"),
	}
	if p.QoS > 0 {
		p.PacketID = drawID(t)
		p.Dup = rapid.Bool().Draw(t, "DUP")
	}
	if v != V5 {
		return p
	}
	if p.HasExpiry = rapid.Bool().Draw(t, "has expiry"); p.HasExpiry {
		p.Expiry = rapid.Uint32().Draw(t, "expiry")
	}
	if p.TopicAlias = rapid.Uint16().Draw(t, "alias"); p.TopicAlias != 0 && rapid.Bool().Draw(t, "no topic") {
		p.Topic = nil
	}
	p.SubscriptionIDs = rapid.SliceOfN(rapid.Uint32Range(1, maxRemaining), 0, 3).Draw(t, "subscription identifiers")
	travel := drawProperties(t, will, v)
	p.Props = travel.AppendTravelling(nil)
	return p
}

func drawConnect(t *rapid.T, v Version) *Connect {
	c := &Connect{
		Version:     v,
		CleanStart:  rapid.Bool().Draw(t, "clean start"),
		HasUsername: rapid.Bool().Draw(t, "has user name"),
		HasWill:     rapid.Bool().Draw(t, "has will"),
		KeepAlive:   rapid.Uint16().Draw(t, "keep alive"),
		ClientID:    drawText(t, "client ID"),
		Properties:  drawProperties(t, CONNECT, v),
	}
	c.HasPassword = (v == V5 || c.HasUsername) && rapid.Bool().Draw(t, "has password")
	if c.HasUsername {
		c.Username = drawText(t, "user name")
	}
	if c.HasPassword {
		c.Password = drawBytes(t, "password")
	}
	if c.HasWill {
		c.Will = Will{
			Topic:      drawTopic(t, "will topic"),
			Payload:    drawBytes(t, "will payload"),
			QoS:        rapid.ByteRange(0, 2).Draw(t, "will QoS"),
			Retain:     rapid.Bool().Draw(t, "will retain"),
			Properties: drawProperties(t, will, v),
		}
	}
	return c
}

func drawSubscribe(t *rapid.T, v Version) *Subscribe {
	s := &Subscribe{PacketID: drawID(t), Properties: drawProperties(t, SUBSCRIBE, v)}
	for range rapid.IntRange(1, 4).Draw(t, "filters") {
		f := Filter{Topic: drawFilter(t, "filter"), QoS: rapid.ByteRange(0, 2).Draw(t, "QoS")}
		if v == V5 {
			f.NoLocal = rapid.Bool().Draw(t, "no local")
			f.RetainAsPublished = rapid.Bool().Draw(t, "retain as published")
			f.RetainHandling = rapid.ByteRange(0, 2).Draw(t, "retain handling")
		}
		s.Filters = append(s.Filters, f)
	}
	return s
}

// drawPacket returns any packet of type typ that version v can express.
func drawPacket(t *rapid.T, typ PacketType, v Version) packet {
	props := func() Properties { return drawProperties(t, typ, v) }
	switch typ {
	case CONNECT:
		return drawConnect(t, v)
	case CONNACK:
		c := &Connack{Code: drawCode(t, typ, v), Properties: props()}
		c.SessionPresent = v != V31 && c.Code == CodeSuccess && rapid.Bool().Draw(t, "session present")
		return c
	case PUBLISH:
		return drawPublish(t, v)
	case PUBACK, PUBREC, PUBREL, PUBCOMP:
		return &Ack{Type: typ, PacketID: drawID(t), Code: drawCode(t, typ, v), Properties: props()}
	case SUBSCRIBE:
		return drawSubscribe(t, v)
	case SUBACK:
		return &Suback{PacketID: drawID(t), Codes: drawCodes(t, typ, v), Properties: props()}
	case UNSUBSCRIBE:
		u := &Unsubscribe{PacketID: drawID(t), Properties: props()}
		for range rapid.IntRange(1, 4).Draw(t, "filters") {
			u.Filters = append(u.Filters, drawFilter(t, "filter"))
		}
		return u
	case UNSUBACK:
		u := &Unsuback{PacketID: drawID(t), Properties: props()}
		if v == V5 {
			u.Codes = drawCodes(t, typ, v)
		}
		return u
	case DISCONNECT:
		return &Disconnect{Code: drawCode(t, typ, v), Properties: props()}
	case AUTH:
		a := &Auth{Code: drawCode(t, typ, v), Properties: props()}
		if a.Properties.Empty() {
			a.Code = CodeSuccess // without method there is no other
		} else {
			a.Properties.Set(PropAuthMethod)
		}
		return a
	}
	return newPacket(typ)
}

// Whatever is encoded decodes to the same, also into a struct that held another
// packet before, and behind other bytes in the same buffer.
func TestRoundTrip(t *testing.T) {
	for typ := CONNECT; typ <= AUTH; typ++ {
		reused := newPacket(typ)
		for _, v := range []Version{V5, V31, V311} { // what 5.0 leaves behind must not be seen in 3.x
			if typ == AUTH && v != V5 {
				continue
			}
			t.Run(v.String()+"/"+typ.String(), func(t *testing.T) {
				rapid.Check(t, func(t *rapid.T) { roundTrip(t, typ, v, reused) })
			})
		}
	}
}

func roundTrip(t *rapid.T, typ PacketType, v Version, reused packet) {
	p := drawPacket(t, typ, v)
	prefix := []byte("prefix")
	b := p.Append(prefix[:len(prefix):len(prefix)], v)
	if !bytes.HasPrefix(b, prefix) {
		t.Fatalf("the start of dst was changed: %q", b[:len(prefix)])
	}
	b = b[len(prefix):]
	first, body, n, _, err := Split(b, len(b))
	if err != nil || n != len(b) {
		t.Fatalf("Split: %d of %d bytes, %v", n, len(b), err)
	}
	if TypeOf(first) != typ {
		t.Fatalf("encoded as %v", TypeOf(first))
	}
	q := newPacket(typ)
	for _, into := range []packet{q, reused} {
		if err := decode(into, first, body, v); err != nil {
			t.Fatalf("%x: %v", b, err)
		}
		if diff := diffPackets(p, into); diff != "" {
			t.Fatal(diff)
		}
	}
	if again := q.Append(nil, v); !bytes.Equal(b, again) {
		t.Fatalf("encodes as %x,\nthen as    %x", b, again)
	}
	if pub, ok := p.(*Publish); ok {
		if size := pub.Size(v); size != len(b) {
			t.Fatalf("Size %d, but %d bytes", size, len(b))
		}
		if head := pub.AppendHead(nil, v); !bytes.Equal(append(head, pub.Payload...), b) {
			t.Fatalf("head %x of %x", head, b)
		}
	}
}

// What an MQTT 5 packet leaves in a struct is gone after one of 3.x.
func TestReuseAcrossVersions(t *testing.T) {
	seen := map[PacketType]bool{}
	for _, vec := range vectors(t) {
		for _, in := range vec.inputs {
			want, err := read(in.bytes, in.version)
			if err != nil || in.version == V5 {
				continue
			}
			first, body, _, _, _ := Split(in.bytes, MaxPacketSize)
			typ := TypeOf(first)
			p := newPacket(typ)
			if typ != PINGREQ && typ != PINGRESP {
				before := withProperties(t, typ, AppendUserProperty(nil, "left", "over"))
				_, old, _, _, _ := Split(before, MaxPacketSize)
				if err := decode(p, before[0], old, V5); err != nil {
					t.Fatal(err)
				}
				seen[typ] = true
			}
			if err := decode(p, first, body, in.version); err != nil {
				t.Fatal(err)
			}
			if diff := diffPackets(want, p); diff != "" {
				t.Errorf("%s: %s", vec.name, diff)
			}
		}
	}
	if len(seen) != 12 {
		t.Errorf("only %v", seen)
	}
}

// The fields that 3.x does not have are not written there.
func TestOldVersionsIgnoreNewFields(t *testing.T) {
	for _, v := range []Version{V31, V311} {
		for typ := CONNECT; typ < AUTH; typ++ {
			t.Run(v.String()+"/"+typ.String(), func(t *testing.T) {
				rapid.Check(t, func(t *rapid.T) {
					p := drawPacket(t, typ, V5)
					if pub, ok := p.(*Publish); ok && len(pub.Topic) == 0 {
						pub.Topic = []byte("t")
					}
					q, err := read(p.Append(nil, v), v)
					if c, ok := p.(*Connack); ok && c.Code != CodeSuccess && c.Code < 0x80 {
						return
					}
					if err != nil {
						t.Fatal(err)
					}
					checkAgain(t, q, v)
				})
			})
		}
	}
}

// Strings that are too long are cut rather than breaking the frame.
func TestTooLongStringsAreCut(t *testing.T) {
	long := bytes.Repeat([]byte{'x'}, maxString+10)
	for _, v := range versions {
		pub := &Publish{Topic: long, Payload: []byte("p")}
		b := pub.Append(nil, v)
		if pub.Size(v) != len(b) {
			t.Errorf("Size %d, but %d bytes", pub.Size(v), len(b))
		}
		p, err := read(b, v)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.(*Publish); len(got.Topic) != maxString || string(got.Payload) != "p" {
			t.Errorf("topic of %d bytes, payload %q", len(got.Topic), got.Payload)
		}
	}
}
