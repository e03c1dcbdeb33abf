package config

import (
	"bytes"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// YAML returns all settings with their comments, in the form of the file.
// Secrets are among them.
func (c *Config) YAML() []byte { return c.print(false) }

// MaskedYAML is YAML with Mask in the place of secrets.
func (c *Config) MaskedYAML() []byte { return c.print(true) }

func (c *Config) print(mask bool) []byte {
	p := printer{mask: mask}
	p.section(reflect.ValueOf(c).Elem(), "")
	return p.out.Bytes()
}

type printer struct {
	out  bytes.Buffer
	mask bool
}

func (p *printer) section(v reflect.Value, indent string) {
	for i := range v.NumField() {
		f, tag := v.Field(i), v.Type().Field(i).Tag
		key, doc := tag.Get("key"), tag.Get("doc")
		if enum := tag.Get("enum"); enum != "" {
			doc += " (" + strings.ReplaceAll(enum, ",", " | ") + ")"
		}
		switch f.Kind() {
		case reflect.Struct:
			fmt.Fprintf(&p.out, "\n%s# %s\n%s%s:\n", indent, doc, indent, key)
			p.section(f, indent+"  ")
		case reflect.Slice:
			p.list(f, tag, indent)
		default:
			p.line(indent+key+": "+scalarYAML(f), doc)
		}
	}
}

// line prints a setting and its comment, which stands above where it does not
// fit beside.
func (p *printer) line(text, doc string) {
	const column, width = 34, 120
	size := utf8.RuneCountInString(text)
	switch {
	case doc == "":
		fmt.Fprintln(&p.out, text)
	case max(size+1, column)+2+len(doc) > width:
		indent := text[:len(text)-len(strings.TrimLeft(text, " "))]
		fmt.Fprintf(&p.out, "%s# %s\n%s\n", indent, doc, text)
	default:
		fmt.Fprintf(&p.out, "%s%s# %s\n", text, strings.Repeat(" ", max(1, column-size)), doc)
	}
}

func (p *printer) list(v reflect.Value, tag reflect.StructTag, indent string) {
	key, doc := indent+tag.Get("key")+":", tag.Get("doc")
	if v.Len() == 0 {
		p.line(key+" []", doc)
		for line := range strings.SplitSeq(tag.Get("example"), "\n") {
			fmt.Fprintf(&p.out, "%s#   %s\n", indent, line)
		}
		return
	}
	p.line(key, doc)
	for i := range v.Len() {
		item := v.Index(i)
		if item.Kind() != reflect.Struct {
			fmt.Fprintf(&p.out, "%s  - %s\n", indent, scalarYAML(item))
			continue
		}
		dash := "- "
		for j := range item.NumField() {
			tag := item.Type().Field(j).Tag
			if f := item.Field(j); !f.IsZero() {
				text := scalarYAML(f)
				if key, ok := item.Interface().(AccessKey); ok && tag.Get("secret") != "" {
					if key.SecretFile != "" {
						continue // it is in that file
					}
					if p.mask {
						text = strconv.Quote(Mask)
					}
				}
				fmt.Fprintf(&p.out, "%s  %s%s: %s\n", indent, dash, tag.Get("key"), text)
				dash = "  "
			}
		}
		if dash == "- " { // nothing in it
			fmt.Fprintf(&p.out, "%s  - {}\n", indent)
		}
	}
}

// plain matches text that needs no quotes: nothing that YAML could take for
// something else than text, or that reads better with quotes.
var plain = regexp.MustCompile(`^[A-Za-z0-9./_-]*[A-Za-z/][A-Za-z0-9./_-]*$|^[0-9.]+:[0-9]+$`)

func scalarYAML(v reflect.Value) string {
	text := scalarText(v)
	if v.Kind() != reflect.String {
		return text
	}
	text = strings.ReplaceAll(text, "${", "$${")
	switch strings.ToLower(text) {
	case "null", "true", "false", "yes", "no", "on", "off":
		return strconv.Quote(text)
	}
	if text == "" || text[0] == '-' || !plain.MatchString(text) {
		return strconv.Quote(text)
	}
	return text
}
