package auth

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/homing-mq/homing/internal/mq"
)

// TestRules writes a check as "pub topic" or "sub filter", with who asks in
// front; the answer is true for allowed.
func TestRules(t *testing.T) {
	type who = mq.Principal
	dev := who{ClientID: "dev1", User: "alice"}
	anon := who{ClientID: "dev1"}
	signed := who{ClientID: "GID_a@@@1", AccessKey: "AK"}
	type check struct {
		p    who
		ask  string
		want bool
	}
	for _, tt := range []struct {
		name   string
		rules  []Rule
		topics []string
		checks []check
	}{
		{"no rules", nil, nil, []check{
			{dev, "pub a/b", true}, {dev, "sub #", true}, {dev, "pub $SYS/x", true}, {dev, "sub $SYSx/#", true}, {dev, "sub a/$SYS", true},
		}},
		{"statistics without a rule", nil, nil, []check{
			{dev, "sub $SYS/#", false}, {dev, "sub $SYS", false}, {dev, "sub $SYS/broker/uptime", false}, {dev, "sub $SYS/+/uptime", false},
			{dev, "sub $share/g/$SYS/#", false}, {anon, "sub $SYS/#", false},
		}},
		{"statistics by a rule", []Rule{{Allow: "sub", Topic: "$SYS/broker/#", User: "alice"}, {Allow: "all", Topic: "#"}}, nil, []check{
			{dev, "sub $SYS/broker/#", true}, {dev, "sub $SYS/broker/+/x", true}, {dev, "sub $share/g/$SYS/broker/#", true},
			{dev, "sub $SYS/#", false}, {anon, "sub $SYS/broker/#", false}, {dev, "sub $SYS/receipt", false},
		}},
		{"statistics not by accident", []Rule{{Allow: "all", Topic: "$%u/#"}, {Allow: "all", Topic: "$S%c/#"}}, nil, []check{
			{who{User: "SYS"}, "sub $SYS/a", false}, {who{ClientID: "YS"}, "sub $SYS/a", false}, {who{ClientID: "YS"}, "sub $SYS/#", false},
			{who{User: "SYS"}, "pub $SYS/a", true}, {who{User: "other"}, "sub $other/a", true},
		}},
		{"statistics, parent topics", []Rule{{Allow: "sub", Topic: "$SYS/#"}}, []string{"a"}, []check{
			{dev, "sub $SYS/#", true}, {dev, "sub $SYS/broker/x", true}, {dev, "sub a/b", false},
		}},
		{"nothing matches", []Rule{{Allow: "pub", Topic: "a/#"}}, nil, []check{
			{dev, "pub a", true}, {dev, "pub a/b/c", true}, {dev, "pub ab", false}, {dev, "pub b", false}, {dev, "sub a/b", false},
		}},
		{"P2P", []Rule{{Allow: "pub", Topic: "parent/#"}}, nil, []check{
			{dev, "pub parent/p2p/dev2", true}, {dev, "pub parent/p2p/dev2/x", true}, {dev, "pub other/p2p/dev2", false},
		}},
		{"subscriptions are covered", []Rule{{Allow: "sub", Topic: "a/+"}, {Allow: "sub", Topic: "b/+/c/#"}}, nil, []check{
			{dev, "sub a/b", true}, {dev, "sub a/+", true}, {dev, "sub a/", true}, {dev, "sub a", false}, {dev, "sub a/#", false},
			{dev, "sub #", false}, {dev, "sub +/+", false}, {dev, "sub +/b", false}, {dev, "sub a/+/+", false},
			{dev, "sub b/x/c", true}, {dev, "sub b/+/c/d/#", true}, {dev, "sub b/x/+/d", false}, {dev, "sub b/#", false},
			{dev, "pub a/b", false}, {dev, "sub $share/g/a/b", true}, {dev, "sub $share/g/#", false}, {dev, "sub $share/a/b", false},
			{dev, "sub $share/g", false},
		}},
		{"what is denied does not slip through", []Rule{{Deny: "sub", Topic: "secret/#"}, {Allow: "all", Topic: "#"}}, nil, []check{
			{dev, "sub #", false}, {dev, "sub +", false}, {dev, "sub +/x", false}, {dev, "sub secret", false}, {dev, "sub secret/a", false},
			{dev, "sub +/+/#", false}, {dev, "sub public/#", true}, {dev, "sub secrets", true}, {dev, "sub $share/g/#", false},
			{dev, "pub secret/a", true},
		}},
		{"denied in the middle", []Rule{{Deny: "sub", Topic: "a/+/c"}, {Allow: "sub", Topic: "#"}}, nil, []check{
			{dev, "sub a/b", true}, {dev, "sub a/b/c", false}, {dev, "sub a/b/+", false}, {dev, "sub a/#", false}, {dev, "sub +/+/d", true},
			{dev, "sub a/b/c/#", false}, {dev, "sub a/b/c/d", true}, {dev, "sub a/b/c/d/#", true},
		}},
		{"first match wins", []Rule{{Allow: "sub", Topic: "a/#"}, {Deny: "all", Topic: "a/b"}, {Allow: "pub", Topic: "#"}}, nil, []check{
			{dev, "sub a/#", true}, {dev, "sub a/b", true}, {dev, "pub a/b", false}, {dev, "pub a/c", true},
		}},
		{"system topics", []Rule{{Allow: "all", Topic: "#"}}, nil, []check{
			{dev, "sub $SYS/#", false}, {dev, "pub $SYS/x", false}, {dev, "sub #", true}, {dev, "sub +/#", true},
		}},
		{"system topics by name", []Rule{{Deny: "all", Topic: "$SYS/secret"}, {Allow: "all", Topic: "$SYS/#"}, {Allow: "all", Topic: "+/#"}}, nil, []check{
			{dev, "sub $SYS/#", false}, {dev, "sub $SYS/a", true}, {dev, "sub #", true}, {dev, "sub +/secret", true}, {dev, "pub $SYS/a/b", true},
		}},
		{"placeholders", []Rule{{Allow: "all", Topic: "c/%c/#"}, {Allow: "all", Topic: "u-%u/x%c%%"}}, nil, []check{
			{dev, "pub c/dev1/x", true}, {dev, "sub c/dev1/#", true}, {dev, "sub c/dev1", true}, {dev, "pub c/dev2/x", false},
			{dev, "pub c/dev12/x", false}, {dev, "pub c/dev/x", false}, {dev, "sub c/+/#", false}, {dev, "sub c/#", false},
			{dev, "pub u-alice/xdev1%", true}, {dev, "pub u-alice/xdev1", false}, {dev, "pub u-bob/xdev1%", false},
			{dev, "pub u-%u/xdev1%", false}, {dev, "pub c/%c/x", false},
			{anon, "pub u-/xdev1%", false}, {signed, "sub c/GID_a@@@1/#", true},
		}},
		{"conditions", []Rule{
			{Allow: "pub", Topic: "u", User: "alice"}, {Allow: "pub", Topic: "c", Client: "dev1"}, {Allow: "pub", Topic: "k", AccessKey: "AK"},
			{Allow: "pub", Topic: "uc", User: "alice", Client: "dev2"},
		}, nil, []check{
			{dev, "pub u", true}, {anon, "pub u", false}, {signed, "pub u", false}, {anon, "pub c", true}, {signed, "pub c", false},
			{signed, "pub k", true}, {dev, "pub k", false}, {dev, "pub uc", false},
		}},
		{"parent topics", nil, []string{"a", "b"}, []check{
			{dev, "pub a", true}, {dev, "pub a/p2p/x", true}, {dev, "pub c", false}, {dev, "pub ab/x", false}, {dev, "pub /a", false},
			{dev, "sub a/#", true}, {dev, "sub +/x", false}, {dev, "sub #", false}, {dev, "sub $share/g/b/x", true}, {dev, "sub $share/a/c", false},
			{dev, "pub $SYS/uploadToken", true}, {dev, "sub $SYS/#", false}, {dev, "pub $other/x", false}, {dev, "pub $SYSx/x", false},
		}},
		{"parent topics and rules", []Rule{{Deny: "pub", Topic: "a/x"}, {Allow: "all", Topic: "#"}}, []string{"a"}, []check{
			{dev, "pub a/y", true}, {dev, "pub a/x", false}, {dev, "pub b/y", false},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := newAuth(t, Options{Rules: tt.rules, Topics: tt.topics})
			for _, c := range tt.checks {
				got := a.Allow(&c.p, mq.Publish, []byte(c.ask[4:]))
				if c.ask[:3] == "sub" {
					got = a.Grant(&c.p, []byte(c.ask[4:])) == mq.GrantAll
				}
				if got != c.want {
					t.Errorf("%+v %s: got %v", c.p, c.ask, got)
				}
			}
		})
	}
}

