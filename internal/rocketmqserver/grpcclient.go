package rocketmqserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/homing-mq/homing/internal/mq"
	pb "github.com/homing-mq/homing/internal/rocketmqpb"
)

// queryRoute tells where to send: to this server, by the address that the client
// has for it. As with RocketMQ's name servers anybody may ask.
func queryRoute(c *call) (proto.Message, error) {
	if err := c.identify(); err != nil {
		return nil, err
	}
	request := new(pb.QueryRouteRequest)
	if err := c.decode(request); err != nil {
		return nil, err
	}
	if _, err := c.srv.parentTopic(topicOf(request.Topic)); err != nil {
		return nil, err
	}
	return &pb.QueryRouteResponse{
		Status: statusOf(outcomes[mq.OK]),
		MessageQueues: []*pb.MessageQueue{{
			Topic:      request.Topic,
			Permission: pb.Permission_READ_WRITE,
			Broker:     &pb.Broker{Name: brokerName, Endpoints: c.endpoints(request.Endpoints)},
			AcceptMessageTypes: []pb.MessageType{
				pb.MessageType_NORMAL, pb.MessageType_FIFO, pb.MessageType_DELAY,
			},
		}},
	}, nil
}

// topicOf is a topic as remoting names it: with its namespace in front.
func topicOf(r *pb.Resource) []byte {
	if ns := r.GetResourceNamespace(); ns != "" {
		return []byte(ns + "%" + r.GetName())
	}
	return []byte(r.GetName())
}

// endpoints are where the client is to send: the advertised address, or what it
// has dialled.
func (c *call) endpoints(dialled *pb.Endpoints) *pb.Endpoints {
	addr := c.srv.opt.AdvertiseGRPC
	if addr == "" {
		if len(dialled.GetAddresses()) > 0 && dialled.Scheme != pb.AddressScheme_ADDRESS_SCHEME_UNSPECIFIED {
			return dialled
		}
		addr = c.conn.LocalAddr().String()
	}
	host, port, _ := net.SplitHostPort(addr) // checked by the configuration
	n, _ := strconv.ParseUint(port, 10, 16)
	scheme := pb.AddressScheme_DOMAIN_NAME
	if ip, err := netip.ParseAddr(host); err == nil {
		scheme = pb.AddressScheme_IPv6
		if ip.Is4() {
			scheme = pb.AddressScheme_IPv4
		}
	}
	return &pb.Endpoints{Scheme: scheme, Addresses: []*pb.Address{{Host: host, Port: int32(n)}}}
}

// heartbeat is sent by every client all 10 s.
func heartbeat(c *call) (proto.Message, error) {
	if err := c.identify(); err != nil {
		return nil, err
	}
	request := new(pb.HeartbeatRequest)
	if err := c.decode(request); err != nil {
		return nil, err
	}
	if isConsumer(request.ClientType) {
		return nil, errUnserved
	}
	return &pb.HeartbeatResponse{Status: statusOf(outcomes[mq.OK])}, nil
}

func isConsumer(t pb.ClientType) bool {
	return t != pb.ClientType_PRODUCER && t != pb.ClientType_CLIENT_TYPE_UNSPECIFIED
}

// notifyClientTermination is a client's farewell. Nothing is kept of clients.
func notifyClientTermination(c *call) (proto.Message, error) {
	if err := c.identify(); err != nil {
		return nil, err
	}
	if err := c.decode(new(pb.NotifyClientTerminationRequest)); err != nil {
		return nil, err
	}
	return &pb.NotifyClientTerminationResponse{Status: statusOf(outcomes[mq.OK])}, nil
}

// maxTelemetry is how many Telemetry streams a connection may have. SDKs open
// one for each client; the clients of a process may share a connection.
const maxTelemetry = 16

var (
	errTelemetry  = status.Error(codes.ResourceExhausted, fmt.Sprintf("a connection may have %d Telemetry streams", maxTelemetry))
	statusClosing = status.New(codes.Unavailable, errClosing.Text)
)

