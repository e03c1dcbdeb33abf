// Package rocketmqserver is the gateway for RocketMQ producers: a back-end's
// RocketMQ SDK sends to the parent topic, with the property mqttSecondTopic, and
// devices get MQTT messages (contract sections 2 and 8, docs/rocketmq.md). There
// is no RocketMQ behind it.
//
// Two protocols lead to the same core, broker.Publish:
//
//   - remoting, of the 4.x and 5.x SDKs (rocketmq-client, ons-client,
//     rocketmq-client-go): one listener is name server and broker at once. One
//     reader goroutine per connection, and one writer: replies are appended by
//     whoever learns the outcome, a target's acknowledgement mostly, and written
//     together.
//   - gRPC, of the 5.x SDKs (rocketmq-clients). Files named grpc*.go.
//
// Both take TLS and plaintext on the same port: the first byte tells.
//
// message.go makes MQTT messages of a RocketMQ message, outcome.go answers of
// outcomes; they are shared. What a send means, when it is answered and with
// which code is decided there.
//
// Every request is authenticated for itself, as RocketMQ has no login
// (mq.RequestAuthenticator). Requests that only ask for addresses, or say that a
// client is there, need no signature, as with RocketMQ's own name servers; sends
// do.
//
// Consumers are not served: devices receive by MQTT. Their requests get an
// answer that says so.
package rocketmqserver
