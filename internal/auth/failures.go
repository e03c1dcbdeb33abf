package auth

import (
	"net/netip"
	"sync"
	"time"

	"github.com/homing-mq/homing/internal/mq"
)

// The limit of failed log-ins is about passwords, which people choose. A signature
// is not concerned: what signs is not guessed, checking costs nothing, and nobody
// is kept out who signs rightly.
//
// With n failures a minute (limits.failed-logins):
//
//   - Of one user, by one address: n tries a minute fail, then the two are refused
//     together, whatever is shown. Nobody else is.
//   - By one address, of all users: after failuresAtOnce times n in a minute who has
//     failed before is refused; a user who has not gets his try, until
//     failuresInAll times n have failed. So a fleet behind one address is let in
//     while somebody there guesses, and an attacker who goes through a list of
//     users has failuresInAll times n tries a minute, and one core's worth of
//     hashing shared with others.
//   - Of one user, by many addresses: n for each. The user himself is never refused
//     because of what others do elsewhere.
//
// A password that was right before, of the same user, is not counted, nor refused.
// A device that has logged in by SCRAM is let past the limit from where it did.
const (
	failuresAtOnce = 4
	failuresInAll  = 10
)

// maxFailures bounds the tables of addresses, and of users at addresses, with failed
// log-ins, two generations of each. An attacker with more addresses than this gets
// fresh buckets, at one address each.
const maxFailures = 32 << 10

// failures are the token buckets. A nil *failures limits nothing.
type failures struct {
	perMinute float64
	key       digestKey

	mu    sync.Mutex
	users recent[digest, bucket] // by user and address
	addrs recent[netip.Addr, bucket]
}

type bucket struct {
	used float64
	at   time.Time
}

// now returns how much of the bucket is used, of which rate leaks each minute.
func (b bucket) now(at time.Time, rate float64) float64 {
	return max(0, b.used-at.Sub(b.at).Minutes()*rate)
}

func newFailures(perMinute int, key digestKey) *failures {
	if perMinute <= 0 {
		return nil
	}
	return &failures{
		perMinute: float64(perMinute), key: key,
		users: newRecent[digest, bucket](maxFailures), addrs: newRecent[netip.Addr, bucket](maxFailures),
	}
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

// of is the key of a user at an address.
func (f *failures) of(user string, from netip.Addr) digest {
	addr := from.As16()
	return f.key.sum("failures", addr[:], []byte(user))
}

// used returns the failures of a user at an address, and of all at that address.
// mu is held.
func (f *failures) used(user digest, from netip.Addr, now time.Time) (ofUser, ofAddr float64) {
	if b, ok := f.users.get(user); ok {
		ofUser = b.now(now, f.perMinute)
	}
	if b, ok := f.addrs.get(from); ok {
		ofAddr = b.now(now, failuresInAll*f.perMinute)
	}
	return ofUser, ofAddr
}

// limited reports whether a user may not try from an address. One that is not known
// (no IP transport) is never limited.
func (f *failures) limited(user string, a netip.Addr, now time.Time) bool {
	if f == nil || !a.IsValid() {
		return false
	}
	from := source(a)
	key := f.of(user, from)
	f.mu.Lock()
	defer f.mu.Unlock()
	ofUser, ofAddr := f.used(key, from, now)
	switch {
	case ofUser > f.perMinute-1, ofAddr > failuresInAll*f.perMinute-1:
		return true
	}
	return ofUser > 0 && ofAddr > failuresAtOnce*f.perMinute-1
}

// trusted reports whether neither the user nor anybody else has failed at an address
// of late.
func (f *failures) trusted(user string, a netip.Addr, now time.Time) bool {
	if f == nil || !a.IsValid() {
		return true
	}
	from := source(a)
	key := f.of(user, from)
	f.mu.Lock()
	defer f.mu.Unlock()
	ofUser, ofAddr := f.used(key, from, now)
	return ofUser+ofAddr == 0
}

// add counts a failure.
func (f *failures) add(user string, a netip.Addr, now time.Time) {
	if f == nil || !a.IsValid() {
		return
	}
	from := source(a)
	key := f.of(user, from)
	f.mu.Lock()
	defer f.mu.Unlock()
	ofUser, ofAddr := f.used(key, from, now)
	f.users.put(key, bucket{min(ofUser+1, f.perMinute), now})
	f.addrs.put(from, bucket{min(ofAddr+1, failuresInAll*f.perMinute), now})
}

// maxDevices bounds the table of devices that have logged in.
const maxDevices = 64 << 10

// knownDevices remembers who has logged in by SCRAM from where, as whom: there the
// server sees no password that it could know again. Such a device is let past the
// limit, and then authenticated as usual. One wrong try while it is limited ends
// that, so the table is of no use for guessing.
type knownDevices struct {
	key digestKey

	mu   sync.Mutex
	seen recent[digest, digest] // (address, client ID) to the user
}

func newKnownDevices(key digestKey) *knownDevices {
	return &knownDevices{key: key, seen: newRecent[digest, digest](maxDevices)}
}

func (d *knownDevices) device(c *mq.Credentials) digest {
	addr := source(c.Remote).As16()
	return d.key.sum("device", addr[:], []byte(c.ClientID))
}

func (d *knownDevices) user(name string) digest { return d.key.sum("user", []byte(name)) }

func (d *knownDevices) add(c *mq.Credentials, user string) {
	if !c.Remote.IsValid() {
		return
	}
	device, who := d.device(c), d.user(user)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seen.put(device, who)
}

func (d *knownDevices) has(c *mq.Credentials, user string) bool {
	device, who := d.device(c), d.user(user)
	d.mu.Lock()
	defer d.mu.Unlock()
	want, ok := d.seen.get(device)
	return ok && want == who
}

func (d *knownDevices) forget(c *mq.Credentials) {
	device := d.device(c)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seen.remove(device)
}
