package rocketmq

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

// referenceSign signs with crypto/hmac, all fields but those named.
func referenceSign(secret []byte, ext Fields, body []byte, without ...string) string {
	sorted := slices.Clone(ext)
	slices.SortFunc(sorted, func(a, b Field) int { return cmp.Compare(string(a.Key), string(b.Key)) })
	h := hmac.New(sha1.New, secret)
	for _, f := range sorted {
		if string(f.Key) != KeySignature && !slices.Contains(without, string(f.Key)) {
			h.Write(f.Value)
		}
	}
	h.Write(body)
	return base64.StdEncoding.EncodeToString(h.Sum(nil))
}

func signed(ext Fields, signature string) Fields {
	return append(slices.Clone(ext), Field{[]byte(KeySignature), []byte(signature)})
}

func TestSign(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var c Command
		key := rapid.OneOf(rapid.StringN(0, 20, -1), rapid.SampledFrom([]string{KeyAccessKey, KeySecurityToken, KeySignature, "longprefix1", "longprefix2", "longpref"}))
		for range rapid.IntRange(0, 25).Draw(t, "fields") {
			c.set([]byte(key.Draw(t, "key")), []byte(rapid.String().Draw(t, "value")))
		}
		secret := rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "secret")
		body := rapid.SliceOf(rapid.Byte()).Draw(t, "body")
		before := slices.Clone(c.Ext)
		want := referenceSign(secret, c.Ext, body)
		if got := Sign(secret, c.Ext, body); got != want {
			t.Fatalf("%s, want %s", got, want)
		}
		c.set([]byte(KeySignature), []byte(want))
		if !Verify(secret, c.Ext, body) {
			t.Fatal("own signature refused")
		}
		c.set([]byte(KeySignature), []byte(want[:27]+"!"))
		if Verify(secret, c.Ext, body) {
			t.Fatal("wrong signature taken")
		}
		for i, f := range before {
			if !bytes.Equal(c.Ext[i].Key, f.Key) {
				t.Fatal("fields in another order")
			}
		}
	})
}

func TestSignLongSecret(t *testing.T) {
	ext := fieldsOf("b", "1", "a", "2")
	for n := range 200 {
		secret := bytes.Repeat([]byte("s"), n)
		if Sign(secret, ext, nil) != referenceSign(secret, ext, nil) {
			t.Errorf("a secret of %d bytes", n)
		}
	}
}

func TestSignVariants(t *testing.T) {
	secret, body := []byte("secret"), []byte("body")
	ext := fieldsOf("b", "1", KeySecurityToken, "token", keyUniqueQuery, "true", KeyAccessKey, "AK", "a", "2")
	for _, without := range [][]string{{}, {KeySecurityToken}, {keyUniqueQuery}, {KeySecurityToken, keyUniqueQuery}} {
		if !Verify(secret, signed(ext, referenceSign(secret, ext, body, without...)), body) {
			t.Errorf("without %q refused", without)
		}
	}
	for _, without := range []string{KeyAccessKey, "a", "b"} {
		if Verify(secret, signed(ext, referenceSign(secret, ext, body, without)), body) {
			t.Errorf("without %s taken", without)
		}
	}
	if Verify(secret, ext, body) || Verify(secret, signed(ext, ""), body) || Verify(secret, signed(ext, referenceSign(nil, ext, body)), body) {
		t.Error("missing, empty or wrongly keyed signature taken")
	}
}

func TestSignConcurrently(t *testing.T) {
	var all sync.WaitGroup
	for n := range 8 {
		ext := fieldsOf("b", "1", "a", string(rune('a'+n)))
		want := referenceSign([]byte("s"), ext, []byte("b"))
		all.Go(func() {
			for range 200 {
				if Sign([]byte("s"), ext, []byte("b")) != want {
					t.Error("wrong signature")
				}
			}
		})
	}
	all.Wait()
}
