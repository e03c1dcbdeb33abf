package test

import (
	"testing"

	"github.com/homing-mq/homing/internal/mqtt"
)

const tenYears = 3650 * 86400 // seconds

// TestWallClockSet: NTP sets the clock of a board without battery ten years forward
// after the start. What is kept stays, also over a kill and a restart: the jump is
// not taken for time that has passed.
func TestWallClockSet(t *testing.T) {
	t.Parallel()
	s, clock := shiftedServer(t, -tenYears)
	s.start()
	dev := s.connect(mqtt.V5, "dev", persistent)
	dev.leave()
	sender := s.connect(mqtt.V5, "sender", persistent)
	for range 20 {
		sender.publish(topicOf("dev"), "kept", 1)
	}
	s.connect(mqtt.V5, "for an hour", expires(3600)).leave()
	clock.set(0)
	s.line("the wall clock jumped")
	eventually(t, "the offset is a metric", func() bool { return s.metric("homing_clock_offset_seconds") > tenYears-60 })
	s.kill()
	s.start()
	dev = s.connect(mqtt.V5, "dev", persistent)
	for range 20 {
		dev.wants(topicOf("dev"), "kept", 1)
	}
	t.Log("20 of 20 messages arrived")
	resume := func(c *mqtt.Connect) { c.CleanStart = false }
	if back := s.connect(mqtt.V5, "for an hour", expires(3600), resume); !back.connack.SessionPresent {
		t.Error("the session of an hour has ended")
	}
	if n := s.dropped("expired"); n != 0 {
		t.Errorf("%d messages expired", n)
	}
}

// TestWallClockSetBack: the clock was ten years ahead, and is set right. A will with
// a delay of 2 s comes, a session of 2 s ends.
func TestWallClockSetBack(t *testing.T) {
	t.Parallel()
	s, clock := shiftedServer(t, tenYears)
	s.start()
	watch := s.connect(mqtt.V5, "watch", clean)
	watch.subscribe(1, "w/#")
	gone := s.connect(mqtt.V5, "gone", expires(10), func(c *mqtt.Connect) {
		c.HasWill, c.Will = true, mqtt.Will{Topic: []byte("w/t"), Payload: []byte("gone")}
		c.Will.Properties.WillDelay = 2
		c.Will.Properties.Set(mqtt.PropWillDelay)
	})
	gone.vanish()
	s.connect(mqtt.V5, "short", expires(2)).leave()
	clock.set(0)
	s.line("the wall clock jumped")
	watch.wants("w/t", "gone", 0)
	eventually(t, "the session of 2 s ends", func() bool { return s.metric("homing_sessions") <= 2 })
}
