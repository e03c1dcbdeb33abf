package auth

import "strings"

// validGroupClientID reports whether id is {group}@@@{device}: the group
// starts with GID_ or GID-, both are made of letters, digits, - and _, and the
// whole is at most 64 characters. (The original also wants groups of at least
// seven characters when they are created; here they are not created.)
func validGroupClientID(id string) bool {
	group, device, ok := strings.Cut(id, "@@@")
	if !ok || len(id) > 64 || device == "" {
		return false
	}
	rest, ok := strings.CutPrefix(group, "GID_")
	if !ok {
		rest, ok = strings.CutPrefix(group, "GID-")
	}
	return ok && rest != "" && isNameText(rest) && isNameText(device)
}

func isNameText(s string) bool {
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}
