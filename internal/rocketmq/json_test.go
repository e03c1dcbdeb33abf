package rocketmq

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// oracle is what encoding/json makes of a header. ok is false if it refuses it,
// or if a field that Command knows is not of the right kind.
func oracle(header []byte) (c decoded, ok bool) {
	var top map[string]json.RawMessage
	if json.Unmarshal(header, &top) != nil || top == nil {
		return c, false
	}
	ok = true
	read := func(key string, to any) {
		if raw, there := top[key]; there && json.Unmarshal(raw, to) != nil {
			ok = false
		}
	}
	read("code", &c.Code)
	read("version", &c.Version)
	read("opaque", &c.Opaque)
	read("flag", &c.Flag)
	read("remark", &c.Remark)
	var language any
	decoder := json.NewDecoder(bytes.NewReader(top["language"]))
	decoder.UseNumber()
	_ = decoder.Decode(&language)
	switch l := language.(type) {
	case nil:
	case string:
		c.Language = languageOf([]byte(l))
	case json.Number:
		n, err := strconv.ParseInt(string(l), 10, 32)
		ok = ok && err == nil
		if c.Language = Language(n); n < 0 || n > 255 {
			c.Language = LanguageOther
		}
	default:
		ok = false
	}
	var ext map[string]json.RawMessage
	read("extFields", &ext)
	c.Ext = map[string]string{}
	for key, raw := range ext {
		var text string
		switch raw[0] {
		case 'n':
			continue
		case '"':
			_ = json.Unmarshal(raw, &text)
		case '{', '[':
			ok = false
		default:
			text = string(raw)
		}
		c.Ext[key] = text
	}
	return c, ok
}

// decoded is a Command in types that are easily compared.
type decoded struct {
	Code, Version, Opaque, Flag int32
	Language                    Language
	Remark                      *string
	Ext                         map[string]string
}

func decodedOf(c *Command) decoded {
	d := decoded{Code: c.Code, Version: int32(c.Version), Opaque: c.Opaque, Flag: c.Flag, Language: c.Language, Ext: map[string]string{}}
	if c.Remark != nil {
		remark := string(c.Remark)
		d.Remark = &remark
	}
	for _, f := range c.Ext {
		d.Ext[string(f.Key)] = string(f.Value)
	}
	return d
}

type failer interface {
	Fatalf(format string, args ...any)
}

// checkJSON compares Decode with the oracle. It may refuse what the oracle
// takes only if limits says so.
func checkJSON(t failer, header []byte, limits bool) {
	before := bytes.Clone(header)
	var c Command
	err := c.Decode(JSON, header)
	want, ok := oracle(header)
	switch {
	case !bytes.Equal(header, before):
		t.Fatalf("the input was written to: %q, was %q", header, before)
	case err == nil && !ok:
		t.Fatalf("taken, but encoding/json refuses: %q", header)
	case err != nil && ok && !limits:
		t.Fatalf("%v, but encoding/json takes: %q", err, header)
	case err != nil && !errors.Is(err, ErrMalformed):
		t.Fatalf("%v is not ErrMalformed", err)
	case err == nil:
		got := decodedOf(&c)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%q: %s", header, diff)
		}
		if len(got.Ext) != len(c.Ext) {
			t.Fatalf("repeated keys: %q", c.Ext)
		}
	}
}

