package auth

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/crypto/bcrypt"
)

const (
	// maxPassword is what bcrypt looks at, in bytes.
	maxPassword = 72
	// maxCost keeps a users file from stopping the server: each step doubles
	// the time, 14 takes about a second.
	maxCost = 14
	// maxVerified bounds the memory of verified passwords: about 64 bytes each,
	// two generations.
	maxVerified = 64 << 10
)

// HashPassword returns the bcrypt hash of a user's password for the users file.
func HashPassword(password []byte) (string, error) {
	if len(password) > maxPassword {
		return "", fmt.Errorf("the password has %d bytes; give one of at most %d", len(password), maxPassword)
	}
	h, err := bcrypt.GenerateFromPassword(password, bcrypt.DefaultCost)
	if err != nil {
		return "", fmt.Errorf("hash password: %w", err)
	}
	return string(h), nil
}

// checkHash returns the cost of a hash that stands in a users file.
func checkHash(hash string) (cost int, err error) {
	cost, err = bcrypt.Cost([]byte(hash))
	if err != nil || len(hash) != 60 {
		return 0, errors.New("the hash is not a bcrypt hash; set the password again with `homing passwd`")
	}
	if cost > maxCost {
		return 0, fmt.Errorf("the hash has cost %d and would take seconds for each login; use at most %d", cost, maxCost)
	}
	return cost, nil
}

// dummyHash returns a hash of the given cost that no known password has.
func dummyHash(cost int) []byte {
	return fmt.Appendf(nil, "$2a$%02d$Q0Iy9oO1pGhaLh2mPp3eLuVYV6C4mCDBcAphX0xPMkXbNyJfWzGTa", cost)
}

// passwords compares passwords with bcrypt hashes. That takes 50 ms of a core,
// so what was found right is remembered, and at most half of the cores are at
// it at any time: a storm of reconnecting devices must not stop deliveries.
type passwords struct {
	key   digestKey
	queue *hashQueue

	mu       sync.Mutex
	verified recent[digest, struct{}]
}

func newPasswords(key digestKey) *passwords {
	return &passwords{
		key:      key,
		queue:    newHashQueue(max(1, runtime.GOMAXPROCS(0)/2)),
		verified: newRecent[digest, struct{}](maxVerified),
	}
}

// known reports whether these three were found to belong together before. The
// hash is among them: a new password makes the old entry unreachable.
func (p *passwords) known(name, hash string, password []byte) bool {
	d := p.key.sum("password", []byte(name), []byte(hash), password)
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.verified.get(d)
	return ok
}

func (p *passwords) remember(name, hash string, password []byte) {
	d := p.key.sum("password", []byte(name), []byte(hash), password)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.verified.put(d, struct{}{})
}

// digestKey makes digests that mean nothing outside this process.
type digestKey [32]byte

type digest [16]byte

func newDigestKey() (k digestKey) {
	_, _ = rand.Read(k[:]) // never fails
	return k
}

// sum digests the parts, and where each ends.
func (k *digestKey) sum(kind string, parts ...[]byte) (d digest) {
	mac := hmac.New(sha256.New, k[:])
	var size [8]byte
	put := func(b []byte) {
		binary.BigEndian.PutUint64(size[:], uint64(len(b)))
		mac.Write(size[:])
		mac.Write(b)
	}
	put([]byte(kind))
	for _, b := range parts {
		put(b)
	}
	copy(d[:], mac.Sum(nil))
	return d
}
