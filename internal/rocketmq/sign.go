package rocketmq

import (
	"bytes"
	"crypto/sha1"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"hash"
	"slices"
	"sync"
)

// The extension fields of a signed request (SessionCredentials).
const (
	KeyAccessKey     = "AccessKey"
	KeySignature     = "Signature"
	KeySecurityToken = "SecurityToken"
)

// keyUniqueQuery is a field that ACL before 4.9.4 does not sign.
const keyUniqueQuery = "UNIQUE_MSG_QUERY_FLAG"

// Sign returns the signature of a request (AclUtils): the values of all its
// extension fields but the signature, in the order of their keys, and the body
// behind them, under HMAC-SHA1, in Base64. ext stays as it is; no key in it may
// be repeated.
func Sign(secret []byte, ext Fields, body []byte) string {
	m := signers.Get().(*signer)
	defer signers.Put(m)
	m.sort(ext)
	return string(m.sign(secret, ext, body, 0))
}

// Verify reports whether a request has the signature that Sign gives, or that
// of a client that does not sign all fields: Go's leaves SecurityToken out, and
// Java's before 4.9.4 UNIQUE_MSG_QUERY_FLAG. The time it takes does not tell how
// much of a signature is right. ext is as Command.Decode gives it, and stays so.
func Verify(secret []byte, ext Fields, body []byte) bool {
	signature := ext.Get(KeySignature)
	if signature == nil {
		return false
	}
	m := signers.Get().(*signer)
	defer signers.Put(m)
	unsigned := m.sort(ext)
	for skip := range unsigned + 1 {
		if skip&^unsigned == 0 && subtle.ConstantTimeCompare(m.sign(secret, ext, body, skip), signature) == 1 {
			return true
		}
	}
	return false
}

// optional is a set of fields that some clients do not sign.
type optional byte

const (
	withoutToken optional = 1 << iota
	withoutUniqueQuery
)

// signer computes signatures in memory of its own.
type signer struct {
	hash  hash.Hash
	order []ordered
	text  []byte
	pad   [sha1.BlockSize]byte
	sum   []byte
}

// ordered is a field that is signed: its place in the fields and the first
// bytes of its key, by which most keys are told apart.
type ordered struct {
	prefix uint64
	index  int
	in     optional
}

var signers = sync.Pool{New: func() any { return &signer{hash: sha1.New()} }}

// sort puts the fields to sign into m.order, by key, and returns which of the
// optional ones are among them. Java compares UTF-16 and this compares UTF-8,
// which differs for no key that anybody uses.
func (m *signer) sort(ext Fields) (found optional) {
	m.order = m.order[:0]
	for i := range ext {
		o := ordered{index: i}
		switch string(ext[i].Key) {
		case KeySignature:
			continue
		case KeySecurityToken:
			o.in = withoutToken
		case keyUniqueQuery:
			o.in = withoutUniqueQuery
		}
		var prefix [8]byte
		copy(prefix[:], ext[i].Key)
		o.prefix = binary.BigEndian.Uint64(prefix[:])
		found |= o.in
		m.order = append(m.order, o)
	}
	slices.SortFunc(m.order, func(a, b ordered) int {
		if a.prefix != b.prefix {
			if a.prefix < b.prefix {
				return -1
			}
			return 1
		}
		return bytes.Compare(ext[a.index].Key, ext[b.index].Key)
	})
	return found
}

// sign returns the signature without the fields of the given set, in m's
// memory.
func (m *signer) sign(secret []byte, ext Fields, body []byte, without optional) []byte {
	m.text = m.text[:0]
	for _, o := range m.order {
		if o.in&without == 0 {
			m.text = append(m.text, ext[o.index].Value...)
		}
	}
	m.hmac(secret, body)
	m.text = base64.StdEncoding.AppendEncode(m.text[:0], m.sum)
	return m.text
}

// hmac sets m.sum to the HMAC-SHA1 (RFC 2104) of m.text and body. It is here
// because crypto/hmac allocates for each key.
func (m *signer) hmac(secret, body []byte) {
	if len(secret) > sha1.BlockSize {
		sum := sha1.Sum(secret)
		secret = sum[:]
	}
	m.keyed(secret, 0x36)
	m.hash.Write(m.text)
	m.hash.Write(body)
	m.sum = m.hash.Sum(m.sum[:0])
	m.keyed(secret, 0x5C)
	m.hash.Write(m.sum)
	m.sum = m.hash.Sum(m.sum[:0])
}

// keyed begins a hash with the padded secret.
func (m *signer) keyed(secret []byte, pad byte) {
	for i := range m.pad {
		m.pad[i] = pad
	}
	subtle.XORBytes(m.pad[:], m.pad[:], secret)
	m.hash.Reset()
	m.hash.Write(m.pad[:])
}
