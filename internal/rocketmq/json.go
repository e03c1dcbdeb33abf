package rocketmq

import (
	"encoding/binary"
	"math"
	"math/bits"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth is how deep a field that is skipped may be nested.
const maxDepth = 32

// scanner reads JSON (RFC 8259), strictly. After the first failure it is at
// the end of its input, every read fails, and reason says what was wrong.
type scanner struct {
	b       []byte
	i       int
	scratch []byte // strings that are not a piece of b
	reason  string
	at      int // where it failed
}

func (s *scanner) fail(reason string) {
	if s.reason == "" {
		s.reason, s.at, s.i = reason, s.i, len(s.b)
	}
}

// decodeJSON reads a header that is a JSON object (RemotingSerializable).
// Fields that are not known are skipped; a null is as good as no field; the
// last of repeated ones counts. Bytes that are no UTF-8, and lone surrogates,
// become U+FFFD.
func (c *Command) decodeJSON(header []byte) error {
	s := scanner{b: header, scratch: c.scratch}
	for first := true; ; first = false {
		key, more := s.member(first)
		if !more {
			break
		}
		s.header(c, key)
	}
	if s.space(); s.i < len(s.b) {
		s.fail("something behind the object")
	}
	c.scratch = s.scratch
	if s.reason != "" {
		return malformed("JSON header, byte %d: %s", s.at, s.reason)
	}
	return nil
}

// header reads the value of one field of the header.
func (s *scanner) header(c *Command, key []byte) {
	switch string(key) {
	case "code":
		c.Code = s.int32()
	case "language":
		c.Language = s.language()
	case "version":
		c.Version = int(s.int32())
	case "opaque":
		c.Opaque = s.int32()
	case "flag":
		c.Flag = s.int32()
	case "remark":
		c.Remark = nil
		if !s.null() {
			c.Remark = s.string()
		}
	case "extFields":
		c.Ext, c.seen = c.Ext[:0], 0
		if !s.null() {
			s.fields(c)
		}
	default:
		s.skip(0)
	}
}

// fields reads the object of extension fields.
func (s *scanner) fields(c *Command) {
	for first := true; ; first = false {
		key, more := s.member(first)
		if !more {
			return
		}
		if value := s.scalar(); s.reason == "" && !c.set(key, value) {
			s.fail("more than " + strconv.Itoa(MaxFields) + " extension fields")
		}
	}
}

// scalar reads a value that is no object or array as text: numbers and truth
// values as they are written, nil for null.
func (s *scanner) scalar() []byte {
	s.space()
	start := s.i
	switch s.peek() {
	case '"':
		return s.string()
	case 'n':
		s.literal("null")
		return nil
	case 't':
		s.literal("true")
	case 'f':
		s.literal("false")
	default:
		s.number()
	}
	return s.b[start:s.i:s.i]
}

// language reads a name or a number.
func (s *scanner) language() Language {
	if s.null() {
		return 0
	}
	if s.peek() == '"' {
		return languageOf(s.string())
	}
	if n := s.int32(); n >= 0 && n <= math.MaxUint8 {
		return Language(n)
	}
	return LanguageOther
}

// peek returns the next byte, 0 at the end.
func (s *scanner) peek() byte {
	if s.i < len(s.b) {
		return s.b[s.i]
	}
	return 0
}

func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return
		}
	}
}

// expect reads one certain byte, after white space.
func (s *scanner) expect(c byte, reason string) {
	if s.i < len(s.b) && s.b[s.i] == c {
		s.i++
		return
	}
	if s.space(); s.peek() != c {
		s.fail(reason)
		return
	}
	s.i++
}

// member goes to the next member of an object, at first to its opening brace.
// more is false at the closing one, and after a failure.
func (s *scanner) member(first bool) (key []byte, more bool) {
	if first {
		s.expect('{', "no object")
	}
	if s.space(); s.peek() == '}' {
		s.i++
		return nil, false
	}
	if !first {
		s.expect(',', "no comma or closing brace")
	}
	key = s.string()
	s.expect(':', "no colon")
	return key, s.reason == ""
}

// literal reads a word that stands for a value.
func (s *scanner) literal(word string) {
	if len(s.b)-s.i < len(word) || string(s.b[s.i:s.i+len(word)]) != word {
		s.fail("no value")
		return
	}
	s.i += len(word)
}

