package auth

import (
	"fmt"
	"strings"

	"github.com/homing-mq/homing/internal/mq"
)

// idPattern says which client IDs a user may have. The user name stands between
// its parts, as it is: a * or % in the name is no pattern.
type idPattern struct {
	parts []string // at least one; the name is between each two
	open  bool     // ends in *: anything may follow
}

// compilePatterns reads patterns as Options.UserClientIDs describes them.
func compilePatterns(texts []string) ([]idPattern, error) {
	var list []idPattern
	for _, text := range texts {
		var p idPattern
		rest, open := strings.CutSuffix(text, "*")
		p.open = open
		part := ""
		for rest != "" {
			before, after, found := strings.Cut(rest, "%")
			if part += before; !found {
				break
			}
			switch {
			case strings.HasPrefix(after, "u"):
				p.parts, part = append(p.parts, part), ""
			case strings.HasPrefix(after, "%"):
				part += "%"
			default:
				return nil, fmt.Errorf("auth.client-id: %q has a %% that means nothing; %%u is the user name, %%%% a percent sign", text)
			}
			rest = after[1:]
		}
		p.parts = append(p.parts, part)
		switch {
		case text == "":
			return nil, fmt.Errorf("auth.client-id: an empty pattern matches no client ID; remove it")
		case strings.Contains(strings.Join(p.parts, ""), "*"):
			return nil, fmt.Errorf("auth.client-id: %q has a * before its end; it stands for any rest", text)
		}
		list = append(list, p)
	}
	return list, nil
}

// matches does not allocate.
func (p *idPattern) matches(id, user string) bool {
	for i, part := range p.parts {
		if i > 0 {
			if !strings.HasPrefix(id, user) {
				return false
			}
			id = id[len(user):]
		}
		if !strings.HasPrefix(id, part) {
			return false
		}
		id = id[len(part):]
	}
	return p.open || id == ""
}

// checkUserClientID refuses a user whose client ID matches none of the patterns.
// It comes after the password was found right, so that it tells strangers nothing.
// A client ID that the server has chosen is let in: it was nobody's before. So are
// access keys: each of their passwords is good for one client ID.
func (p *policy) checkUserClientID(who *mq.Principal, assigned bool) *mq.Error {
	if len(p.userClientIDs) == 0 || who.Kind != mq.KindUser || assigned {
		return nil
	}
	for i := range p.userClientIDs {
		if p.userClientIDs[i].matches(who.ClientID, who.User) {
			return nil
		}
	}
	return mq.Errorf(mq.BadClientID, "this user may not use this client ID; auth.client-id of the server says which")
}
