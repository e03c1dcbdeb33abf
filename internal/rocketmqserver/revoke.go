package rocketmqserver

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/homing-mq/homing/internal/mq"
)

// Requests are signed one by one, so a key that has gone sends nothing any more
// (AuthenticateRequest refuses it, and so does the core, of a request that is under
// way). Its connections are closed nonetheless: nothing else tells their clients
// at once, and a Telemetry stream would stay for as long as it likes.

// closeRevoked closes the connections whose last request came from somebody who is
// not let in any more. What is under way on remoting connections is answered.
func (s *Server) closeRevoked() {
	s.mu.Lock()
	conns, streams := slices.Collect(maps.Keys(s.conns)), slices.Collect(maps.Keys(s.grpc.open))
	s.mu.Unlock()
	for _, c := range conns {
		if who := c.sender.Load(); who.Ended() {
			s.noteRevoked(c.remote.Addr(), "rocketmq", who)
			c.finish()
		}
	}
	for _, c := range streams {
		if who := c.sender.Load(); who.Ended() {
			s.noteRevoked(c.remote, "rocketmq-grpc", who)
			_ = c.Close()
		}
	}
}

// noteRevoked logs why a connection is closed.
func (s *Server) noteRevoked(remote netip.Addr, transport string, who *mq.Principal) {
	s.log.Info("RocketMQ connection closed", "remote", remote.String(), "transport", transport, "access_key", string(clip([]byte(who.AccessKey))),
		"reason", "what its requests were signed with is not valid any more")
}
