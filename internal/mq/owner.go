package mq

import "strconv"

// PrincipalKind says how a principal has shown who it is. The values are stored.
type PrincipalKind uint8

// The kinds.
const (
	// KindNobody is a client of an open server, which asks nobody who it is.
	KindNobody PrincipalKind = iota
	// KindAnonymous has shown nothing to a server that knows others by name. All of
	// them are one and the same.
	KindAnonymous
	KindUser // a user name, by whatever method
	KindKey  // an access key
)

// Owner is whom the session of a client ID, and what waits in its inbox, belongs
// to: a principal, whatever its client ID. The zero value: nobody that is known.
type Owner struct {
	Kind PrincipalKind
	Name string // user name or access key; empty for the other kinds
}

// Owner returns the owner that a principal is; p may be nil.
func (p *Principal) Owner() Owner {
	switch {
	case p == nil:
	case p.Kind == KindUser:
		return Owner{KindUser, p.User}
	case p.Kind == KindKey:
		return Owner{KindKey, p.AccessKey}
	case p.Kind == KindAnonymous:
		return Owner{Kind: KindAnonymous}
	}
	return Owner{}
}

// Valid reports whether o can be an owner that is known.
func (o Owner) Valid() bool {
	switch o.Kind {
	case KindAnonymous:
		return o.Name == ""
	case KindUser, KindKey:
		return o.Name != ""
	}
	return false
}

// String names the owner for a log line.
func (o Owner) String() string {
	switch o.Kind {
	case KindAnonymous:
		return "anonymous"
	case KindUser:
		return "user " + strconv.Quote(o.Name)
	case KindKey:
		return "access key " + strconv.Quote(o.Name)
	}
	return "nobody"
}
