package test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/homing-mq/homing/internal/mqtt"
)

// sdkResults has a line for each SDK that TestInteropSDK has come to.
var sdkResults []string

// trial is one SDK against the servers of TestInteropSDK.
type trial struct {
	*sdk
	s       *server  // without login; of this SDK
	guarded *server  // of all SDKs; with access keys, a rule, a certificate and a small limit
	d       *driver  // of s
	who     identity // of d
	passed  int
	skipped []string // what the SDK cannot do
}

// TestInteropSDK: other people's RocketMQ SDKs send to devices (contract
// sections 2, 5 and 8).
func TestInteropSDK(t *testing.T) {
	if os.Getenv("HOMING_INTEROP") == "" {
		t.Skip("slow, and installs RocketMQ SDKs: make interop")
	}
	guarded := guardedServer(t)
	for _, x := range sdks {
		t.Run(x.name, func(t *testing.T) {
			result := "failed"
			defer func() { sdkResults = append(sdkResults, fmt.Sprintf("%-22s %s", x.name, result)) }()
			missing, err := x.install()
			if err != nil {
				t.Fatal(err)
			}
			if missing != "" {
				result = "skipped: " + missing
				if os.Getenv("CI") == "true" {
					t.Fatalf("not installed: %s", missing)
				}
				t.Skip(missing)
			}
			guarded.use(t)
			p := &trial{sdk: x, s: newSDKServer(t), guarded: guarded}
			p.run(t)
			result = fmt.Sprintf("%d passed", p.passed)
			if t.Failed() {
				result += ", others FAILED"
			}
			if p.d != nil {
				result += ", " + p.d.hello.SDK
			}
			if len(p.skipped) > 0 {
				result += "; not in this SDK: " + strings.Join(p.skipped, ", ")
			}
		})
	}
}

// TestInteropSDKResults shows, as the last lines, how TestInteropSDK went with
// each SDK.
func TestInteropSDKResults(t *testing.T) {
	if len(sdkResults) == 0 {
		t.Skip("no SDK was tested: make interop")
	}
	for _, line := range sdkResults {
		t.Log(line)
	}
}

// newSDKServer is a server for one SDK. Its ports stay the same when it is
// restarted.
func newSDKServer(t testing.TB) *server {
	t.Helper()
	s := newServer(t)
	s.addr = map[string]string{"mqtt": "", "http": "", "rocketmq": "", "rocketmq-grpc": ""}
	s.settings = append(s.settings, "listen.ws=")
	s.fixPorts()
	s.start()
	return s
}

const (
	guardedKey, guardedSecret = "AK-interop", "secret of the access key"
	guardedLimit              = 64 << 10
)

// guardedServer is a server that asks for credentials.
func guardedServer(t *testing.T) *server {
	t.Helper()
	s := newServer(t, "tls.cert=cert.pem", "tls.key=key.pem", fmt.Sprintf("limits.packet-size=%d", guardedLimit), "limits.failed-logins=0")
	writeCertificate(t, s.dir, 1)
	s.config = fmt.Sprintf(`
auth:
  access-keys:
    - key: %s
      secret: %s
  rules:
    - deny: pub
      topic: denied/#
    - allow: all
      topic: "#"
`, guardedKey, guardedSecret)
	s.passwd("device", "d")
	s.addr = map[string]string{"mqtt": "127.0.0.1:0", "http": "127.0.0.1:0", "rocketmq": "127.0.0.1:0", "rocketmq-grpc": "127.0.0.1:0"}
	s.settings = append(s.settings, "listen.ws=")
	s.start()
	return s
}

func (p *trial) run(t *testing.T) {
	p.starts(t)
	p.passed++
	for _, step := range []struct {
		name string
		do   func(*testing.T)
	}{
		{"online", p.online},
		{"modes", p.modes},
		{"delay", p.delays},
		{"nobody keeps", p.nobodyKeeps},
		{"targets", p.targets},
		{"properties", p.properties},
		{"ordinary topics", p.ordinary},
		{"large body", p.large},
		{"latency", p.latency},
		{"kill -9", p.killed},
		{"kill -9 while sending", p.killedWhileSending},
		{"restart", p.restarted},
		{"binary headers", p.binaryHeaders},
		{"TLS, own certificate", p.ownCertificate},
		{"credentials", p.credentials},
		{"TLS, configured certificate", p.configuredCertificate},
		// Not right after a restart: rocketmq-client-java then opens a stream once
		// more while it closes, and waits for its end.
		{"close", p.closes},
	} {
		t.Run(step.name, func(t *testing.T) {
			p.s.use(t)
			p.guarded.use(t)
			p.d.use(t)
			step.do(t)
			if !t.Failed() && !t.Skipped() {
				p.passed++
			}
		})
	}
}

// can reports whether the SDK has a mode, and notes it by name if not.
func (p *trial) can(mode string) bool {
	if slices.Contains(p.d.hello.Modes, mode) {
		return true
	}
	p.lacks(mode)
	return false
}

func (p *trial) lacks(what string) {
	if !slices.Contains(p.skipped, what) {
		p.skipped = append(p.skipped, what)
	}
}

// addr is where the SDK finds a server.
func (p *trial) addr(s *server) string { return s.addr[p.transport] }

// code chooses by protocol.
func (p *trial) code(remoting int, grpc ...int) []int {
	if p.transport == "rocketmq" {
		return []int{remoting}
	}
	return grpc
}

// noPermission is code for what an account may not do.
func (p *trial) noPermission(grpc ...int) []int {
	codes := p.code(16, grpc...)
	if p.hides {
		codes = append(codes, 0)
	}
	return codes
}

// to is a property list that names a device as the target.
func to(device string, more ...string) map[string]string {
	list := map[string]string{"mqttSecondTopic": "/p2p/" + device}
	for i := 0; i < len(more); i += 2 {
		list[more[i]] = more[i+1]
	}
	return list
}

// device is an MQTT client of a server, logged in where it must be.
func (p *trial) device(s *server, v mqtt.Version, how ...as) *peer {
	if s == p.guarded {
		how = append(how, login("device", "d"))
	}
	return s.connect(v, p.name+" device", how...)
}
