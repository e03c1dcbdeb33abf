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
	NoShared                      // shared subscriptions are not supported
	StoreError                    // could not be made durable
)

// Subscribe adds subscriptions to the session, or changes their options
// [MQTT-3.8.4-3]; subs' filters are owned by the session from then on. The
// result has one element for each, in order. For a persistent session they are
// durable on return; it may block.
func (b *Broker) Subscribe(s *Session, p *mq.Principal, subs []mq.Subscription) []SubscribeResult {
	results := make([]SubscribeResult, len(subs))
	granted := make([]mq.Subscription, 0, len(subs))
	for i, sub := range subs {
		plain := false
		results[i], plain = b.checkFilter(s, p, sub.Filter)
		if plain {
			granted = append(granted, sub)
		}
	}
	if len(granted) == 0 {
		return results
	}
	s.mu.Lock()
	durable := s.persistent()
	s.mu.Unlock()
	if durable {
		if err := b.store.PutSubscriptions(s.id, granted); err != nil {
			b.log.Error("cannot store subscriptions", "client", s.id, "error", err)
			for i := range results {
				if results[i] == Granted {
					results[i] = StoreError
				}
			}
			return results
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sub := range granted {
		s.addSubscription(sub)
	}
	return results
}

// checkFilter decides about one filter. plain tells that it goes into the
// subscription tree: one's own P2P topic is granted and changes nothing.
func (b *Broker) checkFilter(s *Session, p *mq.Principal, filter string) (r SubscribeResult, plain bool) {
	if strings.HasPrefix(filter, "$share/") {
		return NoShared, false
	}
	kind, target := mq.ParseFilter([]byte(filter))
	switch {
	case kind == mq.TopicInvalid:
		return FilterInvalid, false
	case kind == mq.TopicP2P && string(target) == s.id:
		return Granted, false
	case kind == mq.TopicP2P:
		return Refused, false
	case !b.auth.Allow(p, mq.Subscribe, []byte(filter)):
		return Refused, false
	}
	return Granted, true
}

// addSubscription is for a locked session.
func (s *Session) addSubscription(sub mq.Subscription) {
	if s.subs == nil {
		s.subs = make(map[string]mq.Subscription)
	}
	if _, had := s.subs[sub.Filter]; !had {
		s.b.Stats.Subs.Add(1)
	}
	s.subs[sub.Filter] = sub
	s.b.topics.add(sub, s)
}

// Unsubscribe removes subscriptions. The result says for each filter whether
// it was there [MQTT-3.10.4-1]. It may block on the store.
func (b *Broker) Unsubscribe(s *Session, filters []string) ([]bool, error) {
	s.mu.Lock()
	durable := s.persistent()
	s.mu.Unlock()
	if durable {
		if err := b.store.DeleteSubscriptions(s.id, filters); err != nil {
			return nil, err
		}
	}
	had := make([]bool, len(filters))
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, f := range filters {
		if _, ok := s.subs[f]; ok {
			had[i] = true
			delete(s.subs, f)
			b.topics.remove(f, s)
			b.Stats.Subs.Add(-1)
			continue
		}
		kind, target := mq.ParseFilter([]byte(f))
		had[i] = kind == mq.TopicP2P && string(target) == s.id
	}
	return had, nil
}