// A deny rule takes its part away from a subscription, and no more.
func TestGrantPart(t *testing.T) {
	p := &mq.Principal{ClientID: "dev1", User: "alice"}
	a := newAuth(t, Options{Rules: []Rule{
		{Deny: "sub", Topic: "secret/#"}, {Deny: "sub", Topic: "a/+/c", User: "bob"}, {Deny: "sub", Topic: "mail/%c"}, {Allow: "all", Topic: "#"},
	}})
	for filter, want := range map[string]mq.Grant{
		"#": mq.GrantPart, "+/x": mq.GrantPart, "secret": mq.GrantNone, "secret/+": mq.GrantNone, "secret/#": mq.GrantNone,
		"public/#": mq.GrantAll, "a/b/c": mq.GrantAll, "mail/+": mq.GrantPart, "mail/dev1": mq.GrantNone, "mail/dev2": mq.GrantAll,
		"$share/g/+": mq.GrantPart, "$share/g/public": mq.GrantAll, "$other/#": mq.GrantNone,
	} {
		if got := a.Grant(p, []byte(filter)); got != want {
			t.Errorf("%s: %d, want %d", filter, got, want)
		}
	}
	for topic, want := range map[string]bool{"secret": false, "secret/x": false, "public": true, "mail/dev1": false, "mail/dev2": true} {
		if got := a.Allow(p, mq.Subscribe, []byte(topic)); got != want {
			t.Errorf("delivery of %s: %v", topic, got)
		}
	}
}

