package test

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"
)

// scramClient is the client's half of SCRAM-SHA-256 (RFC 5802, RFC 7677),
// without channel binding.
type scramClient struct {
	first     string // client-first-message-bare
	challenge string // the server's last data
}

// answer sets the variable that a value names, if it is one of SCRAM's.
func (c *scramClient) answer(value string, vars map[string]string) {
	name := strings.Trim(value, "{}")
	if user, ok := strings.CutPrefix(name, "scram-first:"); ok {
		c.first = "n=" + user + ",r=" + rand.Text()
		vars[name] = "n,," + c.first
	}
	if password, ok := strings.CutPrefix(name, "scram-final:"); ok {
		vars[name], vars["scram-server"] = c.final(password)
	}
}

// final returns the client's final message and the one the server must send
// then.
func (c *scramClient) final(password string) (client, server string) {
	fields := map[string]string{}
	for part := range strings.SplitSeq(c.challenge, ",") {
		key, value, _ := strings.Cut(part, "=")
		fields[key] = value
	}
	salt, _ := base64.StdEncoding.DecodeString(fields["s"])
	iterations, _ := strconv.Atoi(fields["i"])
	salted, err := pbkdf2.Key(sha256.New, password, salt, max(iterations, 1), sha256.Size)
	if err != nil {
		return err.Error(), ""
	}
	unproved := "c=biws,r=" + fields["r"]
	message := c.first + "," + c.challenge + "," + unproved
	key := sign(salted, "Client Key")
	stored := sha256.Sum256(key)
	for i, b := range sign(stored[:], message) {
		key[i] ^= b
	}
	proof := base64.StdEncoding.EncodeToString(key)
	return unproved + ",p=" + proof, "v=" + base64.StdEncoding.EncodeToString(sign(sign(salted, "Server Key"), message))
}

func sign(key []byte, message string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(message))
	return h.Sum(nil)
}