// null reads a null if there is one.
func (s *scanner) null() bool {
	if s.space(); s.peek() != 'n' {
		return false
	}
	s.literal("null")
	return true
}

// int32 reads an integer; null is 0.
func (s *scanner) int32() int32 {
	if s.null() {
		return 0
	}
	negative := s.peek() == '-'
	if negative {
		s.i++
	}
	start, n := s.i, int64(0)
	for ; s.i < len(s.b) && s.b[s.i]-'0' <= 9 && n <= math.MaxInt32; s.i++ {
		n = n*10 + int64(s.b[s.i]-'0')
	}
	if s.i == start || s.b[start] == '0' && s.i > start+1 {
		s.fail("no integer")
	}
	if negative {
		n = -n
	}
	if n != int64(int32(n)) {
		s.fail("an integer of more than 32 bits")
	}
	return int32(n)
}

// number goes to the end of a number.
func (s *scanner) number() {
	if s.peek() == '-' {
		s.i++
	}
	if s.peek() == '0' {
		s.i++
	} else {
		s.digits()
	}
	if s.peek() == '.' {
		s.i++
		s.digits()
	}
	if c := s.peek(); c == 'e' || c == 'E' {
		s.i++
		if c := s.peek(); c == '+' || c == '-' {
			s.i++
		}
		s.digits()
	}
}

func (s *scanner) digits() {
	start := s.i
	for s.i < len(s.b) && s.b[s.i]-'0' <= 9 {
		s.i++
	}
	if s.i == start {
		s.fail("no value")
	}
}

// skip goes to the end of a value of any kind.
func (s *scanner) skip(depth int) {
	if depth > maxDepth {
		s.fail("nested too deeply")
	}
	scratch := s.scratch
	s.space()
	switch s.peek() {
	case '{':
		for first := true; ; first = false {
			if _, more := s.member(first); !more {
				break
			}
			s.skip(depth + 1)
		}
	case '[':
		s.skipArray(depth)
	default:
		s.scalar()
	}
	s.scratch = scratch
}

func (s *scanner) skipArray(depth int) {
	s.i++
	if s.space(); s.peek() == ']' {
		s.i++
		return
	}
	for s.reason == "" {
		s.skip(depth + 1)
		if s.space(); s.peek() == ']' {
			s.i++
			return
		}
		s.expect(',', "no comma or closing bracket")
	}
}

// string reads a string: a piece of the input, or of scratch.
func (s *scanner) string() []byte {
	if s.expect('"', "no string"); s.reason != "" {
		return nil
	}
	start := s.i
	high := s.run()
	if s.peek() != '"' {
		return s.unescape(start, high)
	}
	text := s.b[start:s.i:s.i]
	s.i++
	if high && !utf8.Valid(text) {
		return s.repair(text)
	}
	return text
}

// unescape reads the rest of a string that began at start and has an escape at
// the present place, or does not end.
func (s *scanner) unescape(start int, high bool) []byte {
	from := len(s.scratch)
	s.scratch = append(s.scratch, s.b[start:s.i]...)
	for s.peek() == '\\' {
		s.i++
		s.escape()
		run := s.i
		high = s.run() || high
		s.scratch = append(s.scratch, s.b[run:s.i]...)
	}
	if s.peek() != '"' {
		s.fail("a control character, or the end, in a string")
		return nil
	}
	s.i++
	text := s.scratch[from:len(s.scratch):len(s.scratch)]
	if high && !utf8.Valid(text) {
		return s.repair(text)
	}
	return text
}

// repair returns text with U+FFFD for each byte that is not UTF-8.
func (s *scanner) repair(text []byte) []byte {
	from := len(s.scratch)
	for _, r := range string(text) {
		s.scratch = utf8.AppendRune(s.scratch, r)
	}
	return s.scratch[from:len(s.scratch):len(s.scratch)]
}

// escape reads what stands behind a backslash.
func (s *scanner) escape() {
	c := s.peek()
	switch c {
	case '"', '\\', '/':
	case 'b':
		c = '\b'
	case 'f':
		c = '\f'
	case 'n':
		c = '\n'
	case 'r':
		c = '\r'
	case 't':
		c = '\t'
	case 'u':
		s.i++
		s.scratch = utf8.AppendRune(s.scratch, s.character())
		return
	default:
		s.fail("no escape")
		return
	}
	s.i++
	s.scratch = append(s.scratch, c)
}

