package auth

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/homing-mq/homing/internal/mq"
)

// Rule allows or denies something; the package comment tells when it matches.
type Rule struct {
	// Allow or Deny is the action: pub, sub or all. The other is empty.
	Allow, Deny string
	// Topic is a topic filter with %c, %u and %%.
	Topic string
	// User, Client and AccessKey restrict the rule to whoever has exactly this
	// name, ID or key; empty: any.
	User, Client, AccessKey string
}

// rule is a Rule ready to be compared.
type rule struct {
	deny                    bool
	publish, subscribe      bool
	user, client, accessKey string
	levels                  []ruleLevel
	dollar                  bool // the first level starts with $
	statistics              bool // the first level is $SYS
	needsClient, needsUser  bool // has %c, %u
}

type levelKind uint8

const (
	levelText   levelKind = iota // compared as it stands
	levelFilled                  // text with placeholders
	levelOne                     // +
	levelRest                    // #, always the last
)

type ruleLevel struct {
	kind  levelKind
	first bool
	text  string
	parts []levelPart
}

// levelPart is a placeholder when hole is 'c' or 'u', otherwise text.
type levelPart struct {
	hole byte
	text string
}

func compileRules(rules []Rule) ([]rule, error) {
	compiled := make([]rule, len(rules))
	for i := range rules {
		if err := compiled[i].compile(&rules[i]); err != nil {
			return nil, fmt.Errorf("auth.rules[%d]: %w", i, err)
		}
	}
	return compiled, nil
}

func (r *rule) compile(from *Rule) error {
	action := from.Allow
	if from.Deny != "" {
		action, r.deny = from.Deny, true
	}
	if (from.Allow == "") == (from.Deny == "") {
		return errors.New("give either allow or deny, with pub, sub or all")
	}
	switch action {
	case "pub":
		r.publish = true
	case "sub":
		r.subscribe = true
	case "all":
		r.publish, r.subscribe = true, true
	default:
		return fmt.Errorf("%q is no action; use pub, sub or all", action)
	}
	r.user, r.client, r.accessKey = from.User, from.Client, from.AccessKey
	return r.compileTopic(from.Topic)
}

func (r *rule) compileTopic(topic string) error {
	if topic == "" {
		return errors.New(`topic is missing; give a topic filter, "#" for all topics`)
	}
	if !mq.ValidFilter([]byte(topic)) {
		return fmt.Errorf("topic %q is not a topic filter; + and # stand alone in a level, # in the last one", topic)
	}
	if strings.HasPrefix(topic, string(sharePrefix)) {
		return fmt.Errorf("topic %q: rules are about topics; leave $share and the group away", topic)
	}
	for i, text := range strings.Split(topic, "/") {
		l := ruleLevel{first: i == 0}
		switch text {
		case "+":
			l.kind = levelOne
		case "#":
			l.kind = levelRest
		default:
			if err := l.parse(text); err != nil {
				return fmt.Errorf("topic %q: %w", topic, err)
			}
		}
		for _, part := range l.parts {
			r.needsClient = r.needsClient || part.hole == 'c'
			r.needsUser = r.needsUser || part.hole == 'u'
		}
		r.levels = append(r.levels, l)
	}
	// "+/#" means the same as "#", but covers less when compared level by level.
	if len(r.levels) == 2 && r.levels[0].kind == levelOne && r.levels[1].kind == levelRest {
		r.levels = r.levels[1:]
	}
	r.dollar = topic[0] == '$'
	r.statistics = isStatistics([]byte(topic))
	return nil
}

// parse splits the text of a level at its placeholders.
func (l *ruleLevel) parse(text string) error {
	var plain strings.Builder
	end := func() {
		if plain.Len() > 0 {
			l.parts = append(l.parts, levelPart{text: plain.String()})
			plain.Reset()
		}
	}
	for i := 0; i < len(text); i++ {
		if text[i] != '%' {
			plain.WriteByte(text[i])
			continue
		}
		i++
		switch {
		case i < len(text) && text[i] == '%':
			plain.WriteByte('%')
		case i < len(text) && (text[i] == 'c' || text[i] == 'u'):
			end()
			l.parts = append(l.parts, levelPart{hole: text[i]})
			l.kind = levelFilled
		default:
			return errors.New("after % comes c (client ID), u (user name) or another %")
		}
	}
	if l.kind == levelText {
		l.text = plain.String()
		return nil
	}
	end()
	return nil
}

// Allow implements mq.Authorizer.
func (a *Auth) Allow(p *mq.Principal, action mq.Action, topic []byte) bool {
	return a.decide(p, action, topic) == mq.GrantAll
}

// Grant implements mq.Authorizer. For a shared subscription the filter may
// come with or without its $share/{name}/ in front.
func (a *Auth) Grant(p *mq.Principal, filter []byte) mq.Grant {
	return a.decide(p, mq.Subscribe, withoutShare(filter))
}

