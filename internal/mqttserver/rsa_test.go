package mqttserver

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"testing"
	"time"
)

// TestRSAKeyExchange: modems that know TLS 1.2 with RSA key exchange only get in if
// that is asked for, and others as before; broken suites are never offered.
func TestRSAKeyExchange(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	plain := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	try := func(conf *tls.Config, suite uint16) error {
		client := &tls.Config{InsecureSkipVerify: true} //nolint:gosec // made by the test
		if suite != 0 {
			client.MaxVersion, client.CipherSuites = tls.VersionTLS12, []uint16{suite}
		}
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer a.Close()
			_ = tls.Server(a, conf).Handshake()
		}()
		err := tls.Client(b, client).Handshake()
		b.Close()
		<-done
		return err
	}
	for _, c := range []struct {
		suite     uint16 // 0: what a client of today offers
		with, not bool
	}{
		{0, true, true},
		{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, true, true},
		{tls.TLS_RSA_WITH_AES_128_GCM_SHA256, true, false},
		{tls.TLS_RSA_WITH_AES_256_GCM_SHA384, true, false},
		{tls.TLS_RSA_WITH_AES_128_CBC_SHA, true, false},
		{tls.TLS_RSA_WITH_AES_256_CBC_SHA, true, false},
		{tls.TLS_RSA_WITH_RC4_128_SHA, false, false},
		{tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA, false, false},
	} {
		if err := try(WithRSAKeyExchange(plain), c.suite); (err == nil) != c.with {
			t.Errorf("%s, asked for: %v", tls.CipherSuiteName(c.suite), err)
		}
		if err := try(plain, c.suite); (err == nil) != c.not {
			t.Errorf("%s, not asked for: %v", tls.CipherSuiteName(c.suite), err)
		}
	}
}
