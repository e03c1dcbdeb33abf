// Package mqtt is the codec for MQTT 3.1, 3.1.1 and 5.0: bytes to structs and
// back, for both directions.
//
// Split finds a packet in a read buffer, the packet's Decode method reads its
// body, and Append writes the whole packet. What a single packet can tell by
// itself is checked here: reserved bits, lengths, UTF-8, packet identifiers,
// which properties and reason codes a packet may have, their ranges and
// repetitions. A failed check is an *Error with the MQTT 5 reason code that
// answers it.
//
// What it does not do: sockets, clocks, and everything that needs to know more
// than the one packet. That is left to the caller:
//
//   - the order of packets, and which side may send which packet;
//   - rules that depend on the side: subscription identifiers in a PUBLISH
//     from a client, a server's reason codes and server reference in a
//     client's DISCONNECT, a session expiry in a server's DISCONNECT;
//   - negotiated limits: Receive Maximum, Topic Alias Maximum, Maximum QoS;
//   - the grammar of topic filters, shared subscriptions included, and what a
//     client ID may look like.
//
// # Ownership
//
// Byte slices of a decoded struct alias the body given to Decode and are valid
// as long as that is. Their capacity ends where they end, so appending to one
// never writes into the body. The exception are Publish.Props and
// Properties.User if other properties stood between their parts: they then are
// copied to memory of the struct, and valid until its next Decode.
//
// Decode sets every field, so that one struct can serve packet after packet; its
// memory is reused and it then allocates nothing. After an error, unless it says
// otherwise, the fields mean nothing. A struct that shall outlive its body must
// be copied by its owner.
//
// No length field of the input leads to an allocation. Slices of filters,
// reason codes and subscription identifiers grow by what is really there, which
// for the shortest filters is eight times their bytes.
//
// Append appends to dst and returns it. It trusts its caller: strings must be
// UTF-8 and at most 65 535 bytes (what is longer is cut, so that the frame stays
// whole), and a packet must stay below MaxPacketSize. Fields that a version does
// not have are ignored.
package mqtt