// character reads the rest of a \u escape and, for a surrogate, its other
// half.
func (s *scanner) character() rune {
	r := s.hex()
	if !utf16.IsSurrogate(r) {
		return r
	}
	if s.i+1 < len(s.b) && s.b[s.i] == '\\' && s.b[s.i+1] == 'u' {
		back := s.i
		s.i += 2
		if pair := utf16.DecodeRune(r, s.hex()); pair != utf8.RuneError {
			return pair
		}
		if s.reason == "" {
			s.i = back
		}
	}
	return utf8.RuneError
}

// hex reads four hexadecimal digits.
func (s *scanner) hex() rune {
	if len(s.b)-s.i < 4 {
		s.fail("no escape")
		return 0
	}
	var r rune
	for _, c := range s.b[s.i : s.i+4] {
		switch {
		case c-'0' <= 9:
			c -= '0'
		case c|0x20-'a' <= 'f'-'a':
			c = c | 0x20 - 'a' + 10
		default:
			s.fail("no escape")
			return 0
		}
		r = r<<4 | rune(c)
	}
	s.i += 4
	return r
}

// ones has a 1 in each of 8 bytes.
const ones = 0x01_01_01_01_01_01_01_01

// run goes to the next quotation mark, backslash or control character, or to
// the end. high is true if there may have been bytes over 0x7F before it.
func (s *scanner) run() (high bool) {
	b, i := s.b, s.i
	var all uint64
	for ; i+8 <= len(b); i += 8 {
		w := binary.LittleEndian.Uint64(b[i:])
		all |= w
		if stops := stops(w); stops != 0 {
			s.i = i + bits.TrailingZeros64(stops)/8
			return all&(ones<<7) != 0
		}
	}
	for ; i < len(b) && b[i] >= ' ' && b[i] != '"' && b[i] != '\\'; i++ {
		all |= uint64(b[i])
	}
	s.i = i
	return all&(ones<<7) != 0
}

// stops returns a word whose lowest bit set is in the first byte of w at which
// a run ends. What it has above that bit means nothing.
func stops(w uint64) uint64 {
	quote, backslash := w^ones*'"', w^ones*'\\'
	return ((quote-ones)&^quote | (backslash-ones)&^backslash | (w-ones*' ')&^w) & (ones << 7)
}

func (c *Command) appendJSON(dst []byte) []byte {
	dst = append(dst, `{"code":`...)
	dst = strconv.AppendInt(dst, int64(c.Code), 10)
	dst = append(dst, `,"language":"`...)
	dst = append(dst, c.Language.String()...)
	dst = append(dst, `","version":`...)
	dst = strconv.AppendInt(dst, int64(c.Version), 10)
	dst = append(dst, `,"opaque":`...)
	dst = strconv.AppendInt(dst, int64(c.Opaque), 10)
	dst = append(dst, `,"flag":`...)
	dst = strconv.AppendInt(dst, int64(c.Flag), 10)
	if c.Remark != nil {
		dst = append(dst, `,"remark":`...)
		dst = appendString(dst, c.Remark)
	}
	if len(c.Ext) > 0 {
		dst = append(dst, `,"extFields":`...)
		dst = appendFields(dst, c.Ext)
	}
	return append(dst, `,"serializeTypeCurrentRPC":"JSON"}`...)
}

func appendFields(dst []byte, fields Fields) []byte {
	separator := byte('{')
	for _, field := range fields {
		if field.Value == nil {
			continue
		}
		dst = append(dst, separator)
		dst = appendString(dst, field.Key)
		dst = append(dst, ':')
		dst = appendString(dst, field.Value)
		separator = ','
	}
	if separator == '{' {
		dst = append(dst, '{')
	}
	return append(dst, '}')
}

// appendString appends text as a JSON string.
func appendString(dst, text []byte) []byte {
	const digits = "0123456789abcdef"
	before := len(dst)
	dst = append(dst, '"')
	s := scanner{b: text}
	high := s.run()
	start := 0
	for ; s.i < len(text); high = s.run() || high {
		dst = append(dst, text[start:s.i]...)
		c := text[s.i]
		if c < ' ' {
			dst = append(dst, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		} else {
			dst = append(dst, '\\', c)
		}
		s.i++
		start = s.i
	}
	if high && !utf8.Valid(text) {
		return appendString(dst[:before], s.repair(text))
	}
	dst = append(dst, text[start:]...)
	return append(dst, '"')
}