// telemetry answers a client's settings, which it waits for, and stays open
// until the client goes or the server shuts down. Settings must come soon.
func (s *Server) telemetry(_ any, stream grpc.ServerStream) error {
	c := new(call) // its own: it stays for long, and needs no memory for messages
	c.begin(s, stream)
	defer c.conn.telemetry.Add(-1)
	if c.conn.telemetry.Add(1) > maxTelemetry {
		return errTelemetry
	}
	stop := context.AfterFunc(s.grpc.ending, func() { c.cut(statusClosing) })
	defer stop()
	c.late = time.AfterFunc(s.opt.FrameTime, func() {
		c.cut(status.Newf(codes.DeadlineExceeded, "no settings have arrived within %s (limits.connect-timeout)", s.opt.FrameTime))
	})
	defer c.late.Stop()
	_, err := c.run(exchangeSettings)
	return c.endTelemetry(err)
}

// cut ends a stream while its goroutine reads.
func (c *call) cut(why *status.Status) { _ = c.wire.WriteStatus(why) }

// endTelemetry tells the client why its stream ends. The status of a command is
// for the log of the SDKs; only a failed call makes the start of a client fail
// with the reason, and not after a while without one.
func (c *call) endTelemetry(err error) error {
	if err == nil {
		return nil
	}
	answer, err := refused(err)
	if err != nil {
		return err
	}
	why := answer.(*pb.UnsupportedResponse).Status
	if err := c.stream.SendMsg(&pb.TelemetryCommand{Status: why}); err != nil {
		return err
	}
	return status.Error(codes.FailedPrecondition, why.Message)
}

// exchangeSettings is a method without answer of its own.
func exchangeSettings(c *call) (proto.Message, error) {
	if err := c.identify(); err != nil {
		return nil, err
	}
	for {
		command, err := c.nextCommand()
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		settings := command.GetSettings()
		if settings == nil {
			continue // an answer to a question that is never asked
		}
		if err := c.srv.complete(settings); err != nil {
			return nil, err
		}
		c.late.Stop()
		if err := c.stream.SendMsg(&pb.TelemetryCommand{Status: statusOf(outcomes[mq.OK]), Command: &pb.TelemetryCommand_Settings{Settings: settings}}); err != nil {
			return nil, err
		}
	}
}

func (c *call) nextCommand() (*pb.TelemetryCommand, error) {
	defer c.release()
	if err := c.receive(smallRequest); err != nil {
		return nil, err
	}
	command := new(pb.TelemetryCommand)
	return command, c.unmarshal(command)
}

// How SDKs are told to repeat a send that has failed. It must be exponential:
// several of them know nothing else.
const (
	sendAttempts = 3
	firstBackoff = 10 * time.Millisecond
	maxBackoff   = time.Second
)

// complete makes the server's settings of a producer's; what is not known is
// given back as it is.
func (s *Server) complete(settings *pb.Settings) error {
	producer := settings.GetPublishing()
	switch {
	case settings.GetSubscription() != nil, isConsumer(settings.GetClientType()):
		return errUnserved
	case producer == nil:
		return refuse(outcome{grpc: pb.Code_UNRECOGNIZED_CLIENT_TYPE}, "the settings are neither a producer's nor a consumer's")
	}
	producer.MaxBodySize = int32(s.opt.BodySize)
	producer.ValidateMessageType = true
	settings.Metric = &pb.Metric{On: false}
	settings.BackoffPolicy = &pb.RetryPolicy{
		MaxAttempts: sendAttempts,
		Strategy: &pb.RetryPolicy_ExponentialBackoff{ExponentialBackoff: &pb.ExponentialBackoff{
			Initial: durationpb.New(firstBackoff), Max: durationpb.New(maxBackoff), Multiplier: 2,
		}},
	}
	return nil
}
