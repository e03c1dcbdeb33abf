package config

import "time"

// Config is all settings. The tags of a field say:
//
//	key      its name in the file; nested structs are sections
//	doc      its comment in the output of `homing config`
//	enum     the allowed values
//	min, max the bounds, in the form of the value
//	example  lines that show how to fill an empty list
//	single   a list of texts may be given as one text
//	live     a change counts when the file is read again, without a restart
//	secret   is not shown
type Config struct {
	Data     string   `key:"data" doc:"directory of the stored messages and sessions"`
	Topics   []string `key:"topics" doc:"parent topics that may be used; empty: any" example:"[orders, devices]" live:"yes"`
	ClientID string   `key:"client-id" enum:"any,group" doc:"which client IDs may connect; group: those like GID_group@@@device" live:"yes"`
	Listen   Listen   `key:"listen" doc:"Addresses to listen on, HOST:PORT. Without a host: all interfaces. \"\": off."`
	TLS      TLS      `key:"tls" doc:"For mqtts, wss and RocketMQ clients that use TLS; RocketMQ does without: it makes a certificate of its own at each start."`
	Auth     Auth     `key:"auth" doc:"Who may connect, and do what. Nothing configured: anybody, on loopback addresses only."`
	P2P      P2P      `key:"p2p" doc:"Messages to one client."`
	MQTT     MQTT     `key:"mqtt" doc:"What the standard leaves to a server."`
	RocketMQ RocketMQ `key:"rocketmq" doc:"For back-ends that send with a RocketMQ SDK; see docs/rocketmq.md."`
	Store    Store    `key:"store" doc:"What is kept on disk."`
	Limits   Limits   `key:"limits" doc:"Bounds on what clients may use."`
	Sys      Sys      `key:"sys" doc:"Statistics as messages on $SYS/broker/...; reading them needs a rule that names $SYS."`
	Log      Log      `key:"log" doc:"The server's own log, on standard error."`
}

// Listen is where the server listens.
type Listen struct {
	MQTT         string `key:"mqtt" doc:"MQTT over TCP"`
	MQTTS        string `key:"mqtts" doc:"MQTT over TLS, commonly :8883"`
	WS           string `key:"ws" doc:"MQTT over WebSocket, path /mqtt"`
	WSS          string `key:"wss" doc:"MQTT over secure WebSocket, commonly :8084"`
	RocketMQ     string `key:"rocketmq" doc:"RocketMQ 4.x and 5.x SDKs (remoting), as name server and broker; with TLS and without"`
	RocketMQGRPC string `key:"rocketmq-grpc" doc:"RocketMQ 5.x SDKs (gRPC), with TLS and without"`
	HTTP         string `key:"http" doc:"HTTP: /metrics, /healthz, /readyz"`

	WSOrigins     []string `key:"ws-origins" doc:"web sites whose pages may use ws and wss, besides loopback and same-origin ones; \"*\": any. Empty: any if a login is needed" example:"[\"https://app.example.com\", \"https://*.example.com\"]" live:"yes"`
	Hosts         []string `key:"hosts" doc:"names by which http, and ws and wss while no login is needed, may be asked, besides localhost and IPs; \"*\": any" example:"[mq.example.com]" live:"yes"`
	ProxyProtocol []string `key:"proxy-protocol" doc:"addresses of load balancers whose connections, on all listeners, begin with a PROXY protocol header (v1 or v2)" example:"[10.0.0.0/8]"`
}

// TLS is the server's certificate.
type TLS struct {
	Cert string `key:"cert" doc:"file with the certificate chain, PEM" live:"yes"`
	Key  string `key:"key" doc:"file with its private key, PEM" live:"yes"`
	RSA  bool   `key:"rsa-key-exchange" doc:"also TLS 1.2 with RSA key exchange, for old modems; without forward secrecy"`
}

