package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/homing-mq/homing/internal/mqtt"
)

// TestDiskLimit: a full store refuses and loses nothing that it has
// acknowledged; draining makes room again. A client that cannot be told is
// disconnected. [MQTT3-4.8.0-2]
func TestDiskLimit(t *testing.T) {
	t.Parallel()
	const limit = 4 << 20
	s := startServer(t, fmt.Sprintf("store.disk-limit=%d", limit), "limits.packet-size=64KiB", "p2p.inbox-limit=0", "p2p.inbox-bytes=0")
	sender := s.connect(mqtt.V5, "sender", persistent)
	filling := strings.Repeat("x", 20000)
	next := 0 // all below are acknowledged
	fill := func() {
		t.Helper()
		for ; ; next++ {
			if next > limit/len(filling)*2 {
				t.Fatalf("%d messages are acknowledged, they cannot fit", next)
			}
			code := sender.publish(topicOf("dev1"), fmt.Sprintf("%d %s", next, filling), 1+byte(next%2))
			if code == mqtt.CodeQuotaExceeded {
				return
			} else if code != 0 {
				t.Fatalf("message %d: %v", next, code)
			}
		}
	}
	fill()
	full := next
	if full*len(filling) < limit/4 {
		t.Errorf("full with %d messages", full)
	}
	if s.dropped("store_full") == 0 {
		t.Error("store_full is not counted")
	}
	three := s.connect(mqtt.V311, "three", persistent)
	three.post(&mqtt.Publish{Topic: []byte(topicOf("dev1")), Payload: []byte(filling), QoS: 1})
	if rest := three.ended(); len(rest) > 0 {
		t.Errorf("3.1.1 is told %v, want the end", show(rest))
	}

	read := func(target *peer, from, to int) {
		t.Helper()
		for i := from; i < to; i++ {
			m := target.message()
			var got int
			if _, err := fmt.Sscan(string(m.Payload[:10]), &got); err != nil || got != i {
				t.Fatalf("received %.20s, want %d", m.Payload, i)
			}
		}
	}
	target := s.connect(mqtt.V5, "dev1", persistent)
	read(target, 0, full)
	target.leave()
	eventually(t, "there is room again", func() bool {
		if code := sender.publish(topicOf("dev1"), fmt.Sprintf("%d %s", next, filling), 1); code != 0 {
			return false
		}
		next++
		return true
	})
	fill()
	if got := next - full; got < full/2 {
		t.Errorf("%d messages fit at first, %d after draining", full, got)
	}
	if status := diskUse(t, filepath.Join(s.dir, "data", "inbox")); status > limit {
		t.Errorf("%d bytes on disk, the limit is %d", status, limit)
	}
	s.kill()
	s.start()
	target = s.connect(mqtt.V5, "dev1", persistent)
	read(target, full, next)
	target.wantsNothing(s.connect(mqtt.V5, "another"))
}

