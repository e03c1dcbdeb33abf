package rocketmqserver

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"net"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/grpclog"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/homing-mq/homing/internal/mq"
	pb "github.com/homing-mq/homing/internal/rocketmqpb"
)

const (
	// grpcHeadroom is how much larger than its largest body a request may be,
	// bytes: what SDKs allow themselves for properties is less.
	grpcHeadroom = 64 << 10
	// smallRequest is the size of the largest request, bytes, whose memory is not
	// accounted for: that much of each call arrives without being asked for
	// (HTTP/2 flow control). Requests other than sends may not be larger.
	smallRequest = 64 << 10
	// grpcHeaders bounds the metadata of a call, bytes.
	grpcHeaders = 16 << 10
	// grpcWorkers is how many goroutines stay for calls, so that their stacks need
	// not grow again. More calls get goroutines of their own.
	grpcWorkers = 64
	// pingsApart is how often a client may ping.
	pingsApart = 5 * time.Second
	// farewellTime is how long clients have to go by themselves at Shutdown. What
	// they are owed is answered before.
	farewellTime = time.Second
)

func init() {
	// The library writes to stderr what strangers send. What matters is logged
	// here.
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard))
}

// grpcSide is the gRPC half of a Server.
type grpcSide struct {
	server  *grpc.Server           // nil: no listener yet, or none any more; guarded by Server.mu
	opening map[*grpcConn]struct{} // connections whose handshake is under way; guarded by Server.mu
	open    map[*grpcConn]struct{} // all connections; guarded by Server.mu
	ending  context.Context        // ends when Telemetry streams are to end
	end     context.CancelFunc
}

// ServeGRPC accepts RocketMQ's 5.x SDKs from l until Shutdown closes it.
func (s *Server) ServeGRPC(l net.Listener) {
	s.mu.Lock()
	s.listeners = append(s.listeners, l)
	if s.grpc.server == nil {
		s.grpc = grpcSide{server: s.newGRPC(), opening: make(map[*grpcConn]struct{}), open: make(map[*grpcConn]struct{})}
		s.grpc.ending, s.grpc.end = context.WithCancel(context.Background())
	}
	server := s.grpc.server
	s.mu.Unlock()
	s.wg.Go(func() {
		if err := server.Serve(s.grpcListener(l)); err != nil && !errors.Is(err, net.ErrClosed) {
			s.log.Error("RocketMQ gRPC listener stopped", "error", err)
		}
	})
}

func (s *Server) newGRPC() *grpc.Server {
	server := grpc.NewServer(
		grpc.Creds(newSniffing(s.tls)),
		grpc.ConnectionTimeout(s.opt.FrameTime),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingsApart, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: s.opt.IdleTimeout, Time: s.opt.IdleTimeout, Timeout: s.opt.FrameTime}),
		grpc.MaxConcurrentStreams(uint32(s.opt.Unanswered)+1), // and Telemetry
		grpc.MaxHeaderListSize(grpcHeaders),
		grpc.StaticStreamWindowSize(smallRequest),
		grpc.StaticConnWindowSize(1<<20),
		grpc.NumStreamWorkers(grpcWorkers),
		grpc.WaitForHandlers(true),
	)
	server.RegisterService(s.grpcService(), nil)
	return server
}

// shutdownGRPC tells clients to go, answers what is under way and closes all
// connections: those of clients that do not go after farewellTime, or at once when
// ctx ends. Refuse must have been called.
func (s *Server) shutdownGRPC(ctx context.Context) {
	s.mu.Lock()
	server, opening := s.grpc.server, slices.Collect(maps.Keys(s.grpc.opening))
	s.grpc.server = nil
	s.mu.Unlock()
	if server == nil {
		return
	}
	for _, c := range opening { // the library would wait for their handshakes
		_ = c.Close()
	}
	s.grpc.end()
	ctx, cancel := context.WithTimeout(ctx, farewellTime)
	defer cancel()
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	server.GracefulStop()
}

// grpcService is all methods of the service, as streams: a unary call is one
// too, and a handler of a stream sees the request before it is read. It so
// checks the signature and the size first.
func (s *Server) grpcService() *grpc.ServiceDesc {
	served := map[string]method{
		"QueryRoute":              queryRoute,
		"Heartbeat":               heartbeat,
		"SendMessage":             sendMessage,
		"NotifyClientTermination": notifyClientTermination,
	}
	desc := &grpc.ServiceDesc{ServiceName: pb.MessagingService_ServiceDesc.ServiceName, Metadata: pb.MessagingService_ServiceDesc.Metadata}
	add := func(name string, clientStreams, serverStreams bool, h grpc.StreamHandler) {
		desc.Streams = append(desc.Streams, grpc.StreamDesc{StreamName: name, Handler: h, ClientStreams: clientStreams, ServerStreams: serverStreams})
	}
	for _, m := range pb.MessagingService_ServiceDesc.Methods {
		handle := served[m.MethodName]
		if handle == nil {
			handle = notServed
		}
		add(m.MethodName, false, false, s.unary(handle))
	}
	for _, m := range pb.MessagingService_ServiceDesc.Streams {
		if m.StreamName == "Telemetry" {
			add(m.StreamName, true, true, s.telemetry)
		} else {
			add(m.StreamName, false, true, s.unary(notServed))
		}
	}
	return desc
}

