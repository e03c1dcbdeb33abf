package mq

import (
	"bytes"
	"unicode/utf8"
)

// The topic grammar of contract sections 1 and 9.

// TopicKind tells what a topic name or filter means to the router.
type TopicKind uint8

// What ParseTopic and ParseFilter find.
const (
	TopicInvalid TopicKind = iota // not a topic name (or filter) at all
	TopicPlain                    // matched against subscriptions
	TopicP2P                      // names exactly one target
	TopicBadP2P                   // level 2 is p2p, but level 3 cannot be a target
	TopicSystem                   // first level starts with $
)

var p2pLevel = []byte("p2p")

// ParseTopic classifies a topic name. For TopicP2P, target is the client ID in
// level 3; it aliases topic.
//
// A topic name is one to 65 535 bytes of UTF-8 without U+0000, + and #
// [MQTT-4.7.0-1] [MQTT-4.7.3-1] [MQTT-4.7.3-2]. A leading slash is an empty
// first level, so "/parent/p2p/x" is not P2P.
// [MQTT3-4.7.1-1] [MQTT3-4.7.3-1] [MQTT3-4.7.3-2]
func ParseTopic(topic []byte) (kind TopicKind, target []byte) {
	if !ValidTopic(topic) {
		// A wildcard or nothing in the place of the target is a malformed P2P
		// topic (0x90); anywhere else it is a malformed topic.
		if rest, ok := afterP2P(topic); ok && ValidTopicText(topic) && bytes.ContainsAny(rest, "+#") {
			return TopicBadP2P, nil
		}
		return TopicInvalid, nil
	}
	if topic[0] == '$' {
		return TopicSystem, nil
	}
	rest, ok := afterP2P(topic)
	if !ok {
		return TopicPlain, nil
	}
	target, _, _ = bytes.Cut(rest, []byte{'/'})
	if len(target) == 0 {
		return TopicBadP2P, nil
	}
	return TopicP2P, target
}

// afterP2P returns what follows "{parent}/p2p/" ("" for "{parent}/p2p") and
// whether level 2 is p2p behind a non-empty level 1.
func afterP2P(topic []byte) ([]byte, bool) {
	i := bytes.IndexByte(topic, '/')
	if i <= 0 || topic[0] == '$' {
		return nil, false
	}
	second, rest, _ := bytes.Cut(topic[i+1:], []byte{'/'})
	if !bytes.Equal(second, p2pLevel) {
		return nil, false
	}
	return rest, true
}

// ParentTopic returns level 1 of a topic name. It aliases topic.
func ParentTopic(topic []byte) []byte {
	parent, _, _ := bytes.Cut(topic, []byte{'/'})
	return parent
}

// ParseFilter classifies a topic filter for a subscription. TopicP2P means
// that its level 2 is the literal p2p; target is level 3, which may be empty or
// a wildcard. The caller decides whether it is the subscriber's own.
func ParseFilter(filter []byte) (kind TopicKind, target []byte) {
	if !ValidFilter(filter) {
		return TopicInvalid, nil
	}
	if filter[0] == '$' {
		return TopicSystem, nil
	}
	if rest, ok := afterP2P(filter); ok {
		target, _, _ = bytes.Cut(rest, []byte{'/'})
		return TopicP2P, target
	}
	return TopicPlain, nil
}

// ValidTopicText reports whether b is 1 to 65 535 bytes of UTF-8 without
// U+0000 [MQTT-1.5.4-1] [MQTT-1.5.4-2] [MQTT-4.7.3-1] [MQTT-4.7.3-3].
// [MQTT-4.7.3-2] [MQTT3-4.7.3-1] [MQTT3-4.7.3-2] [MQTT3-4.7.3-3] [MQTT3-1.5.3-1] [MQTT3-1.5.3-2]
func ValidTopicText(b []byte) bool {
	return len(b) > 0 && len(b) <= 65535 && bytes.IndexByte(b, 0) < 0 && utf8.Valid(b)
}

// ValidTopic reports whether b can be a topic name.
func ValidTopic(b []byte) bool {
	return ValidTopicText(b) && bytes.IndexByte(b, '+') < 0 && bytes.IndexByte(b, '#') < 0
}

// ValidFilter reports whether b can be a topic filter: + stands alone in its
// level, # stands alone in the last one [MQTT-4.7.1-1] [MQTT-4.7.1-2].
// [MQTT3-4.7.1-2] [MQTT3-4.7.1-3]
func ValidFilter(b []byte) bool {
	if !ValidTopicText(b) {
		return false
	}
	for rest, more := b, true; more; {
		var level []byte
		level, rest, more = bytes.Cut(rest, []byte{'/'})
		switch {
		case len(level) == 1 && level[0] == '#':
			return !more
		case len(level) == 1 && level[0] == '+':
		case bytes.ContainsAny(level, "+#"):
			return false
		}
	}
	return true
}

// ValidTarget reports whether a client ID can be addressed by P2P: it is not
// empty and has no level separator, wildcard or U+0000.
func ValidTarget(id []byte) bool {
	return ValidTopic(id) && bytes.IndexByte(id, '/') < 0
}

// MatchFilter reports whether the topic name matches the filter. Both must be
// valid. A wildcard in level 1 does not match a topic that starts with $
// [MQTT-4.7.2-1].
//
// It is for access rules and tests; deliveries use the subscription tree.
func MatchFilter(filter, topic []byte) bool {
	if len(topic) > 0 && topic[0] == '$' && len(filter) > 0 && (filter[0] == '+' || filter[0] == '#') {
		return false
	}
	fmore, tmore := true, true
	for fmore {
		var f, t []byte
		f, filter, fmore = bytes.Cut(filter, []byte{'/'})
		if len(f) == 1 && f[0] == '#' {
			return true // also the parent level itself: section 4.7.1.2
		}
		if !tmore {
			return false
		}
		t, topic, tmore = bytes.Cut(topic, []byte{'/'})
		if (len(f) != 1 || f[0] != '+') && !bytes.Equal(f, t) {
			return false
		}
	}
	return !tmore
}