// Auth is who may connect and do what.
type Auth struct {
	Anonymous    bool        `key:"anonymous" doc:"let clients in without a user name" live:"yes"`
	AccessKeys   []AccessKey `key:"access-keys" doc:"for signature logins and RocketMQ senders" example:"- key: AK\n  secret: XXXXX            # or ${VARIABLE} of the environment; or secret-file: PATH" live:"yes"`
	ClientID     []string    `key:"client-id" doc:"a user's client ID must match one of these; %u: user name, * at the end: any rest; empty: any" single:"ok" example:"[\"%u\", \"%u@*\"]" live:"yes"`
	SessionOwner string      `key:"session-owner" enum:"strict,clean,any" doc:"a client whose ID belongs to another login is refused, or gets a clean session, or all there is" live:"yes"`
	UsersFile    string      `key:"users-file" doc:"written by homing passwd; read again when it changes; \"\": none" live:"yes"`
	HideRefusals bool        `key:"hide-refusals" doc:"answer an MQTT 5 PUBLISH or SUBSCRIBE that no rule allows with 0x80 (failed), not 0x87 (not authorized)" live:"yes"`
	Rules        []Rule      `key:"rules" doc:"first match wins, no match: denied; no rules: all is allowed, but subscribing to $SYS" example:"- deny: pub              # or allow; pub, sub or all\n  topic: secret/#        # a topic filter; %c is the client ID, %u the user name\n- allow: all\n  topic: \"#\"\n  user: backend          # only for this user; also client, access-key" live:"yes"`
}

// AccessKey is one key of signature log-ins.
type AccessKey struct {
	Key    string `key:"key" doc:"the access key"`
	Secret string `key:"secret" doc:"its secret" secret:"yes"`
	// SecretFile is given in place of Secret, which is then what the file has.
	SecretFile string `key:"secret-file" doc:"file with its secret; relative to the configuration file"`
}

// Rule allows or denies something; see package auth.
type Rule struct {
	Allow     string `key:"allow" enum:"pub,sub,all" doc:"what the rule allows"`
	Deny      string `key:"deny" enum:"pub,sub,all" doc:"what the rule denies"`
	Topic     string `key:"topic" doc:"topic filter with %c and %u"`
	User      string `key:"user" doc:"only for this user name"`
	Client    string `key:"client" doc:"only for this client ID"`
	AccessKey string `key:"access-key" doc:"only for this access key"`
}

// P2P is about messages to one client.
type P2P struct {
	Keep        string        `key:"keep" enum:"either,sender,target,always,never" doc:"who decides that a message waits for an offline target"`
	Retention   time.Duration `key:"retention" min:"0s" doc:"how long a message waits at most; 0s: for ever"`
	InboxLimit  int           `key:"inbox-limit" min:"0" doc:"messages waiting for one client; 0: no limit"`
	InboxBytes  Size          `key:"inbox-bytes" min:"0" doc:"bytes waiting for one client; 0: no limit"`
	InboxPolicy string        `key:"inbox-policy" enum:"drop-oldest,reject" doc:"what a full inbox does"`
	StoreAfter  time.Duration `key:"store-after" min:"0s" max:"10s" doc:"wait for an online target's acknowledgement before writing"`
}

// MQTT is what the standard leaves to a server.
type MQTT struct {
	ResponseTopic string `key:"response-topic" doc:"response information for MQTT 5 clients: where they get answers unsubscribed; %c: client ID; \"\": none"`
	StrictUTF8    bool   `key:"strict-utf8" doc:"refuse control and non-characters in topics (also of RocketMQ senders), filters, client IDs and user names as malformed"`
}