func diskUse(t *testing.T, dir string) (sum int64) {
	t.Helper()
	err := filepath.Walk(dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() {
			sum += info.Size()
		}
		return nil // files come and go
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// TestReadOnlyData: the error names the file.
func TestReadOnlyData(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.command = asSomebodyElse
	if err := os.Chmod(s.dir, 0o777); err != nil {
		t.Fatal(err)
	}
	s.start()
	s.stop()
	data := filepath.Join(s.dir, "data")
	readOnly := func(mode os.FileMode) {
		err := filepath.Walk(s.dir, func(path string, info os.FileInfo, err error) error {
			if err != nil {
				return err
			}
			if info.IsDir() {
				return os.Chmod(path, mode|0o111)
			}
			return os.Chmod(path, mode)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	readOnly(0o444)
	defer readOnly(0o644)
	s.launch()
	if code := s.wait(); code != 1 || !strings.Contains(lastLine(s), data) || !strings.Contains(lastLine(s), "permission denied") {
		t.Errorf("exit code %d\n%s", code, s.tail())
	}
}

func lastLine(s *server) string {
	lines := s.output()
	if len(lines) == 0 {
		return ""
	}
	return lines[len(lines)-1]
}

// TestDamagedSegment: the server refuses and says which file, where, and which
// command helps. That saves the rest.
func TestDamagedSegment(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	sender := s.connect(mqtt.V5, "sender", persistent)
	const n = 100
	for i := range n {
		sender.publish(topicOf("dev1"), fmt.Sprintf("%d %s", i, strings.Repeat("x", 1000)), 1)
	}
	s.stop()
	file := damage(t, filepath.Join(s.dir, "data", "inbox"))
	before := diskUse(t, filepath.Join(s.dir, "data"))

	s.launch()
	if code := s.wait(); code != 1 {
		t.Errorf("serve: exit code %d, want 1", code)
	}
	if last := lastLine(s); !strings.Contains(last, file) || !strings.Contains(last, "offset") || !strings.Contains(last, "homing store repair") {
		t.Errorf("serve says\n%s", s.tail())
	}
	storeCommand := func(name string, want int) string {
		t.Helper()
		code, out := homing(t, "store", name, "--data", filepath.Join(s.dir, "data"))
		if code != want {
			t.Fatalf("homing store %s: exit code %d, want %d\n%s", name, code, want, out)
		}
		return out
	}
	if out := storeCommand("check", 1); !strings.Contains(out, file) {
		t.Errorf("homing store check does not name %s:\n%s", file, out)
	}
	if after := diskUse(t, filepath.Join(s.dir, "data")); after < before {
		t.Errorf("%d bytes before, %d after: something was deleted", before, after)
	}
	storeCommand("repair", 0)
	storeCommand("check", 0)

	s.start()
	target := s.connect(mqtt.V5, "dev1", persistent)
	sender = s.connect(mqtt.V5, "sender", persistent)
	sender.publish(topicOf("dev1"), "mark", 0)
	last, got := -1, 0
	for {
		m := target.message()
		if string(m.Payload) == "mark" {
			break
		}
		var i int
		if _, err := fmt.Sscan(string(m.Payload[:5]), &i); err != nil || i <= last || i >= n {
			t.Fatalf("received %.20q after %d", m.Payload, last)
		}
		last = i
		got++
	}
	if got == n || got < n/4 {
		t.Errorf("%d of %d messages are left after one damaged place", got, n)
	}
	t.Logf("%d of %d messages saved", got, n)
}

// damage changes bytes in the middle of the only file with messages.
func damage(t *testing.T, dir string) string {
	t.Helper()
	files, err := exec.Command("grep", "-rl", "--", strings.Repeat("x", 1000), dir).Output()
	if err != nil {
		t.Fatalf("no file with messages: %v", err)
	}
	file, _, _ := strings.Cut(string(files), "\n")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at := strings.Index(string(data), "50 xxxxx")
	if at < 0 {
		t.Fatalf("message 50 is not in %s", file)
	}
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("damaged"), int64(at)+20); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestDataOfOldRun: what is on disk is there after stop and start, sessions and
// subscriptions too.
func TestDataOfOldRun(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"always", "interval", "os"} {
		t.Run(mode, func(t *testing.T) {
			s := startServer(t, "store.sync="+mode)
			eachVersion(t, s, func(t *testing.T, v mqtt.Version) {
				id := "dev " + v.String()
				target := s.connect(v, id, persistent)
				target.subscribe(1, "news/#")
				target.leave()
				sender := s.connect(v, "sender", persistent)
				for qos := byte(1); qos <= 2; qos++ {
					sender.publish(topicOf(id), fmt.Sprint("p2p ", qos), qos)
				}
				sender.publish("news/1", "before", 1)
				s.restart()
				sender = s.connect(v, "sender", persistent)
				sender.publish("news/2", "after", 1)
				target = s.connect(v, id, persistent)
				if !target.connack.SessionPresent {
					t.Error("no session")
				}
				target.wants(topicOf(id), "p2p 1", 1)
				target.wants(topicOf(id), "p2p 2", 2)
				target.wants("news/1", "before", 1)
				target.wants("news/2", "after", 1)
				target.wantsNothing(sender)
				target.leave()
				s.restart()
				target = s.connect(v, id, persistent)
				target.wantsNothing(s.connect(v, "another"))
				target.send(&mqtt.Unsubscribe{PacketID: 77, Filters: [][]byte{[]byte("news/#")}})
				receive[*mqtt.Unsuback](target)
			})
		})
	}
}

// TestRefusedQoS2FreesIdentifier: a QoS 2 message that the full store refuses
// leaves no claim behind: after a restart the identifier is that of a new message.
func TestRefusedQoS2FreesIdentifier(t *testing.T) {
	t.Parallel()
	s := startServer(t, "store.disk-limit=130MiB", "p2p.inbox-limit=0", "p2p.inbox-bytes=0")
	off := s.connect(mqtt.V5, "off", persistent)
	off.subscribe(2, "t")
	off.vanish()
	q := s.connect(mqtt.V5, "q", persistent) // a full store takes no new session
	p := s.connect(mqtt.V5, "filler", persistent)
	for _, size := range []int{1 << 20, 64 << 10, 4 << 10, 300, 10} {
		for p.publish("kill/p2p/nobody", string(make([]byte, size)), 1) == 0 {
		}
	}
	refused := &mqtt.Publish{Topic: []byte("t"), Payload: []byte("refused"), QoS: 2, PacketID: 7}
	q.send(refused)
	if a := receive[*mqtt.Ack](q); !a.Code.Failed() {
		t.Fatalf("%v", a.Code)
	}
	s.process.kill()
	s.settings[2] = "store.disk-limit=1GiB"
	s.start()
	q = s.connect(mqtt.V5, "q", persistent)
	q.send(&mqtt.Publish{Topic: []byte("t"), Payload: []byte("new"), QoS: 2, PacketID: 7})
	if a := receive[*mqtt.Ack](q); a.Code != 0 {
		t.Errorf("the new message: %v", a.Code)
	}
	off = s.connect(mqtt.V5, "off", persistent)
	off.ping()
	p = s.connect(mqtt.V5, "p2")
	p.publish("kill/p2p/off", "end", 1)
	off.wants("t", "new", 2)
}
