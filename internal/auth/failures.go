package auth

import (
	"net/netip"
	"sync"
	"time"

	"github.com/homing-mq/homing/internal/mq"
)

// maxFailures bounds the table of addresses with failed log-ins. An attacker
// with more addresses than this gets fresh buckets, at one address each.
const maxFailures = 32 << 10

// failures limits failed log-ins per address by token buckets. Only failures
// take tokens, so that any number of devices behind one address may log in.
// A nil *failures limits nothing.
type failures struct {
	perMinute float64

	mu      sync.Mutex
	buckets recent[netip.Addr, bucket]
}

type bucket struct {
	tokens float64
	at     time.Time
}

func newFailures(perMinute int) *failures {
	if perMinute <= 0 {
		return nil
	}
	return &failures{perMinute: float64(perMinute), buckets: newRecent[netip.Addr, bucket](maxFailures)}
}

// source is the unit that is limited: an IPv4 address, or the /64 that is
// commonly given to one subscriber.
func source(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if !a.Is6() {
		return a
	}
	p, err := a.Prefix(64)
	if err != nil {
		return a
	}
	return p.Addr()
}

// tokens returns what the bucket of an address has at now. mu is held.
func (f *failures) tokens(k netip.Addr, now time.Time) float64 {
	b, ok := f.buckets.get(k)
	if !ok {
		return f.perMinute
	}
	return min(f.perMinute, b.tokens+now.Sub(b.at).Minutes()*f.perMinute)
}

// limited reports whether an address has used up its failures. An address
// that is not known (no IP transport) is never limited.
func (f *failures) limited(a netip.Addr, now time.Time) bool {
	if f == nil || !a.IsValid() {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tokens(source(a), now) < 1
}

func (f *failures) add(a netip.Addr, now time.Time) {
	if f == nil || !a.IsValid() {
		return
	}
	k := source(a)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.buckets.put(k, bucket{tokens: max(0, f.tokens(k, now)-1), at: now})
}

// maxDevices bounds the table of devices that have logged in.
const maxDevices = 64 << 10

// knownDevices remembers who has logged in from where, and with what. Where
// thousands of devices share one address, a few with a wrong password would
// otherwise lock out all of them: a device that shows from the same address
// what it has shown before is let past the limit, and then authenticated as
// usual. One wrong try while the address is limited ends that, so the table is
// of no use for guessing.
type knownDevices struct {
	key digestKey

	mu   sync.Mutex
	seen recent[digest, digest] // (address, client ID) to what was shown
}

func newKnownDevices(key digestKey) *knownDevices {
	return &knownDevices{key: key, seen: newRecent[digest, digest](maxDevices)}
}

func (d *knownDevices) device(c *mq.Credentials) digest {
	addr := source(c.Remote).As16()
	return d.key.sum("device", addr[:], []byte(c.ClientID))
}

// password is what a login with user name and password shows.
func (d *knownDevices) password(c *mq.Credentials) digest {
	return d.key.sum("shown", []byte(c.Username), c.Password)
}

// scram is what a SCRAM login shows before its proof: the user name. Whoever
// is let past the limit with it calls forget if the proof is wrong.
func (d *knownDevices) scram(user string) digest { return d.key.sum("shown scram", []byte(user)) }

func (d *knownDevices) add(c *mq.Credentials, shown digest) {
	if !c.Remote.IsValid() {
		return
	}
	device := d.device(c)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seen.put(device, shown)
}

func (d *knownDevices) has(c *mq.Credentials, shown digest) bool {
	device := d.device(c)
	d.mu.Lock()
	defer d.mu.Unlock()
	want, ok := d.seen.get(device)
	if ok && want == shown {
		return true
	}
	d.seen.remove(device)
	return false
}

func (d *knownDevices) forget(c *mq.Credentials) {
	device := d.device(c)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seen.remove(device)
}