// No client ID or user name makes a rule reach further than it was meant to.
func TestInjection(t *testing.T) {
	allow := newAuth(t, Options{Rules: []Rule{{Allow: "all", Topic: "c/%c/#"}, {Allow: "all", Topic: "u/x%u/y"}, {Allow: "all", Topic: "%c/z"}}})
	deny := newAuth(t, Options{Rules: []Rule{{Deny: "all", Topic: "c/%c/x"}, {Allow: "all", Topic: "#"}}})
	for _, evil := range []string{"+", "#", "a/b", "+/+", "a+", "a#", "/", "$SYS/"} {
		p := &mq.Principal{ClientID: evil, User: evil}
		for _, topic := range []string{
			"c/a/x", "c/" + evil, "c/" + evil + "/x", "c/+/#", "c/#", "c", "#", "u/x" + evil + "/y", "u/xa/y", "u/#", evil + "/z", "a/b/z", "$SYS/z",
		} {
			if allow.Allow(p, mq.Publish, []byte(topic)) || allow.Grant(p, []byte(topic)) != mq.GrantNone {
				t.Errorf("%q may use %q", evil, topic)
			}
		}
		// A deny rule fails closed, from the level of the placeholder on.
		if deny.Allow(p, mq.Publish, []byte("c/a/b/x")) || deny.Allow(p, mq.Publish, []byte("c/a/b")) {
			t.Errorf("%q escapes a deny rule", evil)
		}
		if !deny.Allow(p, mq.Publish, []byte("d/a/b")) {
			t.Errorf("%q is denied everything", evil)
		}
	}
	// A client ID cannot make the first level a system topic.
	p := &mq.Principal{ClientID: "$SYS"}
	if allow.Allow(p, mq.Publish, []byte("$SYS/z")) {
		t.Error("client $SYS may publish to $SYS/z")
	}
	if !allow.Allow(p, mq.Publish, []byte("c/$SYS/z")) {
		t.Error("client $SYS may not publish to c/$SYS/z")
	}
}

