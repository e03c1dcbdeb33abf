package broker

import (
	"strings"

	"github.com/homing-mq/homing/internal/mq"
)

// SubscribeResult is the outcome for one topic filter.
type SubscribeResult uint8

// The outcomes of a subscription.
const (
	Granted       SubscribeResult = iota
	Refused                       // not allowed: a rule, or somebody else's P2P topic
	FilterInvalid                 // not a topic filter
	TooMany                       // over a limit on subscriptions, see SubscriptionLimit
	StoreError                    // could not be made durable
)

// Subscribe adds subscriptions to the session, or changes their options
// [MQTT-3.8.4-3]; subs' filters are owned by the session from then on. The
// result has one element for each, in order. For a persistent session they are
// durable on return; it may block.
//
// Retained messages follow as the retain handling says [MQTT-3.3.1-9], when
// the batch is flushed: after the acknowledgement that the caller sends now.
func (b *Broker) Subscribe(s *Session, p *mq.Principal, subs []mq.Subscription, batch *Batch) []SubscribeResult {
	results := make([]SubscribeResult, len(subs))
	granted := make([]mq.Subscription, 0, len(subs))
	defer s.keepSubscriptions()()
	room := admission{s: s}
	for i, sub := range subs {
		plain := false
		results[i], plain = b.checkFilter(s, p, &sub)
		switch {
		case plain && !room.admit(sub.Filter):
			results[i] = TooMany
		case plain:
			granted = append(granted, sub)
		}
	}
	if len(granted) == 0 {
		return results
	}
	wants, durable := s.wantsRetained(granted)
	if durable {
		for i := range granted {
			sub := &granted[i]
			sub.RetainedOwed = sub.RetainedOwed || wants[i] && b.retained.matches(sub.Filter)
		}
		if err := b.store.PutSubscriptions(s.id, granted); err != nil {
			b.log.Error("cannot store subscriptions", "client", s.id, "error", err)
			room.cancel()
			for i := range results {
				if results[i] == Granted {
					results[i] = StoreError
				}
			}
			return results
		}
	}
	for i := range granted {
		b.subscribe(s, granted[i], wants[i], batch)
	}
	batch.pump(s)
	return results
}

// keepSubscriptions makes this goroutine the only one that changes the stored
// subscriptions of the session, until the function it returns is called.
func (s *Session) keepSubscriptions() func() {
	mu := &s.b.registry.shard([]byte(s.id)).subs
	mu.Lock()
	return mu.Unlock
}

// wantsRetained reports which subscriptions are to be followed by retained
// messages, and whether the session is persistent. It sets RetainedOwed of those
// whose retained messages are still being sent, from before.
func (s *Session) wantsRetained(subs []mq.Subscription) (wants []bool, durable bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wants = make([]bool, len(subs))
	for i := range subs {
		before, had := s.subs[subs[i].Filter]
		subs[i].RetainedOwed = before.RetainedOwed && s.owes(before.Filter) != nil
		switch {
		case isShared(subs[i].Filter): // never
		case subs[i].RetainHandling == 0: // [MQTT-3.3.1-9]
			wants[i] = true
		case subs[i].RetainHandling == 1: // [MQTT-3.3.1-10]
			wants[i] = !had
		} // [MQTT-3.3.1-11]
	}
	return wants, s.persistent()
}

// maxLevels is how many levels a topic filter may have: a search goes as deep.
const maxLevels = 200

// checkFilter decides about one filter, and notes in the subscription if it is
// granted in part. plain tells that it becomes a subscription: one's own P2P
// topic is granted and changes nothing.
func (b *Broker) checkFilter(s *Session, p *mq.Principal, sub *mq.Subscription) (r SubscribeResult, plain bool) {
	topic, shared := sub.Filter, false
	if isShared(sub.Filter) {
		if _, topic, shared = cutShare(sub.Filter); !shared {
			return FilterInvalid, false
		}
	}
	kind, target := mq.ParseFilter([]byte(topic))
	switch {
	case kind == mq.TopicInvalid, strings.Count(topic, "/") >= maxLevels:
		return FilterInvalid, false
	case kind == mq.TopicP2P && string(target) == s.id && !shared:
		return Granted, false
	case kind == mq.TopicP2P:
		return Refused, false
	}
	switch b.auth.Grant(p, []byte(topic)) {
	case mq.GrantAll:
		return Granted, true
	case mq.GrantPart:
		if !shared { // members may be allowed different things
			sub.Reader = p // so that it is known later that it was not all
			return Granted, true
		}
	}
	return Refused, false
}

