// Package mq holds the words of homing: what a message is, what a topic name
// means, what can go wrong, and the small interfaces between the core and its
// surroundings.
//
// It knows no protocol, disk or socket and imports the standard library only.
// Every other package may import it; it imports none of them.
package mq
