package test

import (
	"fmt"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/mqtt"
)

// TestKillDisk is TestKill with a disk limit that is met again and again while
// targets are away. A sender that can be told is refused and sends the message
// anew; another one is disconnected and sends again all that was not
// acknowledged. Besides what TestKill asks for: QoS 2 that was refused does not
// arrive, and there is room again as soon as the targets have drained.
//
// With HOMING_TORTURE the modes share the time.
func TestKillDisk(t *testing.T) {
	for _, mode := range syncModes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			d := &killDisk{crash: newCrash(t, mode)}
			d.shareTime()
			d.refuses = true
			d.targetKinds, d.senderKinds = tidalTargets, greedySenders
			d.drained = d.roomAgain
			d.s.settings = append(d.s.settings, fmt.Sprintf("store.disk-limit=%d", diskLimit), "limits.packet-size=32KiB")
			d.run()
		})
	}
}

const diskLimit = 1 << 20

// tidalTargets are away for much of the time.
var tidalTargets = []targetKind{
	{name: "tide", version: mqtt.V5, leaves: true, away: 1500 * time.Millisecond},
	{name: "tide3", version: mqtt.V311, leaves: true, away: 1500 * time.Millisecond, slow: 5 * time.Millisecond},
	{name: "narrow", version: mqtt.V5, leaves: true, away: time.Second, receiveMax: 4, slow: 5 * time.Millisecond},
	{name: "clean", version: mqtt.V5, leaves: true, away: time.Second, clean: true},
	{name: "prompt", version: mqtt.V311},
}

// greedySenders send small and large messages: a small one may fit where a large
// one before it did not.
var greedySenders = []senderKind{
	{name: "v5", version: mqtt.V5, persistent: true, window: 40, filling: 12000},
	{name: "v3", version: mqtt.V311, persistent: true, window: 25, filling: 12000},
	{name: "v3-restless", version: mqtt.V311, persistent: true, window: 10, filling: 6000, restless: true},
	{name: "clean", version: mqtt.V5, window: 20, filling: 12000, restless: true},
}

// killDisk is a run of TestKillDisk.
type killDisk struct {
	*crash
	room time.Duration // how long it took until there was room
}

func (d *killDisk) run() {
	d.launch()
	for i, kind := range d.targetKinds { // a session is there before the disk is full
		if !kind.clean {
			d.s.connect(kind.version, fmt.Sprintf("target-%d-%s", i, kind.name), persistent).conn.Close()
		}
	}
	d.startTargets()
	d.startSenders()
	kills := d.massacre()
	d.awaitUp()
	// So that it is the server that was full that has room again.
	eventually(d.t, "the last server is full, and somebody was disconnected for that", func() bool {
		return d.s.dropped("store_full") > 0 && d.thrown.Load() > 0
	})
	close(d.producing)
	d.settle(kills)
	sum, _ := d.ledger.close()
	if sum.refused == 0 || d.thrown.Load() == 0 {
		d.t.Errorf("the disk limit was not met: %d messages refused, %d connections closed", sum.refused, d.thrown.Load())
	}
	d.t.Logf("%-8s room again %v after all was delivered", d.mode, d.room.Round(time.Millisecond))
}

// roomAgain sends a large message to each target: all that was there is
// delivered.
func (d *killDisk) roomAgain() {
	l := d.connect(mqtt.V5, &mqtt.Connect{ClientID: []byte("probe"), CleanStart: true})
	if l == nil {
		return
	}
	defer l.drop()
	for i, id := range d.ids {
		pid := uint16(i + 1)
		e := entry{sender: "probe", target: id, qos: 1}
		d.room += d.soon("a message for "+id+" is accepted", func() bool {
			e.seq = 0
			d.ledger.send(&e, fate{loose: true})
			m := mqtt.Publish{QoS: 1, PacketID: pid, Topic: []byte(e.topic()), Payload: e.payload(20000)}
			l.send(m.Append(nil, mqtt.V5))
			a, ok := (<-l.in).(*mqtt.Ack)
			if ok && a.Code == mqtt.CodeSuccess {
				d.ledger.acknowledge(e, a.Type.String())
				return true
			}
			d.ledger.note(e, func(f *fate) { f.refused = ok })
			return false
		})
	}
	d.progress("what was sent into the room is delivered", d.when(func() bool { return d.ledger.missing() == 0 }))
}