func TestJSONHeader(t *testing.T) {
	for _, header := range []string{
		`{}`, ` { } `, `{"code":1}`, "\t\r\n{\"code\" : 1 , \"flag\":\n2}\n", `{"code":-2147483648,"opaque":2147483647,"version":-0}`,
		`{"code":2147483648}`, `{"code":-2147483649}`, `{"code":99999999999999999999}`, `{"code":01}`, `{"code":-}`, `{"code":1.0}`, `{"code":1e2}`, `{"code":"1"}`,
		`{"code":null,"language":null,"remark":null,"extFields":null}`, `{"code":nul}`, `{"code":tru}`, `{"code":true}`,
		`{"language":"GO"}`, `{"language":"KLINGON"}`, `{"language":9}`, `{"language":300}`, `{"language":-1}`, `{"language":[]}`, `{"language":"G\u004f"}`,
		`{"remark":""}`, `{"remark":"x"}`, `{"remark":1}`, `{"remark":"a","remark":null}`, `{"remark":"a","remark":"b"}`,
		`{"extFields":{"a":"1","b":"2","a":"3"}}`, `{"extFields":{"a":"1","b":"2","a":null,"c":"3","c":"4"}}`, `{"extFields":{"a":null,"a":"1"}}`,
		`{"extFields":{"a":1,"b":-1.5e+7,"c":true,"d":false,"e":null,"f":0}}`, `{"extFields":{"a":{}}}`, `{"extFields":{"a":[]}}`, `{"extFields":{"":""}}`,
		`{"extFields":{"a":"1"},"extFields":{"b":"2"}}`, `{"extFields":{"a":"1"},"extFields":null}`, `{"extFields":[]}`, `{"extFields":"x"}`, `{"extFields":{"a":.5}}`,
		`{"extFields":{"a":+1}}`, `{"extFields":{"a":1.}}`, `{"extFields":{"a":1e}}`, `{"extFields":{"a":00}}`, `{"extFields":{"a":trues}}`, `{"extFields":{"a":"x}}`,
		`{"extFields":{"\u0061":"1","a":"2"}}`, `{"extFields":{"a":"\ud83d\ude00\ud83d\ud83d\ude00\ude00\ud83dx\ud83d\n\uD83D\uDE00"}}`,
		`{"extFields":{"a":"\"\\\/\b\f\n\r\t\u0000\u00fc\u20AC\uFFFF"}}`, `{"extFields":{"a":"\x"}}`, `{"extFields":{"a":"\u12"}}`, `{"extFields":{"a":"\u12g4"}}`, `{"extFields":{"a":"\`,
		`{"extFields":{"a":"\ud83d\u12"}}`, `{"extFields":{"a":"\ud83d\`,
		"{\"extFields\":{\"a\":\"\xff\xc3\xfc\xe2\x82 \xc3\\u00a9\xed\xa0\x80\",\"\xff\":\"\"}}", "{\"a\":\"\x01\"}", "{\"a\":\"\x7f\u2028\"}", "{\"a\":\"12345678\x1f\"}", "{\"code\n\":1}", "{\"a\":\"x \n \"}", "{\"a\":\"\\n\t\"}",
		`{"x":{"a":[1,2.5,{"b":[]},"\n",null,true,[[]]],"c":{}},"code":7}`, `{"x":[1,]}`, `{"x":[,1]}`, `{"x":[1 2]}`, `{"x":{"a":1,}}`, `{"x":]}`, `{"x":[}}`,
		`{"code":1}x`, `{"code":1}}`, `{"code":1,}`, `{,}`, `{"code" 1}`, `{code:1}`, `{"code":1 "flag":2}`, `{"code":1`, `{"code"`, `{`, ``, ` `, `[]`, `null`, `1`, "\x00", "{\x00}", `{"a":"\"`,
		`{"Code":1,"CODE":2,"extfields":{"a":"b"}}`,
		`{"code":10,"serializeTypeCurrentRPC":"ROCKETMQ"}`, `{"serializeTypeCurrentRPC":{}}`,
	} {
		checkJSON(t, []byte(header), false)
	}
}

func TestJSONLimits(t *testing.T) {
	var c Command
	nested := func(depth int) []byte {
		return []byte(`{"x":` + strings.Repeat("[", depth) + strings.Repeat("]", depth) + `}`)
	}
	if err := c.Decode(JSON, nested(maxDepth)); err != nil {
		t.Error(err)
	}
	if err := c.Decode(JSON, nested(maxDepth+2)); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
	if err := c.Decode(JSON, []byte(`{"x":`+strings.Repeat(`{"y":`, 1_000_000))); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
	many := func(n int) []byte {
		fields := make([]string, n)
		for i := range fields {
			fields[i] = fmt.Sprintf(`"%d":"v","same":"%d"`, i, i)
		}
		return []byte(`{"extFields":{` + strings.Join(fields, ",") + `}}`)
	}
	if err := c.Decode(JSON, many(MaxFields-1)); err != nil || string(c.Ext.Get("same")) != "254" {
		t.Error(err)
	}
	for _, s := range []Serialize{JSON, Binary} {
		header := many(MaxFields)
		if s == Binary {
			full := Command{Ext: make(Fields, 0, MaxFields+1)}
			for i := range MaxFields + 1 {
				full.Ext = append(full.Ext, Field{strconv.AppendInt(nil, int64(i), 10), []byte("v")})
			}
			header = full.Append(nil, Binary, nil)[prefixSize:]
		}
		if err := c.Decode(s, header); !errors.Is(err, ErrMalformed) {
			t.Error(s, err)
		}
	}
}

// jsonPieces are what random headers are made of.
var jsonPieces = []string{
	"{", "}", "[", "]", ",", ":", " ", "\n", `"`, `\`, "null", "true", "false", "0", "1", "-", "2147483647", "2147483648", ".", "e", "+", "E5",
	`"code"`, `"language"`, `"flag"`, `"remark"`, `"version"`, `"opaque"`, `"extFields"`, `"extFields":{`, `"a"`, `"b":"c"`, `"a":"x",`, `"GO"`, "x", "\x01", "\xff", "é", "\xe2\x82",
	`\n`, `\u0001`, `\ud83d`, `\ude00`, `\u00e9`, "longer text than eight bytes",
}

func TestJSONAgainstOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pieces := rapid.SliceOfN(rapid.SampledFrom(jsonPieces), 0, 40).Draw(t, "pieces")
		checkJSON(t, []byte(strings.Join(pieces, "")), false)
	})
}

// TestJSONMutated changes valid headers a little, which reaches deeper than
// pieces at random.
func TestJSONMutated(t *testing.T) {
	var headers [][]byte
	for _, list := range frames(t) {
		for _, frame := range list {
			if f, _, _, _ := Split(frame, MaxFrame); f.Serialize == JSON {
				headers = append(headers, f.Header)
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		header := bytes.Clone(rapid.SampledFrom(headers).Draw(t, "header"))
		for range rapid.IntRange(0, 3).Draw(t, "changes") {
			at := rapid.IntRange(0, len(header)).Draw(t, "at")
			cut := rapid.IntRange(at, min(at+3, len(header))).Draw(t, "cut")
			piece := rapid.SampledFrom(jsonPieces).Draw(t, "piece")
			header = append(header[:at:at], append([]byte(piece), header[cut:]...)...)
		}
		checkJSON(t, header, false)
	})
}

// TestJSONEveryPlace inserts each piece at each place of a header that has
// everything, and in place of what stands there.
func TestJSONEveryPlace(t *testing.T) {
	const header = `{"code":-10,"x":[{"y":"\ud83d\ude00"},null,1.5e3],"language":"GO","extFields":{"a":"12345678\u0001é\n","b":0,"a":true},"remark":"" }`
	for at := range len(header) + 1 {
		for _, piece := range append(jsonPieces, "") {
			for cut := at; cut <= min(at+2, len(header)); cut++ {
				checkJSON(t, []byte(header[:at]+piece+header[cut:]), false)
			}
		}
	}
}

// drawCommand draws a command whose texts are UTF-8 and whose keys differ.
func drawCommand(t *rapid.T) Command {
	text := rapid.OneOf(rapid.String(), rapid.StringMatching(`[ -~\x00-\x1f]{0,40}`)).AsAny()
	draw := func(name string) []byte { return []byte(text.Draw(t, name).(string)) }
	c := Command{
		Code:     int32(rapid.Int16().Draw(t, "code")),
		Language: Language(rapid.IntRange(0, len(languageNames)-1).Draw(t, "language")),
		Version:  int(rapid.Int16().Draw(t, "version")),
		Opaque:   rapid.Int32().Draw(t, "opaque"),
		Flag:     rapid.Int32().Draw(t, "flag"),
	}
	if remark := draw("remark"); len(remark) > 0 {
		c.Remark = remark
	}
	for range rapid.IntRange(0, 30).Draw(t, "fields") {
		c.set(draw("key"), draw("value"))
	}
	return c
}

func TestRoundTrip(t *testing.T) {
	var reused Command
	rapid.Check(t, func(t *rapid.T) {
		c := drawCommand(t)
		body := rapid.SliceOf(rapid.Byte()).Draw(t, "body")
		s := Serialize(rapid.IntRange(0, 1).Draw(t, "serialize"))
		b := c.Append(nil, s, body)
		f, size, complete, err := Split(b, len(b))
		if err != nil || !complete || size != len(b) || !bytes.Equal(f.Body, body) {
			t.Fatalf("size %d of %d, %v, %v", size, len(b), complete, err)
		}
		if err := reused.Decode(f.Serialize, f.Header); err != nil {
			t.Fatalf("%v: %q", err, f.Header)
		}
		if diff := cmp.Diff(decodedOf(&c), decodedOf(&reused)); diff != "" {
			t.Fatal(diff)
		}
		if s == JSON {
			checkJSON(t, f.Header, false)
		}
	})
}

func TestJSONNotUTF8(t *testing.T) {
	c := Command{Remark: []byte("a\xffb\xc3"), Ext: Fields{{[]byte("k"), []byte("\n\xe2\x82\"")}}}
	f, _, _, _ := Split(c.Append(nil, JSON, nil), MaxFrame)
	var got Command
	if err := got.Decode(JSON, f.Header); err != nil {
		t.Fatal(err)
	}
	if string(got.Remark) != "a\uFFFDb\uFFFD" || string(got.Ext.Get("k")) != "\n\uFFFD\uFFFD\"" || !utf8.Valid(f.Header) {
		t.Errorf("%q", f.Header)
	}
}

// Values of a decoded command cannot be appended into one another.
func TestValuesApart(t *testing.T) {
	header := []byte(`{"remark":"one","extFields":{"a":"two","b":"th\u0072ee","c":"fou\u0072","d":5}}`)
	var c Command
	if err := c.Decode(JSON, header); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"a": "two", "b": "three", "c": "four", "d": "5"}
	inBinary, _, _, _ := Split(c.Append(nil, Binary, nil), MaxFrame)
	for s, header := range map[Serialize][]byte{JSON: header, Binary: inBinary.Header} {
		before := bytes.Clone(header)
		for range 2 { // the second time, all texts share the scratch memory of the first
			if err := c.Decode(s, header); err != nil {
				t.Fatal(err)
			}
		}
		_ = append(c.Remark, "xxxx"...)
		for _, f := range c.Ext {
			_, _ = append(f.Key, "xxxx"...), append(f.Value, "xxxx"...)
		}
		if diff := cmp.Diff(want, decodedOf(&c).Ext); diff != "" || !bytes.Equal(header, before) {
			t.Errorf("%s%q", diff, header)
		}
	}
}