// RocketMQ is about the senders that use a RocketMQ SDK.
type RocketMQ struct {
	Advertise     string        `key:"advertise" doc:"HOST:PORT that remoting clients are told to send to; \"\": the address they have asked"`
	AdvertiseGRPC string        `key:"advertise-grpc" doc:"the same for gRPC clients"`
	VIPChannel    bool          `key:"vip-channel" doc:"listen also on the port two below listen.rocketmq, which old SDKs send to"`
	KeepNamespace bool          `key:"keep-namespace" doc:"a namespace (\"MQ_INST_x%\") is part of the parent topic, not left away"`
	MaxDelay      time.Duration `key:"max-delay" min:"0s" doc:"longest delay of a message; 0s: no limit"`
	InflateRate   Size          `key:"inflate-rate" min:"0" doc:"bytes a second that compressed bodies of one access key or address may become, over 16 times what came; 0: no limit"`
	IdleTimeout   time.Duration `key:"idle-timeout" min:"1s" doc:"a client that sends nothing for so long is disconnected; SDKs send a heartbeat every 30s"`
}

// Store is about the disk.
type Store struct {
	Sync         string        `key:"sync" enum:"always,interval,os" doc:"when to force writes to disk: before acknowledging, every sync-interval, when the system does"`
	SyncInterval time.Duration `key:"sync-interval" min:"1ms" max:"1m" doc:"for sync: interval"`
	DiskLimit    Size          `key:"disk-limit" min:"0" doc:"bytes on disk; 0: stop when the file system is 95 % full"`
}

// Limits bound what clients may use.
type Limits struct {
	PacketSize            Size          `key:"packet-size" min:"1KiB" max:"256MiB" doc:"largest MQTT packet, of CONNECT 640KiB; a RocketMQ message counts as the PUBLISH that it becomes"`
	TopicLength           int           `key:"topic-length" min:"1" max:"65535" doc:"longest topic name in bytes"`
	Inflight              int           `key:"inflight" min:"1" max:"65535" doc:"unacknowledged messages to a 3.1 or 3.1.1 client"`
	ReceiveMaximum        int           `key:"receive-maximum" min:"1" max:"65535" doc:"unacknowledged messages from an MQTT 5 client, and sends under way of a RocketMQ connection"`
	Connections           int           `key:"connections" min:"0" doc:"open at a time, of MQTT, of each RocketMQ protocol and HTTP; 0: as many as file descriptors allow"`
	ConnectionsPerAddress int           `key:"connections-per-address" min:"0" doc:"the same from one address; 0: no limit"`
	ConnectTimeout        time.Duration `key:"connect-timeout" min:"100ms" max:"10m" doc:"from the TCP connection to the accepted CONNECT, and for one RocketMQ or HTTP request to arrive"`
	FailedLogins          int           `key:"failed-logins" min:"0" doc:"with a wrong password, per minute, user and address (IPv6: /64), then refused; 10 times as many of all users; 0: no limit" live:"yes"`
	Inboxes               int           `key:"inboxes" min:"0" doc:"clients and shared subscriptions with messages waiting; 0: no limit. About 150 bytes of memory each, besides the name"`
	InboxNameBytes        Size          `key:"inbox-name-bytes" min:"0" doc:"of the names of these, which are in memory; 0: no limit"`
	Share                 int           `key:"share" min:"1" max:"100" doc:"percent of each limit on all clients that one user, access key, or client without a login may take"`
	Delayed               int           `key:"delayed" min:"0" doc:"messages that wait for their delivery time; 0: no limit"`
	DelayedBytes          Size          `key:"delayed-bytes" min:"0" doc:"of these, on disk; 0: no limit"`
	Retained              int           `key:"retained" min:"0" doc:"retained messages; 0: no limit"`
	RetainedBytes         Size          `key:"retained-bytes" min:"0" doc:"of these, on disk, and of their topic names, in memory; 0: no limit"`
	Wills                 int           `key:"wills" min:"0" doc:"wills of connected clients and of sessions; 0: no limit"`
	WillBytes             Size          `key:"will-bytes" min:"0" doc:"of these, in memory while the client is connected; 0: no limit"`
	Subscriptions         int           `key:"subscriptions" min:"0" doc:"of one client; 0: no limit"`
	SubscriptionBytes     Size          `key:"subscription-bytes" min:"0" max:"1GiB" doc:"of the topic filters of one client; 0: no limit"`
	SubscriptionBytesAll  Size          `key:"subscription-bytes-total" min:"0" doc:"and of all clients"`
	MatchSteps            int           `key:"match-steps" min:"0" doc:"most work to find the subscribers of a message; filters of over 10 levels with + are refused; 0: no limit"`
	MatchStepsClient      int           `key:"match-steps-client" min:"0" doc:"among the filters of one client"`
	KeepAlive             time.Duration `key:"keep-alive" min:"0s" max:"65535s" doc:"longest keep alive of an MQTT 5 client; older clients cannot be told, and keep theirs; 0s: no limit"`
	QoS                   int           `key:"qos" min:"0" max:"2" doc:"highest QoS of a publish, will or subscription"`
	SessionExpiry         time.Duration `key:"session-expiry" min:"0s" doc:"longest life of an offline session; 0s: no limit"`
	PendingBytes          Size          `key:"pending-bytes" min:"64KiB" doc:"messages in memory for one client"`
	PendingBytesTotal     Size          `key:"pending-bytes-total" min:"64KiB" doc:"messages in memory for all clients, and packets and requests that have arrived in part"`
	Outbox                Size          `key:"outbox" min:"16KiB" doc:"output waiting for one slow connection"`
}