func TestRuleMistakes(t *testing.T) {
	for want, r := range map[string]Rule{
		"either allow or deny":       {Topic: "a"},
		"either allow or deny, with": {Topic: "a", Allow: "pub", Deny: "sub"},
		"no action":                  {Topic: "a", Allow: "publish"},
		"topic is missing":           {Allow: "pub"},
		"not a topic filter":         {Allow: "pub", Topic: "a/#/b"},
		"rules are about topics":     {Deny: "sub", Topic: "$share/g/#"},
		"after %":                    {Allow: "pub", Topic: "a/%x"},
		"after % comes c":            {Allow: "pub", Topic: "a/100%"},
	} {
		if err := (&Options{Rules: []Rule{r}}).Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want %q", r, err, want)
		}
	}
}

// The naive model: rules by topic name, placeholders replaced in the text.

func naiveMatch(filter, topic string) bool {
	var match func(f, t []string) bool
	match = func(f, t []string) bool {
		switch {
		case len(f) == 1 && f[0] == "#":
			return true
		case len(f) == 0 || len(t) == 0:
			return len(f) == len(t)
		}
		return (f[0] == "+" || f[0] == t[0]) && match(f[1:], t[1:])
	}
	if strings.HasPrefix(topic, "$") && (filter[0] == '+' || filter[0] == '#') {
		return false
	}
	return match(strings.Split(filter, "/"), strings.Split(topic, "/"))
}

func naiveAllow(rules []Rule, p *mq.Principal, action, topic string) bool {
	for _, r := range rules {
		if a := r.Allow + r.Deny; a != "all" && a != action ||
			r.User != "" && r.User != p.User || r.Client != "" && r.Client != p.ClientID {
			continue
		}
		if naiveMatch(strings.NewReplacer("%c", p.ClientID, "%u", p.User).Replace(r.Topic), topic) {
			return r.Allow != ""
		}
	}
	return len(rules) == 0
}

// A small world: all topics of up to three levels of these texts.
var worldLevels = []string{"a", "b", "", "$x", "dev", "ann"}

var world = func() (topics []string) {
	for _, a := range worldLevels {
		topics = append(topics, a)
		for _, b := range worldLevels {
			topics = append(topics, a+"/"+b)
			for _, c := range worldLevels {
				topics = append(topics, a+"/"+b+"/"+c)
			}
		}
	}
	return slices.DeleteFunc(topics, func(t string) bool { return t == "" })
}()

func drawFilter(t *rapid.T, label string, extra ...string) string {
	level := rapid.SampledFrom(append(append([]string{"+", "+"}, worldLevels...), extra...))
	levels := rapid.SliceOfN(level, 1, 3).Draw(t, label)
	if rapid.IntRange(0, 2).Draw(t, label+" rest") == 0 {
		levels[len(levels)-1] = "#"
	}
	f := strings.Join(levels, "/")
	if f == "" {
		return "+"
	}
	return f
}

func drawRules(t *rapid.T) []Rule {
	action := rapid.SampledFrom([]string{"pub", "sub", "all"})
	n := rapid.IntRange(1, 4).Draw(t, "rules")
	rules := make([]Rule, n)
	for i := range rules {
		label := fmt.Sprintf("rule %d", i)
		rules[i].Topic = drawFilter(t, label, "%c", "%u", "d%u")
		if rapid.Bool().Draw(t, label+" deny") {
			rules[i].Deny = action.Draw(t, label)
		} else {
			rules[i].Allow = action.Draw(t, label)
		}
		rules[i].User = rapid.SampledFrom([]string{"", "", "ann", "ev"}).Draw(t, label+" user")
	}
	return rules
}

func TestRulesAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rules := drawRules(t)
		compiled, err := compileRules(rules)
		if err != nil {
			t.Fatal(err)
		}
		a := withRules(compiled)
		p := &mq.Principal{ClientID: "dev", User: rapid.SampledFrom([]string{"ann", "ev"}).Draw(t, "user")}
		for _, topic := range world {
			want := naiveAllow(rules, p, "pub", topic)
			if got := a.Allow(p, mq.Publish, []byte(topic)); got != want {
				t.Fatalf("pub %q: got %v", topic, got)
			}
		}

		filter := drawFilter(t, "filter")
		granted := a.Grant(p, []byte(filter))
		for _, topic := range world {
			allowed := naiveAllow(rules, p, "sub", topic)
			if granted == mq.GrantAll && naiveMatch(filter, topic) && !allowed {
				t.Fatalf("sub %q was granted, but %q is denied", filter, topic)
			}
			if got := a.Allow(p, mq.Subscribe, []byte(topic)); got != allowed {
				t.Fatalf("delivery of %q: got %v", topic, got)
			}
		}
	})
}

