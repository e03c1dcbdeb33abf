package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// setting is one leaf of Config.
type setting struct {
	path  string // "store.sync"
	field reflect.StructField
	index []int
}

// settings lists the leaves of Config in their order, and the sections.
func settings() (leaves []setting, sections []string) {
	var walk func(t reflect.Type, prefix string, index []int)
	walk = func(t reflect.Type, prefix string, index []int) {
		for i := range t.NumField() {
			f := t.Field(i)
			if f.Tag.Get("key") == "" {
				continue
			}
			path, at := prefix+f.Tag.Get("key"), append(slices.Clone(index), i)
			if f.Type.Kind() == reflect.Struct {
				sections = append(sections, path)
				walk(f.Type, path+".", at)
				continue
			}
			leaves = append(leaves, setting{path: path, field: f, index: at})
		}
	}
	walk(reflect.TypeFor[Config](), "", nil)
	return leaves, sections
}

// value returns the setting's place in c.
func (s *setting) value(c *Config) reflect.Value {
	return reflect.ValueOf(c).Elem().FieldByIndex(s.index)
}

func (s *setting) isList() bool { return s.field.Type.Kind() == reflect.Slice }

// env returns the name of the setting's environment variable.
func (s *setting) env() string { return envName(s.path) }

func envName(path string) string {
	return "HOMING_" + strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(path))
}

// setScalar parses text into v and checks it against the tags of its field.
// Its errors go on after the setting's name.
func setScalar(v reflect.Value, tag reflect.StructTag, text string) error {
	if err := parseScalar(v, text); err != nil {
		return err
	}
	if enum := tag.Get("enum"); enum != "" && !slices.Contains(strings.Split(enum, ","), text) {
		return fmt.Errorf("must be one of %s, not %q", strings.ReplaceAll(enum, ",", ", "), text)
	}
	if bound := tag.Get("min"); bound != "" && v.Int() < parseBound(v.Type(), bound) {
		return fmt.Errorf("must be at least %s, not %s", bound, text)
	}
	if bound := tag.Get("max"); bound != "" && v.Int() > parseBound(v.Type(), bound) {
		return fmt.Errorf("must be at most %s, not %s", bound, text)
	}
	return nil
}

func parseScalar(v reflect.Value, text string) (err error) {
	switch p := v.Addr().Interface().(type) {
	case *string:
		*p = text
	case *bool:
		*p, err = parseBool(text)
	case *int:
		*p, err = parseInt(text)
	case *Size:
		*p, err = parseSize(text)
	case *time.Duration:
		*p, err = parseDuration(text)
	default:
		panic("config: no parser for " + v.Type().String())
	}
	return err
}

// parseBound parses a min or max tag.
func parseBound(t reflect.Type, text string) int64 {
	v := reflect.New(t).Elem()
	if err := parseScalar(v, text); err != nil {
		panic("config: bad bound: " + err.Error())
	}
	return v.Int()
}

// scalarText is the inverse of parseScalar.
func scalarText(v reflect.Value) string {
	if d, ok := v.Interface().(time.Duration); ok {
		return durationText(d)
	}
	return fmt.Sprint(v.Interface())
}

// didYouMean returns "; did you mean ...?" for a word that is close to one of
// the candidates, or is the last part of one.
func didYouMean(word string, candidates []string) string {
	best, distance := "", 2+len(word)/6
	for _, c := range candidates {
		d := editDistance(word, c)
		if last(word) == last(c) {
			d = min(d, 1)
		}
		if d < distance {
			best, distance = c, d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

func last(path string) string { return path[strings.LastIndexByte(path, '.')+1:] }

// editDistance counts the insertions, deletions, replacements and swaps of
// neighbours that make b of a.
func editDistance(a, b string) int {
	var before []int
	prev, row := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(row[j]+1, prev[j+1]+1, prev[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, prev, row = prev, row, make([]int, len(b)+1)
	}
	return prev[len(b)]
}
