package config

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// source is one text of YAML: the file, or a list of --set or the environment.
type source struct {
	name   string
	data   []byte
	inline bool              // not a file: positions are of no use
	env    map[string]string // for ${NAME}; nil: such text stands for itself
}

// errorAt is a mistake at a token of the source.
func (s *source) errorAt(t *token.Token, format string, args ...any) *Error {
	e := &Error{Where: s.name, Text: fmt.Sprintf(format, args...)}
	if s.inline || t == nil || t.Position == nil {
		return e
	}
	line, column := t.Position.Line, t.Position.Column
	lines := bytes.Split(s.data, []byte{'\n'})
	if line < 1 || line > len(lines) || column < 1 {
		return e
	}
	e.Where = fmt.Sprintf("%s:%d:%d", s.name, line, column)
	text := maskLine(strings.TrimSuffix(string(lines[line-1]), "\r"))
	gutter := fmt.Sprintf("%4d | ", line)
	// What stands before the caret keeps its tabs, so that both lines align.
	var before strings.Builder
	for i, r := range []rune(text) {
		if i >= column-1 {
			break
		}
		if r != '\t' {
			r = ' '
		}
		before.WriteRune(r)
	}
	e.Excerpt = gutter + text + "\n" + strings.Repeat(" ", len(gutter)-2) + "| " + before.String() + "^"
	return e
}

// parse returns the only document; nil if there is none.
func (s *source) parse() (node ast.Node, err error) {
	defer func() {
		if p := recover(); p != nil { // the parser has such bugs for odd input
			err = &Error{Where: s.name, Text: fmt.Sprintf("this YAML cannot be read (%v); write it in a plainer form", p)}
		}
	}()
	file, err := parser.ParseBytes(s.data, 0)
	var e yaml.Error
	switch {
	case errors.As(err, &e):
		if rest, ok := strings.CutPrefix(e.GetMessage(), "mapping key "); ok {
			key, _, _ := strings.Cut(rest, " already defined")
			return nil, s.errorAt(e.GetToken(), "%s is there twice; remove one", key)
		}
		return nil, s.errorAt(e.GetToken(), "%s; check the indentation, and put text with special characters in quotes", e.GetMessage())
	case err != nil:
		return nil, &Error{Where: s.name, Text: err.Error()}
	case len(file.Docs) == 0:
		return nil, nil
	case len(file.Docs) > 1:
		return nil, s.errorAt(file.Docs[1].Start, "a second document starts here; put all settings into one")
	}
	return file.Docs[0].Body, nil
}

func (l *loader) file(path string, data []byte) error {
	src := &source{name: path, data: data, env: l.env}
	node, err := src.parse()
	if err != nil {
		return err
	}
	return l.section(src, "", node)
}

// list sets a list from text in flow form.
func (l *loader) list(where string, s *setting, text string) error {
	src := &source{name: where, data: []byte(text), inline: true}
	node, err := src.parse()
	if err != nil {
		return err
	}
	if node == nil {
		return &Error{Where: where, Text: s.path + " must be a list, like [a, b]; write [] for an empty one"}
	}
	return l.leaf(src, s, node)
}

// empty reports whether nothing stands in the place of a value: "tls:" alone,
// or with comments only.
func empty(n ast.Node) bool {
	switch n := n.(type) {
	case nil, *ast.NullNode, *ast.CommentGroupNode:
		return true
	case *ast.MappingNode:
		return len(n.Values) == 0
	}
	return false
}