// subscribe makes a granted subscription work; with wants it is followed by
// retained messages.
func (b *Broker) subscribe(s *Session, sub mq.Subscription, wants bool, batch *Batch) {
	if isShared(sub.Filter) {
		b.join(s, sub, batch)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sub.Asks = s.judge(&sub)
	s.putSubscription(sub)
	b.topics.add(sub, s)
	// After it is in the tree: a message that is retained from now on arrives by it.
	if wants && (sub.RetainedOwed || b.retained.size.Load() > 0) {
		s.owe(sub)
	} else if o := s.owes(sub.Filter); o != nil {
		o.sub = sub
	}
}

// putSubscription notes a subscription, in the place of one with the same filter:
// what that has brought so far stays [MQTT-3.8.4-4]. It leaves the topic tree alone. s is
// locked.
// [MQTT-3.8.4-3] [MQTT3-3.8.4-3]
func (s *Session) putSubscription(sub mq.Subscription) {
	if before, had := s.subs[sub.Filter]; had {
		sub.Filter = before.Filter // the one that the topic tree has, too
	}
	s.dropSubscription(sub.Filter)
	if s.subs == nil {
		s.subs = make(map[string]mq.Subscription)
	}
	s.b.Stats.Subs.Add(1)
	s.weighSubscription(sub.Filter, 1)
	if special(&sub) {
		s.special++
	}
	s.subs[sub.Filter] = sub
}

// dropSubscription reports whether there was one. It leaves the topic tree
// alone. s is locked.
func (s *Session) dropSubscription(filter string) bool {
	sub, had := s.subs[filter]
	if !had {
		return false
	}
	s.b.Stats.Subs.Add(-1)
	s.weighSubscription(filter, -1)
	if special(&sub) {
		s.special--
	}
	if delete(s.subs, filter); len(s.subs) == 0 {
		s.subs = nil // a map does not shrink
	}
	return true
}

// weighSubscription counts the bytes of a filter that comes (sign 1) or goes (-1). s
// is locked.
func (s *Session) weighSubscription(filter string, sign int64) {
	n := sign * int64(len(filter))
	s.subBytes += uint32(n)
	s.b.Stats.SubBytes.Add(n)
	s.b.filters.add(s.account, n)
}

// dropSubscriptions ends all subscriptions, and returns the filters of shared
// ones, which are still to be left. s is locked.
func (s *Session) dropSubscriptions() (shared []string) {
	for filter := range s.subs {
		if isShared(filter) {
			shared = append(shared, filter)
		} else {
			s.b.topics.remove(filter, s)
		}
		s.b.Stats.Subs.Add(-1)
		s.weighSubscription(filter, -1)
	}
	if s.subs != nil {
		s.b.topics.releaseAll(s)
	}
	if s.traffic != &noTraffic {
		s.owed = nil
	}
	s.subs, s.special = nil, 0
	return shared
}

// Unsubscribe removes subscriptions. The result says for each filter whether
// it was there [MQTT-3.10.4-1]. It may block on the store.
// What its inbox has stays [MQTT-3.10.4-2] [MQTT-3.10.4-3] [MQTT3-3.10.4-1] [MQTT3-3.10.4-2] [MQTT3-3.10.4-3]
func (b *Broker) Unsubscribe(s *Session, filters []string, batch *Batch) ([]bool, error) {
	defer s.keepSubscriptions()()
	s.mu.Lock()
	durable := s.persistent()
	s.mu.Unlock()
	if durable {
		if err := b.store.DeleteSubscriptions(s.id, filters); err != nil {
			return nil, err
		}
	}
	had := make([]bool, len(filters))
	for i, f := range filters {
		had[i] = b.unsubscribe(s, f, batch)
	}
	return had, nil
}

func (b *Broker) unsubscribe(s *Session, filter string, batch *Batch) bool {
	s.mu.Lock()
	had := s.dropSubscription(filter)
	if had && !isShared(filter) {
		b.topics.remove(filter, s)
		s.oweNot(filter)
	}
	s.mu.Unlock()
	if had {
		b.topics.release(s, filter)
	}
	if had && isShared(filter) {
		b.leave(s, filter, batch)
	}
	if had || isShared(filter) {
		return had
	}
	kind, target := mq.ParseFilter([]byte(filter))
	return kind == mq.TopicP2P && string(target) == s.id
}

// sharePrefix begins the filter of a shared subscription [MQTT-4.8.2-1].
const sharePrefix = "$share/"

func isShared(filter string) bool { return strings.HasPrefix(filter, sharePrefix) }

// cutShare splits the filter of a shared subscription into share name and topic
// filter, and reports whether the name is one [MQTT-4.8.2-1] [MQTT-4.8.2-2].
func cutShare(filter string) (name, topic string, ok bool) {
	name, topic, ok = strings.Cut(filter[len(sharePrefix):], "/")
	return name, topic, ok && name != "" && !strings.ContainsAny(name, "+#")
}
