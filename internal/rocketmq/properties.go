package rocketmq

import (
	"bytes"
	"iter"
	"math"
	"unicode/utf8"
)

// The separators of a properties string (MessageDecoder). Neither can stand in
// a key or value.
const (
	keyEnd   = 0x01
	valueEnd = 0x02
)

// MaxProperties is the length in bytes of the longest properties string that a
// broker takes.
const MaxProperties = math.MaxInt16

// Properties gives the keys and values of a message's properties string, in
// the order written. What CheckProperties refuses is left out, or part of a
// value. Empty values are given, although RocketMQ reads them as no property.
func Properties(b []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func([]byte, []byte) bool) {
		for len(b) > 0 {
			pair := nextPair(&b)
			end := bytes.IndexByte(pair, keyEnd)
			if end > 0 && !yield(pair[:end:end], pair[end+1:]) {
				return
			}
		}
	}
}

// nextPair cuts the first pair from b, without the separator behind it.
func nextPair(b *[]byte) []byte {
	pair, rest, _ := bytes.Cut(*b, []byte{valueEnd})
	*b = rest
	return pair[:len(pair):len(pair)]
}

// CheckProperties returns an error, which says in words what is wrong, for a
// properties string that is longer than MaxProperties, not UTF-8, or not a
// sequence of keys and values.
func CheckProperties(b []byte) error {
	if len(b) > MaxProperties {
		return malformed("properties of %d bytes, at most %d are possible", len(b), MaxProperties)
	}
	if !utf8.Valid(b) {
		return malformed("properties that are not UTF-8")
	}
	for len(b) > 0 {
		key, value, ok := bytes.Cut(nextPair(&b), []byte{keyEnd})
		switch {
		case !ok:
			return malformed("property %q has no value", key)
		case len(key) == 0:
			return malformed("a property without a key")
		case bytes.IndexByte(value, keyEnd) >= 0:
			return malformed("the value of property %q has a character U+0001", key)
		}
	}
	return nil
}

// Property returns the value of one property and whether there is one. If the
// key is repeated the last value counts, as in RocketMQ.
func Property(b []byte, key string) (value []byte, ok bool) {
	for k, v := range Properties(b) {
		if string(k) == key {
			value, ok = v, true
		}
	}
	return value, ok
}

// AppendProperty appends a key and value to a properties string. Neither may
// have a character U+0001 or U+0002.
func AppendProperty(dst []byte, key, value string) []byte {
	dst = append(dst, key...)
	dst = append(dst, keyEnd)
	dst = append(dst, value...)
	return append(dst, valueEnd)
}
