package rocketmq

import (
	"bytes"
	"encoding/binary"
)

// The bits of Command.Flag.
const (
	FlagResponse int32 = 1 // an answer
	FlagOneway   int32 = 2 // a request that wants no answer
)

// MaxFields is the number of different extension fields that a header may
// have. Those of real clients have about 20.
const MaxFields = 256

// Command is a request or a response (RemotingCommand), without its body.
type Command struct {
	Code     int32 // a RequestCode or ResponseCode
	Language Language
	Version  int   // an ordinal of RocketMQ's MQVersion
	Opaque   int32 // an answer has that of its request
	Flag     int32
	Remark   []byte // of an answer: what went wrong, in words; nil if there is none
	Ext      Fields

	scratch []byte // strings that had escapes, without them
	seen    uint64 // a Bloom filter of the keys of Ext
}

// Field is one extension field. Values are bytes as sent: of the binary
// serialization they need not be UTF-8.
type Field struct{ Key, Value []byte }

// Fields are the extension fields of a command, in the order sent. In those of
// a decoded command no key is repeated (the last one counts), and no value is
// nil.
type Fields []Field

// Get returns the value of a field, nil if there is none with that key.
func (f Fields) Get(key string) []byte {
	for i := range f {
		if string(f[i].Key) == key {
			return f[i].Value
		}
	}
	return nil
}

// IsResponse reports whether the command is an answer.
func (c *Command) IsResponse() bool { return c.Flag&FlagResponse != 0 }

// IsOneway reports whether the command is a request that wants no answer.
func (c *Command) IsOneway() bool { return c.Flag&FlagOneway != 0 }

// keptScratch is how much scratch memory a Command keeps from one Decode to
// the next, in bytes.
const keptScratch = 64 << 10

// Reset forgets everything but memory to reuse, of which it keeps at most some
// 90 KiB. A Command that waits in a pool then holds no read buffer.
func (c *Command) Reset() {
	clear(c.Ext[:cap(c.Ext)])
	*c = Command{Ext: c.Ext[:0], scratch: c.scratch[:0]}
	if cap(c.scratch) > keptScratch {
		c.scratch = nil
	}
}

// Decode reads a header. See the package comment for how long the fields are
// valid. All errors are ErrMalformed.
func (c *Command) Decode(s Serialize, header []byte) error {
	*c = Command{Ext: c.Ext[:0], scratch: c.scratch[:0]}
	if cap(c.scratch) > keptScratch {
		c.scratch = nil
	}
	switch s {
	case JSON:
		return c.decodeJSON(header)
	case Binary:
		return c.decodeBinary(header)
	}
	return malformed("unknown serialization %d", s)
}

// Append appends the whole frame, both length fields included, to dst and
// returns it. Fields with nil values are left out. It trusts its caller: the
// frame must not be over MaxFrame, and in the binary serialization Code and
// Version must fit in 16 bits and keys be at most 32,767 bytes. What is not
// UTF-8 becomes U+FFFD in JSON.
func (c *Command) Append(dst []byte, s Serialize, body []byte) []byte {
	start := len(dst)
	dst = append(dst, make([]byte, prefixSize)...)
	if s == Binary {
		dst = c.appendBinary(dst)
	} else {
		dst = c.appendJSON(dst)
	}
	header := len(dst) - start - prefixSize
	dst = append(dst, body...)
	binary.BigEndian.PutUint32(dst[start:], uint32(len(dst)-start-lengthSize))
	binary.BigEndian.PutUint32(dst[start+lengthSize:], uint32(s)<<24|uint32(header))
	return dst
}

// set adds a field, or replaces the one with the same key; a nil value removes
// it. It reports whether there was room.
func (c *Command) set(key, value []byte) bool {
	bit := uint64(1) << (bloom(key) & 63)
	if c.seen&bit != 0 {
		for i := range c.Ext {
			if !bytes.Equal(c.Ext[i].Key, key) {
				continue
			}
			if value == nil {
				c.Ext = append(c.Ext[:i], c.Ext[i+1:]...)
			} else {
				c.Ext[i].Value = value
			}
			return true
		}
	}
	if value == nil {
		return true
	}
	c.seen |= bit
	c.Ext = append(c.Ext, Field{key, value})
	return len(c.Ext) <= MaxFields
}

// bloom is a hash that tells the usual keys apart.
func bloom(key []byte) uint {
	if len(key) == 0 {
		return 0
	}
	return uint(key[0]) + uint(key[len(key)-1])*5 + uint(len(key)-1)*11
}