// A method answers a call. An error that is a refusal or an *mq.Error becomes
// the status of the answer; another one, of gRPC, ends the call.
type method func(c *call) (proto.Message, error)

var errUnserved = refuse(unsupported, "this server takes messages from RocketMQ producers only; devices receive them by MQTT, and there are no RocketMQ consumers, transactions or recalls")

func notServed(*call) (proto.Message, error) { return nil, errUnserved }

var errBug = refuse(outcome{grpc: pb.Code_INTERNAL_SERVER_ERROR}, "a bug in the server; see its log")

// unary makes a handler of a method with one request and one answer.
func (s *Server) unary(m method) grpc.StreamHandler {
	return func(_ any, stream grpc.ServerStream) error {
		c := newCall(s, stream)
		answer, err := c.run(m)
		c.release()
		if err == nil {
			c.free()
		} else if answer, err = refused(err); err != nil {
			return err
		}
		return stream.SendMsg(answer)
	}
}

// endsCall reports whether an error is one of gRPC.
func endsCall(err error) bool {
	_, ok := errors.AsType[interface {
		error
		GRPCStatus() *status.Status
	}](err)
	return ok
}

// refused returns the answer for an error, or what ends the call. Every response
// has the status in field 1.
func refused(err error) (proto.Message, error) {
	if endsCall(err) {
		return nil, err
	}
	return &pb.UnsupportedResponse{Status: statusOf(told(err))}, nil
}

func statusOf(o outcome) *pb.Status { return &pb.Status{Code: o.grpc, Message: o.text} }

// run runs the method; a panic ends only this call.
func (c *call) run(m method) (answer proto.Message, err error) {
	defer c.rescue(&err)
	c.srv.Stats.Requests[GRPC].Add(1)
	return m(c)
}

func (c *call) rescue(err *error) {
	if p := recover(); p != nil {
		c.srv.Stats.Panics.Add(1)
		c.srv.log.Error("bug: a RocketMQ gRPC call has failed", "remote", c.conn.remote.String(), "panic", p, "stack", string(debug.Stack()))
		*err = errBug
	}
}

// call is one gRPC call. One goroutine uses it.
type call struct {
	srv    *Server
	stream grpc.ServerStream
	ctx    context.Context
	conn   *grpcConn
	wire   wire

	signed signedCall
	header [5]byte
	held   int64      // of Server.room
	data   mem.Buffer // the request; nil: none
	send   sending

	late    *time.Timer // see expect
	spoiled bool        // cannot be used again
}

// wire is the part of a stream's transport that reads single messages: the
// length first. grpc.ServerStream reads a message whole, and refuses one that is
// too large by ending the call, which the SDKs take for a broken connection and
// not for an answer. WriteStatus ends the call from any goroutine; what reads
// then fails.
type wire interface {
	ReadMessageHeader(header []byte) error
	Read(n int) (mem.BufferSlice, error)
	WriteStatus(why *status.Status) error
}

var calls = sync.Pool{New: func() any { return new(call) }}

func newCall(s *Server, stream grpc.ServerStream) *call {
	c := calls.Get().(*call)
	c.begin(s, stream)
	return c
}

func (c *call) begin(s *Server, stream grpc.ServerStream) {
	c.srv, c.stream, c.ctx = s, stream, stream.Context()
	c.wire, _ = grpc.ServerTransportStreamFromContext(c.ctx).(wire)
	if p, ok := peer.FromContext(c.ctx); ok {
		if c.conn, _ = p.AuthInfo.(*grpcConn); c.conn != nil {
			c.conn.use()
		}
	}
}

// free gives the call back, if it can be used again. Nobody may know it any
// more.
func (c *call) free() {
	if c.spoiled {
		return
	}
	c.send.forget()
	c.srv, c.stream, c.ctx, c.conn, c.wire, c.signed = nil, nil, nil, nil, nil, signedCall{}
	calls.Put(c)
}

// release gives back the memory of the request.
func (c *call) release() {
	if c.data != nil {
		c.data.Free()
		c.data = nil
	}
	if c.held > 0 {
		c.srv.room(true).Release(c.held)
		c.srv.broker.Hold(-c.held)
		c.held = 0
	}
}

