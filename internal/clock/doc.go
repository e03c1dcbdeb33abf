// Package clock is the server's time: what deadlines, expiries, put times and
// the retention are measured in.
//
// It is in Unix milliseconds and is the wall clock's time as long as that is
// sane, but it advances with the monotonic clock. A wall clock that is a few
// minutes off is followed, at double or half speed. A larger difference is a
// jump, of a board without battery whose clock NTP has set, or of an operator's
// mistake: it is not followed, so what is stored keeps the time that it has
// left. The difference (the offset) is remembered instead, also over restarts.
//
// What cannot be known is decided so that nothing ends early: see Resume, and
// docs/adr/010-time-of-the-server.md.
//
// The package knows no file; who has one gives and takes a State. It is not for
// what wants the time of day: logs, certificates, signatures.
package clock
