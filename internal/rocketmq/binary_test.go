package rocketmq

import (
	"errors"
	"testing"
)

func TestBinaryHeader(t *testing.T) {
	const start = "\x01\x36\x0C\x01\xDF\x00\x00\x00\x05\x00\x00\x00\x02"
	valid := start + "\x00\x00\x00\x02hm" + "\x00\x00\x00\x1A" + "\x00\x01a\x00\x00\x00\x01x" + "\x00\x00\x00\x00\x00\x00" + "\x00\x01a\x00\x00\x00\x05yyyyy"
	var c Command
	if err := c.Decode(Binary, []byte(valid)); err != nil {
		t.Fatal(err)
	}
	if c.Code != 310 || c.Language != LanguageRust || c.Version != 479 || c.Opaque != 5 || !c.IsOneway() || c.IsResponse() || string(c.Remark) != "hm" ||
		len(c.Ext) != 2 || string(c.Ext.Get("a")) != "yyyyy" || c.Ext.Get("") == nil {
		t.Errorf("%+v", c)
	}
	for n := range valid {
		if err := c.Decode(Binary, []byte(valid[:n])); !errors.Is(err, ErrMalformed) {
			t.Errorf("%d of %d bytes: %v", n, len(valid), err)
		}
	}
	for name, header := range map[string]string{
		"negative remark":       start + "\xFF\xFF\xFF\xFF\x00\x00\x00\x00",
		"remark too long":       start + "\x00\x00\x00\x05\x00\x00\x00\x00",
		"negative fields":       start + "\x00\x00\x00\x00\xFF\xFF\xFF\xFF",
		"something behind":      valid + "x",
		"negative key length":   start + "\x00\x00\x00\x00\x00\x00\x00\x07" + "\xFF\xFFa\x00\x00\x00\x00",
		"negative value length": start + "\x00\x00\x00\x00\x00\x00\x00\x07" + "\x00\x01a\xFF\xFF\xFF\xFF",
		"value too long":        start + "\x00\x00\x00\x00\x00\x00\x00\x07" + "\x00\x01a\x00\x00\x00\x01",
	} {
		if err := c.Decode(Binary, []byte(header)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := c.Decode(2, []byte(valid)); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
}