// Sys is about the server's statistics as messages.
type Sys struct {
	Interval time.Duration `key:"interval" min:"0s" doc:"how often they are published; 0s: never"`
}

// Log is about the server's own log.
type Log struct {
	Level  string `key:"level" enum:"debug,info,warn,error" doc:"least level that is logged" live:"yes"`
	Format string `key:"format" enum:"auto,text,json" doc:"auto is text on a terminal, json otherwise"`
}

// Default returns the settings of a server that is told nothing.
func Default() *Config {
	return &Config{
		Listen:   Listen{MQTT: "127.0.0.1:1883", WS: "127.0.0.1:8083", RocketMQ: "127.0.0.1:9876", RocketMQGRPC: "127.0.0.1:8081", HTTP: "127.0.0.1:9090"},
		Data:     "./data",
		Auth:     Auth{SessionOwner: "strict", UsersFile: "users.yml"},
		ClientID: "any",
		P2P: P2P{
			Keep:        "either",
			Retention:   72 * time.Hour,
			InboxLimit:  10000,
			InboxBytes:  64 << 20,
			InboxPolicy: "drop-oldest",
			StoreAfter:  20 * time.Millisecond,
		},
		MQTT:     MQTT{ResponseTopic: "response/p2p/%c"},
		RocketMQ: RocketMQ{MaxDelay: 40 * 24 * time.Hour, InflateRate: 16 << 20, IdleTimeout: 2 * time.Minute},
		Store:    Store{Sync: "always", SyncInterval: 100 * time.Millisecond},
		Limits: Limits{
			PacketSize:        4 << 20,
			TopicLength:       65535,
			Inflight:          1000,
			ReceiveMaximum:    1000,
			ConnectTimeout:    10 * time.Second,
			Inboxes:           2_000_000,
			InboxNameBytes:    128 << 20,
			Share:             75,
			Delayed:           1_000_000,
			DelayedBytes:      1 << 30,
			Retained:          1_000_000,
			RetainedBytes:     256 << 20,
			Wills:             2_000_000,
			WillBytes:         512 << 20,
			Subscriptions:     10_000,
			SubscriptionBytes: 8 << 20,
			MatchSteps:        16384,
			MatchStepsClient:  2048,
			QoS:               2,
			FailedLogins:      60,
			PendingBytes:      8 << 20,
			PendingBytesTotal: 256 << 20,
			Outbox:            1 << 20,

			SubscriptionBytesAll: 1 << 30,
		},
		Log: Log{Level: "info", Format: "auto"},
	}
}

// UsersFileIsDefault reports whether nobody has named a users file: the one
// with the default name need not exist.
func (c *Config) UsersFileIsDefault() bool { return c.Auth.UsersFile == Default().Auth.UsersFile }
