package rocketmqserver

import (
	"bytes"
	"maps"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/homing-mq/homing/internal/rocketmqpb"
)

// FuzzGRPCMessage: what the generated code decodes, grpcMessage decodes too, to
// the same. It takes more: text that is not UTF-8.
func FuzzGRPCMessage(f *testing.F) {
	whole := &pb.Message{
		Topic: &pb.Resource{ResourceNamespace: "ns", Name: "parent"}, Body: []byte("body"),
		UserProperties: map[string]string{keySecondTopic: "/p2p/a", "": "empty", "key": ""},
		SystemProperties: &pb.SystemProperties{
			Tag: proto.String("tag"), Keys: []string{"k1", "k2"}, MessageId: "0100", MessageGroup: proto.String("g"),
			MessageType: pb.MessageType_DELAY, BodyEncoding: pb.Encoding_GZIP, DeliveryTimestamp: timestamppb.New(time.Unix(1, 2)),
			BodyDigest: &pb.Digest{Type: pb.DigestType_MD5, Checksum: "00"},
		},
	}
	seed := encode(f, whole)
	f.Add(seed)
	f.Add(append(seed, encode(f, &pb.Message{Topic: &pb.Resource{Name: "other"}, SystemProperties: &pb.SystemProperties{Keys: []string{"k3"}, BodyDigest: &pb.Digest{Checksum: "11"}, DeliveryTimestamp: &timestamppb.Timestamp{Nanos: -1}}})...))
	f.Add([]byte("\x22\x00\x1a\x03\x28\xff\x01"))             // empty body, unknown encoding
	f.Add([]byte("\x08\x01\x1a\x02\x1a\x00\x13\x08\x01\x14")) // fields of other types; a group
	f.Add(seed[:len(seed)-1])
	f.Fuzz(func(t *testing.T, b []byte) {
		var got grpcMessage
		err := got.decode(b)
		want := new(pb.Message)
		if proto.Unmarshal(b, want) != nil {
			return
		}
		if err != nil {
			t.Fatalf("%v: %v", err, want)
		}
		properties := map[string]string{}
		for _, p := range got.properties {
			properties[string(p.key)] = string(p.value)
		}
		system := want.GetSystemProperties()
		at := system.GetDeliveryTimestamp()
		if string(got.namespace) != want.GetTopic().GetResourceNamespace() || string(got.topic) != want.GetTopic().GetName() ||
			!bytes.Equal(got.body, want.Body) || !maps.Equal(properties, want.UserProperties) ||
			string(got.id) != system.GetMessageId() || got.kind != system.GetMessageType() || got.encoding != system.GetBodyEncoding() ||
			got.digest != system.GetBodyDigest().GetType() || string(got.checksum) != system.GetBodyDigest().GetChecksum() ||
			got.timed != (at != nil) || got.seconds != at.GetSeconds() || got.nanos != at.GetNanos() {
			t.Errorf("got %+v, want %v", got, want)
		}
		if joined := strings.Join(system.GetKeys(), " "); strings.TrimLeft(string(got.keys), " ") != strings.TrimLeft(joined, " ") {
			t.Errorf("keys %q, want %q", got.keys, joined)
		}
	})
}
