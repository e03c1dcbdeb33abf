package test

import (
	"fmt"
	"testing"

	"github.com/homing-mq/homing/internal/mqtt"
)

// revoking are rules under which ann may publish everything, and everybody reads
// what more says.
func revoking(more string) string {
	return `
auth:
  rules:
    - {allow: pub, topic: "#", user: ann}
    - {allow: sub, topic: a/open/#}
` + more
}

// TestRightTakenAway: a stored subscription outlives the rule that it was granted
// by, and the server that granted it, but brings nothing any more; neither does
// what had waited for it. A deleted user is disconnected, and what it has stored
// brings nothing.
func TestRightTakenAway(t *testing.T) {
	t.Parallel()
	for _, v := range versions {
		t.Run(fmt.Sprint("v", v), func(t *testing.T) {
			s := newServer(t)
			s.fixPorts()
			s.config = revoking(`    - {allow: sub, topic: a/secret/#, user: bob}` + "\n")
			s.passwd("ann", "a", "--signed")
			s.passwd("bob", "b", "--signed")
			s.start()
			bob := s.connect(v, "bobs", login("bob", "b"), persistent)
			bob.subscribe(1, "a/secret/#", "a/open/#")
			bob.leave()
			ann := s.connect(mqtt.V5, "anns", login("ann", "a"))
			ann.publish("a/secret/x", "waits", 1)
			ann.publish("a/open/x", "open 1", 1)
			ann.leave()

			s.config = revoking("")
			s.restart()
			ann = s.connect(mqtt.V5, "anns", login("ann", "a"))
			ann.publish("a/secret/x", "offline", 1)
			bob = s.connect(v, "bobs", login("bob", "b"), persistent)
			if !bob.connack.SessionPresent {
				t.Error("the session is not there")
			}
			bob.wants("a/open/x", "open 1", 1)
			ann.publish("a/secret/x", "online", 1)
			ann.publish("a/open/x", "open 2", 1)
			bob.wants("a/open/x", "open 2", 1)
			bob.wantsNothing(ann)
			if n := s.dropped("revoked"); n != 3 {
				t.Errorf("%d counted, want 3", n)
			}

			s.passwd("bob", "", "--delete")
			bob.disconnected(mqtt.CodeNotAuthorized)
			ann.publish("a/open/x", "for nobody", 1)
			if n := s.dropped("revoked"); n != 4 {
				t.Errorf("%d counted, want 4: a session of a deleted user gets nothing by subscription", n)
			}
			if code := s.refused(v, "bobs", login("bob", "b")); code != badLogin[v] {
				t.Errorf("the deleted user is answered 0x%02X", byte(code))
			}
		})
	}
}
