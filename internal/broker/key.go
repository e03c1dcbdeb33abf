package broker

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// The key of a retained message is its topic name with U+0000 as level separator,
// which no topic contains and which sorts before all else: a topic is followed by
// what lies below it.
//
// The name is in the store, too. So that a long one takes memory once, its key has
// only the first bytes, and a hash that tells it from others. Whether a filter
// matches it is sometimes known only when its message is read.

const (
	keyBytes = 512    // of a topic name that are in its key
	keyCut   = "\xff" // follows them, then the hash; it is in no topic name: those are UTF-8
)

func levelKey(topic string) string {
	if len(topic) <= keyBytes {
		return strings.ReplaceAll(topic, "/", "\x00")
	}
	sum := sha256.Sum256([]byte(topic))
	return strings.ReplaceAll(topic[:keyBytes], "/", "\x00") + keyCut + string(sum[:])
}

// visible is what a key has of its topic name. cut tells that it is not all.
func visible(key string) (part string, cut bool) {
	if len(key) > keyBytes {
		return key[:keyBytes], true
	}
	return key, false
}

// topicOf is the topic name of a key, or of a long one what stands for it in the log.
func topicOf(key string) string {
	part, cut := visible(key)
	part = strings.ReplaceAll(part, "\x00", "/")
	if cut {
		return strings.ToValidUTF8(part, "") + "... (SHA-256 " + hex.EncodeToString([]byte(key[len(key)-sha256.Size:])) + ")"
	}
	return part
}

// bound shortens a key to search from, so that it comes before the keys of long
// topic names that begin like it.
func bound(key string) string { return key[:min(len(key), keyBytes)] }

// firstKey is a key that none which matches comes before: the levels up to the
// first wildcard.
func firstKey(levels []string) string {
	for i, level := range levels {
		if level == "+" || level == "#" {
			return bound(strings.Join(levels[:i], "\x00"))
		}
	}
	return bound(strings.Join(levels, "\x00"))
}

// compare reports whether the key matches the filter with these levels, or may: see
// levelKey. If not, skipTo is a key that no match lies before, "" if there is none
// after key; skipTo may be key itself or before it: then the one after it is to be
// looked at.
func compare(levels []string, key string) (match bool, skipTo string) {
	key, cut := visible(key)
	if key[0] == '$' && (levels[0] == "+" || levels[0] == "#") { // [MQTT-4.7.2-1]
		return false, "%" // what sorts after $
	}
	skip := -1 // where the part of key ends up to which it may grow: its last level under a +
	start := 0
	for _, level := range levels {
		if level == "#" {
			return true, ""
		}
		if start > len(key) {
			return false, key // too short: what lies below it comes next
		}
		end := strings.IndexByte(key[start:], 0)
		part := end < 0 && cut // the level goes on
		if end < 0 {
			end = len(key)
		} else {
			end += start
		}
		switch have := key[start:end]; {
		case part && (level == "+" || strings.HasPrefix(level, have)):
			return true, ""
		case level == "+":
			skip = end
		case have < level:
			return false, bound(key[:start] + level)
		case have > level:
			return false, sibling(key, skip)
		}
		start = end + 1
	}
	if start > len(key) {
		return true, ""
	}
	return false, sibling(key, skip) // it has more levels
}

// sibling is the first key that can follow everything below key[:end]; "" if
// there is no level that may grow.
func sibling(key string, end int) string {
	if end < 0 {
		return ""
	}
	return key[:end] + "\x01"
}
