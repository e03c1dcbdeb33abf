package test

import (
	"slices"
	"strconv"
	"strings"
)

// match compares what came with what is expected, and returns the variables
// that so get a value. See type scenario for the rules.
func match(packet string, want, got []word, vars map[string]string) (map[string]string, bool) {
	found := map[string]string{}
	isCode := func(w word) bool { return w.key == "code" }
	isUser := func(w word) bool { return strings.HasPrefix(w.key, "user:") }
	for _, ordered := range []func(word) bool{isCode, isUser} {
		w, g := filter(want, ordered), filter(got, ordered)
		if len(w) == 0 {
			continue
		}
		if !slices.EqualFunc(w, g, func(w, g word) bool { return matchWord(w, g, vars, found) }) {
			return nil, false
		}
		got = slices.DeleteFunc(slices.Clone(got), ordered)
	}
	for _, w := range want {
		key, not := strings.CutPrefix(w.key, "-")
		switch i := slices.IndexFunc(got, func(g word) bool { return matchWord(w, g, vars, found) }); {
		case isCode(w), isUser(w):
		case not:
			if slices.ContainsFunc(got, func(g word) bool { return g.key == key }) {
				return nil, false
			}
		case i >= 0:
			got = slices.Concat(got[:i], got[i+1:])
		case !strings.HasPrefix(w.key, "maybe-"):
			return nil, false
		}
	}
	return found, !slices.ContainsFunc(got, func(g word) bool { return !optional(packet, g) })
}

func filter(words []word, ok func(word) bool) []word {
	return slices.DeleteFunc(slices.Clone(words), func(w word) bool { return !ok(w) })
}

// matchWord compares one word; found gets the variable that so has a value.
func matchWord(w, g word, vars, found map[string]string) bool {
	want := expand(expand(w.value, vars), found)
	switch w.key {
	case "payload-size":
		n, _ := strconv.Atoi(want)
		return g.key == "payload" && g.value == strings.Repeat("x", n)
	case "maybe-dup", "maybe-retain":
		return g.key == strings.TrimPrefix(w.key, "maybe-")
	case "code":
		return g.key == "code" && slices.Contains(strings.Split(want, "/"), g.value)
	case g.key:
	default:
		return false
	}
	if v := variable.FindString(want); v != "" && v == want {
		found[v[1:len(v)-1]] = g.value
		return true
	}
	if low, high, ok := strings.Cut(want, ".."); ok {
		a, err1 := strconv.Atoi(low)
		b, err2 := strconv.Atoi(high)
		n, err3 := strconv.Atoi(g.value)
		if err1 == nil && err2 == nil {
			return err3 == nil && a <= n && n <= b
		}
	}
	return want == g.value || want == "*"
}

// optional reports whether a word need not be expected.
func optional(packet string, g word) bool {
	switch {
	case g.key == "reason", g.key == "id" && packet == "PUBLISH":
		return true
	case packet == "PUBLISH":
		return false
	case g.key == "code":
		return g.value == "0x00" || g.value == "0x10" && (packet == "PUBACK" || packet == "PUBREC")
	case packet == "CONNACK":
		return g.key != "session-present"
	}
	return strings.HasPrefix(g.key, "user:")
}
