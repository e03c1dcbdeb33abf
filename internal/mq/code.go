package mq

import "fmt"

// Code says how an operation ended. Each gateway has one table from Code to
// its own wire.
type Code uint8

// The outcomes.
const (
	OK              Code = iota // delivered, or kept (contract section 5)
	NoTarget                    // target offline and the message not kept; or no matching subscriber
	NotAuthorized               // a rule, or the list of parent topics, forbids it
	BadTopic                    // malformed P2P topic
	InboxFull                   // the inbox limit under inbox-policy reject
	StoreFull                   // the disk limit is reached
	StoreFailed                 // the store cannot write or read; see its error
	ShuttingDown                // the server is closing; try elsewhere or later
	BadCredentials              // unknown user or wrong password
	TooManyAttempts             // failed logins from this address are rate-limited
	BadClientID                 // the client ID has not the demanded form
	Malformed                   // the input is not what its protocol says
	TooLarge                    // over a size limit
	Overloaded                  // a bound on memory is reached
	RetainedFull                // the limit on retained messages is reached
	BadPayload                  // not UTF-8, though the payload format indicator says so
	QoSTooHigh                  // over the server's maximum QoS
	DelayedFull                 // the limit on messages that wait for their delivery time
	InboxesFull                 // the limit on inboxes that hold messages, or on their names
	RetainedBytes               // the limit on bytes of retained messages
	DelayedBytes                // the limit on bytes of messages that wait for their delivery time
	WillsFull                   // the limit on wills, or on their bytes
)

var codeText = [...]string{
	OK: "ok", NoTarget: "no target", NotAuthorized: "not authorized", BadTopic: "malformed P2P topic",
	InboxFull: "inbox full", StoreFull: "store full", StoreFailed: "store failed", ShuttingDown: "shutting down",
	BadCredentials: "bad user name or password", TooManyAttempts: "too many failed logins", BadClientID: "client ID not allowed",
	Malformed: "malformed", TooLarge: "too large", Overloaded: "overloaded", RetainedFull: "too many retained messages",
	BadPayload: "payload is not UTF-8", QoSTooHigh: "QoS too high", DelayedFull: "too many delayed messages",
	InboxesFull: "too many inboxes", RetainedBytes: "too many bytes of retained messages",
	DelayedBytes: "too many bytes of delayed messages", WillsFull: "too many wills",
}

func (c Code) String() string {
	if int(c) < len(codeText) {
		return codeText[c]
	}
	return fmt.Sprintf("code %d", uint8(c))
}

// Error is an error that a client may be told: its Code maps to the client's
// protocol, its text is plain English.
type Error struct {
	Code Code
	Text string
	Err  error // the cause, for the log; never sent to a client
}

func (e *Error) Error() string {
	if e.Err != nil {
		return e.Text + ": " + e.Err.Error()
	}
	return e.Text
}

func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error; a %w argument becomes its cause.
func Errorf(code Code, format string, args ...any) *Error {
	e := fmt.Errorf(format, args...)
	u, _ := e.(interface{ Unwrap() error })
	if u != nil {
		return &Error{Code: code, Text: code.String(), Err: e}
	}
	return &Error{Code: code, Text: e.Error()}
}
