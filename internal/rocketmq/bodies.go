package rocketmq

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"strconv"
	"strings"
)

// The permissions of a queue (PermName).
const (
	PermWrite = 2
	PermRead  = 4
)

// Route says where a topic is: here always on one broker.
type Route struct {
	BrokerName, Cluster string
	Addr                string // host:port
	Queues              int    // that can be written, and as many that can be read
	Perm                int
}

// AppendRoute appends the body of an answer to GET_ROUTEINFO_BY_TOPIC
// (TopicRouteData). The ids of brokers are in quotation marks, which all
// clients take, and there is no white space, which Go's needs.
func AppendRoute(dst []byte, r *Route) []byte {
	dst = append(dst, `{"brokerDatas":[{"brokerAddrs":{"0":`...)
	dst = appendString(dst, []byte(r.Addr))
	dst = append(dst, `},"brokerName":`...)
	dst = appendString(dst, []byte(r.BrokerName))
	dst = append(dst, `,"cluster":`...)
	dst = appendString(dst, []byte(r.Cluster))
	dst = append(dst, `,"enableActingMaster":false}],"filterServerTable":{},"queueDatas":[{"brokerName":`...)
	dst = appendString(dst, []byte(r.BrokerName))
	dst = append(dst, `,"perm":`...)
	dst = strconv.AppendInt(dst, int64(r.Perm), 10)
	dst = append(dst, `,"readQueueNums":`...)
	dst = strconv.AppendInt(dst, int64(r.Queues), 10)
	dst = append(dst, `,"topicSysFlag":0,"writeQueueNums":`...)
	dst = strconv.AppendInt(dst, int64(r.Queues), 10)
	return append(dst, `}]}`...)
}

// RouteAddr returns the address, host:port, of the first master in a
// TopicRouteData. Older name servers write the ids of brokers without quotation
// marks.
func RouteAddr(body []byte) (string, error) {
	var route struct {
		BrokerDatas []struct {
			BrokerAddrs map[string]string
		}
	}
	if err := json.Unmarshal(quoteKeys(body), &route); err != nil {
		return "", malformed("route: %v", err)
	}
	for _, broker := range route.BrokerDatas {
		if addr := broker.BrokerAddrs["0"]; addr != "" {
			return addr, nil
		}
	}
	return "", malformed("route: no master")
}

// quoteKeys returns JSON with the keys in quotation marks that are bare
// integers.
func quoteKeys(body []byte) []byte {
	var out []byte
	inString, done := false, 0
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case !inString && (c == '{' || c == ','):
			end := i + 1
			for end < len(body) && body[end]-'0' <= 9 {
				end++
			}
			if end == i+1 || end == len(body) || body[end] != ':' {
				continue
			}
			out = append(out, body[done:i+1]...)
			out = append(out, '"')
			out = append(out, body[i+1:end]...)
			out = append(out, '"')
			i, done = end, end
		}
	}
	return append(out, body[done:]...)
}

// Heartbeat is what a client tells about itself (HeartbeatData).
type Heartbeat struct {
	ClientID  string
	Producers []string // groups
	Consumers []string // groups
}

// Decode reads the body of a HEART_BEAT. What h had before is gone. What is no
// JSON, or without a client ID, is ErrMalformed; fields that are not needed
// here are not looked at.
func (h *Heartbeat) Decode(body []byte) error {
	type group struct{ GroupName string }
	var data struct {
		ClientID        string
		ProducerDataSet []group
		ConsumerDataSet []group
	}
	if err := json.Unmarshal(body, &data); err != nil {
		return malformed("heartbeat: %v", err)
	}
	if data.ClientID == "" {
		return malformed("heartbeat: no client ID")
	}
	names := func(groups []group) (names []string) {
		for _, g := range groups {
			names = append(names, g.GroupName)
		}
		return names
	}
	*h = Heartbeat{data.ClientID, names(data.ProducerDataSet), names(data.ConsumerDataSet)}
	return nil
}

// AppendConsumerList appends the body of an answer to
// GET_CONSUMER_LIST_BY_GROUP: the client IDs of a group's members.
func AppendConsumerList(dst []byte, ids []string) []byte {
	dst = append(dst, `{"consumerIdList":[`...)
	for i, id := range ids {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendString(dst, []byte(id))
	}
	return append(dst, `]}`...)
}

// OffsetMessageID returns the message id that a broker gives (MessageDecoder,
// createMessageId): its address, its port in 32 bits and the message's offset,
// in upper-case hexadecimal; 32 characters with IPv4 and 56 with IPv6.
func OffsetMessageID(ip netip.Addr, port uint16, offset int64) string {
	id := make([]byte, 0, 16+4+8)
	id = append(id, ip.Unmap().AsSlice()...)
	id = binary.BigEndian.AppendUint32(id, uint32(port))
	id = binary.BigEndian.AppendUint64(id, uint64(offset))
	return strings.ToUpper(hex.EncodeToString(id))
}
