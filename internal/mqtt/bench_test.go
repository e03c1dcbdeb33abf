package mqtt

import "testing"

func BenchmarkDecode(b *testing.B) {
	for _, c := range hotPackets {
		b.Run(c.name, func(b *testing.B) {
			data := unhex(b, c.hex)
			p, err := read(data, c.version)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				first, body, _, _, err := Split(data, 1<<20)
				if err != nil {
					b.Fatal(err)
				}
				if err := decode(p, first, body, c.version); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, c := range hotPackets {
		b.Run(c.name, func(b *testing.B) {
			p, err := read(unhex(b, c.hex), c.version)
			if err != nil {
				b.Fatal(err)
			}
			dst := make([]byte, 0, 256)
			b.ReportAllocs()
			for b.Loop() {
				dst = p.Append(dst[:0], c.version)
			}
		})
	}
}

// A P2P message as they are: a topic of 40 bytes, a payload of 256.
func BenchmarkPublish(b *testing.B) {
	pub := &Publish{QoS: 1, PacketID: 1, Topic: []byte("devices/p2p/GID_sensors@@@device-0000001"), Payload: make([]byte, 256)}
	pub.Props = AppendUserProperty(nil, "receipt", "0123456789abcdef")
	for _, v := range versions {
		data := pub.Append(nil, v)
		b.Run("decode "+v.String(), func(b *testing.B) {
			var p Publish
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				first, body, _, _, _ := Split(data, 1<<20)
				if err := p.Decode(first, body, v); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("append "+v.String(), func(b *testing.B) {
			dst := make([]byte, 0, 1024)
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				dst = pub.Append(dst[:0], v)
			}
		})
	}
}