// section takes the settings of a mapping whose keys go on after prefix.
func (l *loader) section(src *source, prefix string, node ast.Node) error {
	if empty(node) {
		return nil
	}
	m, ok := node.(*ast.MappingNode)
	if !ok {
		name := "the file"
		if prefix != "" {
			name = strings.TrimSuffix(prefix, ".")
		}
		return src.errorAt(node.GetToken(), "%s must have settings below it, like %q", name, last(l.first(prefix))+": ...")
	}
	for _, pair := range m.Values {
		key, err := src.key(pair)
		if err != nil {
			return err
		}
		path := prefix + key
		s := l.settings[path]
		switch {
		case s != nil:
			err = l.leaf(src, s, pair.Value)
		case l.sections[path]:
			err = l.section(src, path+".", pair.Value)
		default:
			err = src.errorAt(pair.Key.GetToken(), "there is no setting %q%s", path, didYouMean(path, l.names))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// key returns the name that a pair gives a value to.
func (s *source) key(pair *ast.MappingValueNode) (string, error) {
	switch k := pair.Key.(type) {
	case *ast.StringNode:
		return k.Value, nil
	case *ast.MappingKeyNode, *ast.MergeKeyNode:
		return "", s.errorAt(pair.Key.GetToken(), "this form of YAML is not read; write KEY: VALUE")
	}
	return pair.Key.GetToken().Value, nil
}

// leaf sets one setting.
func (l *loader) leaf(src *source, s *setting, node ast.Node) error {
	v := s.value(l.cfg)
	var err error
	text, isText := node.(*ast.StringNode)
	switch {
	case isText && s.field.Tag.Get("single") != "" && text.Value != "":
		one := reflect.New(v.Type().Elem()).Elem()
		if err = src.scalar(one, "", s.path, node); err == nil {
			v.Set(reflect.Append(reflect.Zero(v.Type()), one))
		}
	case s.isList():
		err = src.fillList(v, s.path, node)
	default:
		err = src.scalar(v, s.field.Tag, s.path, node)
	}
	if err == nil && !src.inline {
		l.origin[s.path] = fmt.Sprintf("%s:%d", src.name, node.GetToken().Position.Line)
	}
	return err
}

func (s *source) fillList(v reflect.Value, path string, node ast.Node) error {
	v.SetZero()
	if empty(node) {
		return nil
	}
	seq, ok := node.(*ast.SequenceNode)
	if !ok {
		return s.errorAt(node.GetToken(), "%s must be a list, like [a, b], or one line for each, starting with -", path)
	}
	for i, n := range seq.Values {
		item := reflect.New(v.Type().Elem()).Elem()
		name := fmt.Sprintf("%s[%d]", path, i)
		var err error
		if item.Kind() == reflect.Struct {
			err = s.item(item, name, n)
		} else {
			err = s.scalar(item, "", name, n)
		}
		if err != nil {
			return err
		}
		v.Set(reflect.Append(v, item))
	}
	return nil
}

// item sets the fields of a struct that is in a list.
func (s *source) item(v reflect.Value, path string, node ast.Node) error {
	fields := make(map[string]int)
	var names []string
	for i := range v.NumField() {
		name := v.Type().Field(i).Tag.Get("key")
		if name == "" {
			continue
		}
		fields[name] = i
		names = append(names, name)
	}
	m, ok := node.(*ast.MappingNode)
	if !ok {
		return s.errorAt(node.GetToken(), "%s must have keys and values, like %s: ...; possible keys are %s", path, names[0], strings.Join(names, ", "))
	}
	for _, pair := range m.Values {
		key, err := s.key(pair)
		if err != nil {
			return err
		}
		i, ok := fields[key]
		if !ok {
			mean := didYouMean(key, names)
			if mean == "" {
				mean = "; possible are " + strings.Join(names, ", ")
			}
			return s.errorAt(pair.Key.GetToken(), "there is no setting %q in %s%s", key, path, mean)
		}
		if err := s.scalar(v.Field(i), v.Type().Field(i).Tag, path+"."+key, pair.Value); err != nil {
			return err
		}
	}
	return nil
}

// scalar sets a single value from what the user wrote, whatever type YAML
// sees in it: 0123 is a good secret.
func (s *source) scalar(v reflect.Value, tag reflect.StructTag, path string, node ast.Node) error {
	var text string
	switch n := node.(type) {
	case *ast.StringNode:
		text = n.Value
	case *ast.LiteralNode:
		text = n.Value.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		text = n.GetToken().Value
	case *ast.NullNode:
		return s.errorAt(n.Token, `%s has no value; give one, "" for an empty one, and put text with # in quotes`, path)
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode:
		return s.errorAt(node.GetToken(), "%s has an anchor, alias or tag, which are not read; write the value itself", path)
	default:
		return s.errorAt(node.GetToken(), "%s must be a single value", path)
	}
	if s.env != nil && v.Kind() == reflect.String {
		var err error
		if text, err = expand(text, s.env); err != nil {
			return s.errorAt(node.GetToken(), "%s %v", path, err)
		}
	}
	if err := setScalar(v, tag, text); err != nil {
		return s.errorAt(node.GetToken(), "%s %v", path, err)
	}
	return nil
}