var errCutShort = status.Error(codes.Internal, "the request did not arrive whole")

// broken is what ends a call that cannot be read.
func (c *call) broken() error {
	if err := c.ctx.Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	return errCutShort
}

var errNoMemory = refuse(outcomes[mq.Overloaded], "too many large requests are arriving; try again")

// receive reads one message into c.data, where it stays until release. It
// returns io.EOF if there is none. One that is larger than limit bytes is
// refused unread, and so is a large one that there is no memory for now. Of
// those who may not send, limit must be smallRequest at most: no large request
// is a stranger's.
func (c *call) receive(limit int) error {
	if c.wire == nil {
		return status.Error(codes.Internal, "the gRPC library does not give access to single messages")
	}
	if err := c.wire.ReadMessageHeader(c.header[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return io.EOF
		}
		return c.broken()
	}
	size := int64(binary.BigEndian.Uint32(c.header[1:]))
	switch {
	case c.header[0] != 0:
		return status.Error(codes.Unimplemented, "compressed gRPC messages are not supported; message bodies may be compressed")
	case size > int64(limit):
		return refuse(tooLarge, "the request has %d bytes; this server takes %d", size, limit)
	case size > smallRequest:
		if !c.srv.room(true).TryAcquire(size) {
			return errNoMemory
		}
		c.held = size
		c.srv.broker.Hold(size)
	}
	parts, err := c.wire.Read(int(size))
	if err != nil {
		return c.broken()
	}
	c.data = parts.MaterializeToBuffer(mem.DefaultBufferPool())
	parts.Free()
	return nil
}

// expect ends the connection if arrived is not called within the time.
func (c *call) expect(within time.Duration) {
	if c.late == nil {
		c.late = time.AfterFunc(within, func() { _ = c.conn.Close() })
	} else {
		c.late.Reset(within)
	}
}

func (c *call) arrived() {
	// Too late to stop: it may look at c.conn at any time.
	c.spoiled = !c.late.Stop()
}

// request reads the one request of a unary call. One that does not arrive in
// time ends the connection.
func (c *call) request(limit int) error {
	c.expect(c.srv.opt.FrameTime)
	defer c.arrived()
	err := c.receive(limit)
	switch {
	case errors.Is(err, io.EOF):
		return errCutShort
	case err != nil:
		return err
	}
	// Its end: answered before, the call would be reset.
	if err := c.wire.ReadMessageHeader(c.header[:]); !errors.Is(err, io.EOF) {
		return c.broken()
	}
	return nil
}

// decode reads the one request of a unary call into m.
func (c *call) decode(m proto.Message) error {
	defer c.release()
	if err := c.request(smallRequest); err != nil {
		return err
	}
	return c.unmarshal(m)
}

func (c *call) unmarshal(m proto.Message) error {
	if err := proto.Unmarshal(c.data.ReadOnlyData(), m); err != nil {
		return malformedCall(err)
	}
	return nil
}

func malformedCall(err error) error {
	return status.Error(codes.Internal, "the request is not what the protocol says: "+err.Error())
}

// value returns the first value of a key of the call's metadata; "": none.
func (c *call) value(key string) string {
	if list := metadata.ValueFromIncomingContext(c.ctx, key); len(list) > 0 {
		return list[0]
	}
	return ""
}

var errClientID = refuse(outcome{grpc: pb.Code_CLIENT_ID_REQUIRED, drop: mq.DropNotAuthorized}, "the request has no x-mq-client-id in its metadata")

// identify demands that the client says who it is, as RocketMQ does.
func (c *call) identify() error {
	if c.value("x-mq-client-id") == "" {
		return errClientID
	}
	return nil
}

// authenticate returns whose call it is.
func (c *call) authenticate() (*mq.Principal, error) {
	if err := c.identify(); err != nil {
		return nil, err
	}
	if err := c.signed.parse(c.value("authorization"), c.value("x-mq-date-time")); err != nil {
		return nil, err
	}
	known := c.conn.who.Load()
	who, err := c.srv.opt.Auth.AuthenticateRequest(&c.signed, known, c.conn.remote)
	if who != known {
		c.conn.who.Store(who)
	}
	if who != nil && c.conn.sender.Load() != who {
		if c.conn.sender.Store(who); who.Ended() { // closeRevoked has not seen it
			_ = c.conn.Close()
		}
	}
	if err != nil {
		c.srv.Stats.AuthFailed[GRPC].Add(1)
		if !c.conn.noted.Swap(true) {
			c.srv.noteRefusal(c.conn.remote, &c.signed, err)
		}
	}
	return who, err
}
