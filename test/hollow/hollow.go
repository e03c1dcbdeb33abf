package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The ways into the core that are hollowed out, and the method in which both
// meet. They are methods of Broker.
const (
	way     = "publish"
	instead = "publishHollow"
)

var entrances = []string{"Publish", "PublishQoS2"}

// edit replaces the bytes [from, to) of a file.
type edit struct {
	from, to int
	text     string
}

// core is the source of a package that is being hollowed out.
type core struct {
	fset    *token.FileSet
	methods map[string]*ast.FuncDecl // of Broker
	text    map[string][]byte        // by path
	edits   map[string][]edit
}

// hollow returns the files of the package in dir that change so that Broker's
// entrances answer OK and deliver nothing, by path. Lines keep their numbers.
//
// It is an error if the source has not the form that this relies on: then the
// tests would run against a core that is not hollow, and pass rightly.
func hollow(dir string) (map[string][]byte, error) {
	c, err := parse(dir)
	if err != nil {
		return nil, err
	}
	for _, name := range entrances {
		if err := c.divert(name); err != nil {
			return nil, err
		}
	}
	if err := c.addInstead(); err != nil {
		return nil, err
	}
	changed := map[string][]byte{}
	for path, edits := range c.edits {
		changed[path] = apply(c.text[path], edits)
	}
	return changed, nil
}

// parse reads the package in dir, without its tests.
func parse(dir string) (*core, error) {
	c := &core{fset: token.NewFileSet(), methods: map[string]*ast.FuncDecl{}, text: map[string][]byte{}, edits: map[string][]edit{}}
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		file, err := parser.ParseFile(c.fset, path, text, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		c.text[path] = text
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && c.receiver(f) == "*Broker" {
				c.methods[f.Name.Name] = f
			}
		}
	}
	return c, nil
}

// divert lets the entrance call the hollow method where it calls the real one.
func (c *core) divert(name string) error {
	f := c.methods[name]
	if f == nil {
		return fmt.Errorf("the core has no method Broker.%s: name its ways in anew in test/hollow/hollow.go", name)
	}
	if len(f.Recv.List[0].Names) == 0 {
		return fmt.Errorf("method Broker.%s has no name for its receiver and cannot call Broker.%s", name, way)
	}
	self := f.Recv.List[0].Names[0].Name
	calls := 0
	ast.Inspect(f.Body, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		method, ok := call.Fun.(*ast.SelectorExpr)
		if !ok || method.Sel.Name != way {
			return true
		}
		if x, ok := method.X.(*ast.Ident); ok && x.Name == self {
			c.replace(method.Sel.Pos(), method.Sel.End(), instead)
			calls++
		}
		return true
	})
	if calls == 0 {
		return fmt.Errorf("method Broker.%s does not call Broker.%s any more: name what it calls in test/hollow/hollow.go", name, way)
	}
	return nil
}

// addInstead adds the hollow method: the signature of the real one, and a body
// that tells the sender OK.
func (c *core) addInstead() error {
	f := c.methods[way]
	if f == nil {
		return fmt.Errorf("the core has no method Broker.%s", way)
	}
	d, batch := c.param(f, "*delivery"), c.param(f, "*Batch")
	if d == "" || batch == "" {
		return fmt.Errorf("method Broker.%s has no parameters of the types *delivery and *Batch any more: write the hollow one anew in test/hollow/hollow.go", way)
	}
	results, err := c.results(f)
	if err != nil {
		return err
	}
	path := c.fset.Position(f.Pos()).Filename
	signature := string(c.text[path][c.offset(f.Type.Params.Pos()):c.offset(f.Type.End())])
	text := fmt.Sprintf("\nfunc (*Broker) %s%s {\n\tif %s.m.QoS > 0 {\n\t\t%s.complete(%s.origin, %s.token, mq.OK)\n\t}\n\treturn %s\n}\n",
		instead, signature, d, batch, d, d, strings.Join(results, ", "))
	end := len(c.text[path])
	c.edits[path] = append(c.edits[path], edit{end, end, text})
	return nil
}

// results returns what the hollow method answers: OK, and zeros.
func (c *core) results(f *ast.FuncDecl) (out []string, err error) {
	if f.Type.Results == nil {
		return nil, errors.New("method Broker." + way + " answers with no code any more: write the hollow one anew in test/hollow/hollow.go")
	}
	for _, r := range f.Type.Results.List {
		value := "mq.OK"
		if t := c.source(r.Type); t != "mq.Code" {
			value = "*new(" + t + ")"
		}
		for range max(1, len(r.Names)) {
			out = append(out, value)
		}
	}
	if !slices.Contains(out, "mq.OK") {
		return nil, errors.New("method Broker." + way + " answers with no mq.Code any more: write the hollow one anew in test/hollow/hollow.go")
	}
	return out, nil
}

// param returns the name of the parameter of a type, or nothing.
func (c *core) param(f *ast.FuncDecl, of string) string {
	for _, p := range f.Type.Params.List {
		if c.source(p.Type) == of && len(p.Names) == 1 && p.Names[0].Name != "_" {
			return p.Names[0].Name
		}
	}
	return ""
}

// receiver returns the type that f is a method of, or nothing.
func (c *core) receiver(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return ""
	}
	star, ok := f.Recv.List[0].Type.(*ast.StarExpr)
	if !ok {
		return ""
	}
	name, ok := star.X.(*ast.Ident)
	if !ok {
		return ""
	}
	return "*" + name.Name
}

func (c *core) source(n ast.Node) string {
	return string(c.text[c.fset.Position(n.Pos()).Filename][c.offset(n.Pos()):c.offset(n.End())])
}

func (c *core) offset(p token.Pos) int { return c.fset.Position(p).Offset }

func (c *core) replace(from, to token.Pos, text string) {
	path := c.fset.Position(from).Filename
	c.edits[path] = append(c.edits[path], edit{c.offset(from), c.offset(to), text})
}

// apply makes the edits, which do not overlap.
func apply(text []byte, edits []edit) []byte {
	slices.SortFunc(edits, func(a, b edit) int { return a.from - b.from })
	var out []byte
	at := 0
	for _, e := range edits {
		out = append(append(out, text[at:e.from]...), e.text...)
		at = e.to
	}
	return append(out, text[at:]...)
}
