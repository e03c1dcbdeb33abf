// Package test is the black box test: the real binary, other people's clients,
// kill -9. It knows the contract (docs/p2p.md) and nothing of the code but the
// codec.
//
//	server_test.go      a homing server: start, stop, kill, restart, metrics
//	process_test.go     any program that runs beside the test
//	peer_test.go        an MQTT client that shows every packet
//	interop_test.go     other people's clients, one adapter each in interop_*_test.go
//	interop_sdk_test.go other people's RocketMQ SDKs, drivers in interop/; the rest in interop_sdk_*_test.go
//	kill_test.go        kill -9 at random moments; its senders, targets and ledger in kill_*_test.go
//	stuck_test.go       a target that does not read
//	scenario_*_test.go  scenarios/*.txt: packet traces, each version over TCP, TLS and WebSocket
//	conformance_test.go packet sequences of another project
//	malformed_test.go   what must not be taken, in tables; the rest in malformed_*_test.go
//	fuzz_live_test.go   hostile connections, and witnesses beside them; the rest in fuzz_*_test.go
//
// The other files test one part of the contract each.
//
// The clients that are not Go are installed by clients/install.sh. Where one is
// missing its tests are skipped and say so; with CI=true they fail.
//
// Environment:
//
//	HOMING_TEST_BINARY  test this binary instead of building one
//	HOMING_TEST_RACE    1: build with the race detector
//	HOMING_TEST_SEED    of the random choices of TestKill... and TestFuzzLive
//	HOMING_TORTURE      how long the TestKill... go on, 10m for example: TestKill so long in each sync mode,
//	                    those of disk, descriptors and takeovers so long in all three together
//	HOMING_FUZZ         how long TestFuzzLive loads the server
//	HOMING_FUZZ_REPLAY  a file of connections that it plays instead
//	HOMING_INTEROP      1: run TestInteropSDK (make interop)
//	HOMING_CONFORMANCE  directory that has sequences/*.json; see TestConformance
package test