// Single rules say exactly what the model says: an allow rule grants a filter
// if it allows all of its topics, a deny rule refuses it if it denies any.
func TestCoverAndOverlapAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &mq.Principal{ClientID: "dev", User: "ann"}
		topic, filter := drawFilter(t, "rule", "%c", "%u"), drawFilter(t, "filter")
		var allow, deny rule
		if allow.compile(&Rule{Allow: "sub", Topic: topic}) != nil || deny.compile(&Rule{Deny: "sub", Topic: topic}) != nil {
			t.Fatal("no rule")
		}
		filled := strings.NewReplacer("%c", "dev", "%u", "ann").Replace(topic)
		all, anyOne, some := true, false, false
		// Levels that occur in no filter, and one level more than any has,
		// make the world large enough for wildcards. The empty topic name
		// cannot be, but it is not worth a case in the code that "+" and "/#"
		// could meet there.
		for _, base := range append(world, "", "q", "q/q", "a/q", "q/a", "q/q/q", "a/q/q", "a/a/q", "q/b/q", "b/q/q", "q/q/b", "q/q/a", "q/a/q",
			"dev/q", "ann/q", "q/dev", "q/ann", "$x/q", "$x/q/q", "/q", "/q/q", "//q", "q/", "q//", "q//q", "a//q") {
			for _, topic := range []string{base, base + "/q", base + "/q/q"} {
				if !naiveMatch(filter, topic) {
					continue
				}
				some = true
				if naiveMatch(filled, topic) {
					anyOne = true
				} else {
					all = false
				}
			}
		}
		if !some {
			t.Fatalf("the world is too small for %q", filter)
		}
		if got := allow.mayMatch([]byte(filter)) && allow.covers(p, []byte(filter)); got != all {
			t.Errorf("%q covers %q: got %v, want %v", topic, filter, got, all)
		}
		if got := deny.mayMatch([]byte(filter)) && deny.overlaps(p, []byte(filter)); got != anyOne {
			t.Errorf("%q overlaps %q: got %v, want %v", topic, filter, got, anyOne)
		}
	})
}

func hotRules() ([]Rule, *mq.Principal) {
	return []Rule{
		{Deny: "all", Topic: "admin/#"},
		{Allow: "all", Topic: "parent/u/%u/#"},
		{Allow: "all", Topic: "parent/x-%c-%u/+/y"},
		{Allow: "pub", Topic: "%c/#", User: "somebody-else"},
		{Allow: "pub", Topic: "parent/p2p/+"},
	}, &mq.Principal{ClientID: "GID_group@@@device-0001", User: "alice"}
}

func TestAllowDoesNotAllocate(t *testing.T) {
	rules, p := hotRules()
	a := newAuth(t, Options{Rules: rules, Topics: []string{"parent", "other"}})
	for _, topic := range []string{"parent/p2p/GID_group@@@device-0002", "parent/u/alice/x", "parent/x-GID_group@@@device-0001-alice/z/y"} {
		name := []byte(topic)
		if n := testing.AllocsPerRun(100, func() {
			if !a.Allow(p, mq.Publish, name) {
				t.Fatal("refused")
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", topic, n)
		}
	}
}

// withRules is an open server with rules.
func withRules(rules []rule) *Auth {
	a := &Auth{}
	a.policy.Store(&policy{open: true, rules: rules, anyone: &mq.Principal{Standing: new(mq.Standing)}})
	return a
}

func BenchmarkAllow(b *testing.B) {
	rules, p := hotRules()
	compiled, err := compileRules(rules)
	if err != nil {
		b.Fatal(err)
	}
	a := withRules(compiled)
	p.Standing = a.policy.Load().anyone.Standing // as of a login
	topic := []byte("parent/p2p/GID_group@@@device-0002")
	b.ReportAllocs()
	for b.Loop() {
		if !a.Allow(p, mq.Publish, topic) {
			b.Fatal("refused")
		}
	}
}
