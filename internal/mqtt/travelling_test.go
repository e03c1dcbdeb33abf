package mqtt

import (
	"bytes"
	"fmt"
	"testing"
)

func someProps() []byte {
	b := AppendUserProperty(nil, "receipt", []byte("r1"))
	b = AppendPayloadFormat(b, true)
	b = AppendContentType(b, "text/plain")
	b = AppendUserProperty(b, "", "")
	b = AppendResponseTopic(b, []byte("answers/me"))
	b = AppendCorrelationData(b, "\x00\xFF")
	return AppendUserProperty(b, []byte("receipt"), "r2")
}

func TestTravellingProperties(t *testing.T) {
	props := someProps()
	var p Properties
	if err := DecodeProps(props, &p); err != nil {
		t.Fatal(err)
	}
	want := `payload format indicator=1, content type="text/plain", response topic="answers/me", correlation data="\x00\xff", ` +
		`user "receipt"="r1", user ""="", user "receipt"="r2"`
	if got := describeProperties(&p); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	again := p.AppendTravelling(nil)
	var q Properties
	if err := DecodeProps(again, &q); err != nil {
		t.Fatal(err)
	}
	if describeProperties(&q) != want || len(again) != len(props) {
		t.Errorf("%d bytes become %d: %s", len(props), len(again), describeProperties(&q))
	}
}

// They pass through a PUBLISH byte for byte, whatever stands between them.
// [MQTT-3.3.2-17] [MQTT-3.3.2-18]
func TestPropsKeepTheirBytes(t *testing.T) {
	props := someProps()
	in := &Publish{Topic: []byte("t"), Props: props, HasExpiry: true, TopicAlias: 7, SubscriptionIDs: []uint32{1, 200}}
	p, err := read(in.Append(nil, V5), V5)
	if err != nil {
		t.Fatal(err)
	}
	if got := p.(*Publish).Props; !bytes.Equal(got, props) {
		t.Errorf("got  %x\nwant %x", got, props)
	}
	// The same with another property between any two of them, in a struct that
	// serves them all.
	pub, r := new(Publish), reader{b: props}
	for len(r.b) > 0 {
		r.userProperty()
		cut := len(props) - len(r.b)
		mixed := append(bytes.Clone(props[:cut]), byte(PropMessageExpiry), 0, 0, 0, 9)
		mixed = append(mixed, props[cut:]...)
		_, body, _, _, _ := Split((&Publish{Topic: []byte("t"), Props: mixed}).Append(nil, V5), 1000)
		if err := pub.Decode(0x30, body, V5); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(pub.Props, props) || pub.Expiry != 9 {
			t.Errorf("expiry %d at %d:\ngot  %x\nwant %x", pub.Expiry, cut, pub.Props, props)
		}
	}
}

// [MQTT-3.1.3-10]
func TestWillTravels(t *testing.T) {
	p := Properties{WillDelay: 5, MessageExpiry: 6, ContentType: []byte("c"), User: AppendUserProperty(nil, "k", "v")}
	p.Set(PropWillDelay, PropMessageExpiry, PropContentType)
	want := AppendUserProperty(AppendContentType(nil, "c"), "k", "v")
	if got := p.AppendTravelling(nil); !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
}

func TestDecodePropsRefuses(t *testing.T) {
	for _, c := range []struct {
		hex  string
		want error
	}{
		{"", nil},
		{"02 00000001", errProperty}, // message expiry does not travel
		{"23 0001", errProperty},
		{"0B 01", errProperty},
		{"01 02", errPropertyValue},
		{"01 01 01 01", errRepeated},
		{"08 0001 2B", errResponseTopic},
		{"26 0001", errShort},
		{"26 0001 00 0000", errText},
		{"18 00000001", errProperty},
	} {
		var p Properties
		if err := DecodeProps(unhex(t, c.hex), &p); err != c.want {
			t.Errorf("%s: %v, want %v", c.hex, err, c.want)
		}
	}
}

func TestUserProperties(t *testing.T) {
	props := someProps()
	var got string
	for key, value := range UserProperties(props) {
		got += fmt.Sprintf("%s=%s;", key, value)
	}
	if want := "receipt=r1;=;receipt=r2;"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if v, ok := UserProperty(props, "receipt"); !ok || string(v) != "r1" {
		t.Errorf("receipt: %q %v", v, ok)
	}
	if v, ok := UserProperty(props, "Receipt"); ok {
		t.Errorf("Receipt: %q", v)
	}
	if v, ok := UserProperty(nil, ""); ok {
		t.Errorf("in nothing: %q", v)
	}
	// What is malformed ends the walk; no part of it is a reason to panic.
	for cut := range props {
		for key, value := range UserProperties(props[:cut]) {
			_, _ = key, value
		}
	}
	for bad, want := range map[string]int{
		"26 0001": 0, "00 26 0000 0000": 0, "04 26 0000 0000": 0, "2B 26 0000 0000": 0, "FF 26 0000 0000": 0,
		"26 0000 0000 26 0000 0001": 1,
	} {
		n := 0
		for range UserProperties(unhex(t, bad)) {
			n++
		}
		if n != want {
			t.Errorf("%s: %d user properties, want %d", bad, n, want)
		}
	}
	// Every wire type can be walked over.
	n := 0
	for range UserProperties(unhex(t, "19 01 24 00 21 0001 11 00000001 0B FF7F 1F 0001 72 16 0001 00 26 0000 0000")) {
		n++
	}
	if n != 1 {
		t.Errorf("%d user properties behind others", n)
	}
	if n := testing.AllocsPerRun(100, func() { UserProperty(props, "absent") }); n != 0 {
		t.Errorf("UserProperty: %v allocations", n)
	}
}

func TestPropertiesSetAndUnset(t *testing.T) {
	var p Properties
	if !p.Empty() || p.Has(PropReasonString) || p.Has(PropUser) {
		t.Error("the zero value is not empty")
	}
	p.Set(PropReasonString, PropReceiveMaximum)
	p.User = AppendUserProperty(p.User, "k", "v")
	if p.Empty() || !p.Has(PropReasonString) || !p.Has(PropReceiveMaximum) || !p.Has(PropUser) || p.Has(PropTopicAliasMaximum) {
		t.Errorf("after Set: %s", describeProperties(&p))
	}
	p.Unset(PropReasonString)
	if p.Has(PropReasonString) || !p.Has(PropUser) || !p.Has(PropReceiveMaximum) {
		t.Errorf("after Unset: %s", describeProperties(&p))
	}
	p.Unset(PropUser)
	if p.Has(PropUser) || !p.Has(PropReceiveMaximum) {
		t.Errorf("after Unset: %s", describeProperties(&p))
	}
	p.Reset()
	if !p.Empty() || p.ReceiveMaximum != 0 {
		t.Errorf("after Reset: %s", describeProperties(&p))
	}
	// What does not exist is not written.
	p.Set(Prop(0x04), Prop(0x2B), Prop(0x3F))
	if b := p.append(nil); !bytes.Equal(b, []byte{0}) {
		t.Errorf("unknown properties are written: %x", b)
	}
}
