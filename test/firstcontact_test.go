package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// shell runs a command line in the root of the project, in a process group of
// its own.
func shell(t testing.TB, line string, env ...string) *process {
	t.Helper()
	cmd := exec.Command("sh", "-c", line)
	cmd.Dir = ".."
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	for _, e := range environ(env...) {
		if !strings.HasPrefix(e, "MAKE") { // `make test` runs this
			cmd.Env = append(cmd.Env, e)
		}
	}
	return start(t, cmd)
}

// readmeLines returns the lines of the README that contain text.
func readmeLines(t *testing.T, text string) (list []string) {
	t.Helper()
	data, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, text) {
			line, _, _ = strings.Cut(line, "  #")
			list = append(list, strings.TrimSpace(line))
		}
	}
	return list
}

// TestFirstContact does what a newcomer does: `make run`, the two lines that it
// prints, and the two that need no homing program.
func TestFirstContact(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("slow: builds the program")
	}
	data := filepath.Join(tempDir(t), "data")
	// Another server may have the usual ports.
	p := shell(t, "make run", "HOMING_LISTEN_MQTT=127.0.0.1:0", "HOMING_LISTEN_WS=127.0.0.1:0", "HOMING_LISTEN_HTTP=127.0.0.1:0", "HOMING_DATA="+data)
	listen := strings.TrimSpace(p.line("  bin/homing listen "))
	send := strings.TrimSpace(p.line("  bin/homing send "))
	for transport, scheme := range map[string]string{"mqtt": "tcp://", "ws": "ws://", "http": "http://"} {
		if !regexp.MustCompile(`(?m)^ *` + transport + ` +` + scheme + `127\.0\.0\.1:\d+`).MatchString(p.tail()) {
			t.Errorf("the address of %s is not printed:\n%s", transport, p.tail())
		}
	}
	server := regexp.MustCompile(` --server tcp://127\.0\.0\.1:(\d+)`)
	port := server.FindStringSubmatch(listen)
	if port == nil {
		t.Fatalf("no address in %s", listen)
	}
	for _, line := range []string{listen, send} {
		if plain := server.ReplaceAllString(line, ""); len(readmeLines(t, plain)) != 1 {
			t.Errorf("the README does not have %q", plain)
		}
	}

	listener := shell(t, listen)
	listener.line("connected")
	if s := shell(t, send); s.wait() != 0 {
		t.Errorf("%s:\n%s", send, s.tail())
	}
	listener.line("hello")
	listener.stop()

	mosquitto(t, port[1])
	if code := p.stop(); code != 0 && code != 2 && code != -1 { // of make
		t.Errorf("exit code %d\n%s", code, p.tail())
	}
	if _, err := os.Stat(data); err != nil {
		t.Error(err)
	}
}

// mosquitto runs the README's lines for mosquitto, with the port added.
func mosquitto(t *testing.T, port string) {
	if missing := mosquittoMissing(); missing != "" {
		t.Logf("not installed: %s", missing)
		return
	}
	var commands []string
	for _, name := range []string{"mosquitto_sub", "mosquitto_pub"} {
		lines := readmeLines(t, name)
		if len(lines) != 1 {
			t.Fatalf("the README has %d lines with %s", len(lines), name)
		}
		commands = append(commands, strings.Replace(strings.TrimSuffix(lines[0], " &"), name, name+" -p "+port, 1))
	}
	sub := shell(t, commands[0])
	for end := time.Now().Add(patience); !strings.Contains(sub.tail(), "orders/p2p/dev2 hello"); {
		if time.Now().After(end) {
			t.Fatalf("%s shows nothing", commands[0])
		}
		if pub := shell(t, commands[1]); pub.wait() != 0 { // before the device is connected, it is not kept
			t.Fatalf("%s:\n%s", commands[1], pub.tail())
		}
	}
	sub.stop()
}