// decide applies the rules to a topic filter, or to a topic name, which is a
// filter that matches one topic. The first rule that covers it wins; one before
// that denies a part of it leaves the rest.
func (a *Auth) decide(p *mq.Principal, action mq.Action, topic []byte) mq.Grant {
	now := a.policy.Load()
	if !now.stands(p) || !now.parentAllowed(topic) {
		return mq.GrantNone
	}
	// Statistics are read by a rule that names $SYS, or not at all.
	named := action == mq.Subscribe && isStatistics(topic)
	if len(now.rules) == 0 {
		if named {
			return mq.GrantNone
		}
		return mq.GrantAll
	}
	grant := mq.GrantAll
	for i := range now.rules {
		r := &now.rules[i]
		if !r.concerns(p, action) || !r.mayMatch(topic) {
			continue
		}
		switch {
		case !r.covers(p, topic):
			if r.deny && r.overlaps(p, topic) {
				grant = mq.GrantPart
			}
		case r.deny || named && !r.statistics:
			return mq.GrantNone
		default:
			return grant
		}
	}
	return mq.GrantNone
}

// isStatistics reports whether the first level of a topic name or filter is
// $SYS.
func isStatistics(topic []byte) bool {
	rest, ok := bytes.CutPrefix(topic, []byte("$SYS"))
	return ok && (len(rest) == 0 || rest[0] == '/')
}

var sharePrefix = []byte("$share/")

func withoutShare(filter []byte) []byte {
	rest, shared := bytes.CutPrefix(filter, sharePrefix)
	if !shared {
		return filter
	}
	_, rest, _ = bytes.Cut(rest, []byte{'/'})
	return rest
}

// parentAllowed reports whether the list of parent topics has that of a topic
// name or filter. A wildcard in its place is refused, $SYS is not concerned.
func (p *policy) parentAllowed(topic []byte) bool {
	if len(p.topics) == 0 {
		return true
	}
	parent := mq.ParentTopic(topic)
	if string(parent) == "$SYS" {
		return true
	}
	_, ok := p.topics[string(parent)]
	return ok
}

func (r *rule) concerns(p *mq.Principal, action mq.Action) bool {
	if action == mq.Publish && !r.publish || action == mq.Subscribe && !r.subscribe {
		return false
	}
	// Of a placeholder that nothing fills there is no topic to compare with.
	if r.needsClient && p.ClientID == "" || r.needsUser && p.User == "" {
		return false
	}
	return (r.user == "" || r.user == p.User) &&
		(r.client == "" || r.client == p.ClientID) &&
		(r.accessKey == "" || r.accessKey == p.AccessKey)
}

// mayMatch is false where only a wildcard in the first level would match a topic
// that starts with $ [MQTT-4.7.2-1].
func (r *rule) mayMatch(filter []byte) bool {
	return len(filter) > 0 &&
		(filter[0] != '$' || r.levels[0].kind < levelOne) &&
		(!r.dollar || !isOne(filter[:1]) && !isRest(filter[:1]))
}

// covers reports whether the rule matches every topic that the filter matches.
func (r *rule) covers(p *mq.Principal, filter []byte) bool {
	more := true
	for i := range r.levels {
		l := &r.levels[i]
		if l.kind == levelRest {
			return true // also what ends here: section 4.7.1.2
		}
		if !more {
			return false
		}
		var level []byte
		level, filter, more = bytes.Cut(filter, []byte{'/'})
		if isRest(level) {
			return false
		}
		if l.kind != levelOne && (isOne(level) || !l.usable(p) || !l.equals(p, level)) {
			return false
		}
	}
	return !more
}

// overlaps reports whether there is a topic that both the rule and the filter
// match.
func (r *rule) overlaps(p *mq.Principal, filter []byte) bool {
	more := true
	for i := range r.levels {
		l := &r.levels[i]
		if l.kind == levelRest {
			return true
		}
		if !more {
			return false
		}
		var level []byte
		level, filter, more = bytes.Cut(filter, []byte{'/'})
		if isRest(level) || !l.usable(p) {
			return true
		}
		if l.kind != levelOne && !isOne(level) && !l.equals(p, level) {
			return false
		}
	}
	return !more || isRest(filter)
}

func isOne(level []byte) bool  { return len(level) == 1 && level[0] == '+' }
func isRest(level []byte) bool { return len(level) == 1 && level[0] == '#' }

// fill returns what stands in the place of a placeholder.
func fill(p *mq.Principal, hole byte) string {
	if hole == 'c' {
		return p.ClientID
	}
	return p.User
}

// usable reports whether what fills the level stays one level, without
// wildcards, and does not turn the topic into a system topic.
func (l *ruleLevel) usable(p *mq.Principal) bool {
	for i := range l.parts {
		hole := l.parts[i].hole
		if hole == 0 {
			continue
		}
		v := fill(p, hole)
		if strings.ContainsAny(v, "/+#") || i == 0 && l.first && strings.HasPrefix(v, "$") {
			return false
		}
	}
	return true
}

// equals compares the filled level with a level of a topic, without making
// the former.
func (l *ruleLevel) equals(p *mq.Principal, level []byte) bool {
	if l.kind == levelText {
		return string(level) == l.text
	}
	for i := range l.parts {
		want := l.parts[i].text
		if hole := l.parts[i].hole; hole != 0 {
			want = fill(p, hole)
		}
		if len(level) < len(want) || string(level[:len(want)]) != want {
			return false
		}
		level = level[len(want):]
	}
	return len(level) == 0
}
