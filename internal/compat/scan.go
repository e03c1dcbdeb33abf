package compat

import (
	"bytes"
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
)

// tagged finds a tag, also one that is not whole.
var tagged = regexp.MustCompile(`MQTT3?-[0-9][0-9.]*(-[0-9]+)?`)

// place is where a tag stands: a declaration of a Go file, or a text file.
type place struct {
	file string // from the root, with slashes
	name string // of the declaration, with its receiver; empty for a text file
}

func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(p.file, q.file), cmp.Compare(p.name, q.name))
}

// isTest reports whether the place tests rather than implements.
func (p place) isTest() bool {
	return strings.HasSuffix(p.file, "_test.go") || strings.HasPrefix(p.file, "test/") || strings.Contains(p.file, "/testdata/")
}

// isServer reports whether the place is more than a client.
func (p place) isServer() bool {
	return !strings.HasPrefix(p.file, "internal/mqttclient/") && !strings.HasPrefix(p.file, "cmd/")
}

// tags has the places of each tag, sorted, each once.
type tags map[string][]place

// skipped are directories that are not looked into: this package, whose
// comments speak of tags, and what other people wrote.
var skipped = []string{"internal/compat", "test/clients"}

// scan reads the tags in the comments of all Go files, and in the text files,
// below the root of the module.
func scan(root string) (tags, error) {
	found := tags{}
	tree := os.DirFS(root)
	for _, dir := range []string{"cmd", "internal", "test"} {
		err := fs.WalkDir(tree, dir, func(name string, entry fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case entry.IsDir():
				if slices.Contains(skipped, name) {
					return fs.SkipDir
				}
				return nil
			}
			return found.file(tree, name)
		})
		if err != nil {
			return nil, err
		}
	}
	for tag, places := range found {
		slices.SortFunc(places, place.compare)
		found[tag] = slices.Compact(places)
	}
	return found, nil
}

// file adds the tags of one file.
func (t tags) file(tree fs.FS, name string) error {
	ext := path.Ext(name)
	if ext != ".go" && ext != ".txt" {
		return nil
	}
	text, err := fs.ReadFile(tree, name)
	switch {
	case err != nil:
		return err
	case !tagged.Match(text):
		return nil
	case ext == ".txt":
		t.add(string(text), place{file: name})
		return nil
	}
	return t.source(name, text)
}

func (t tags) add(text string, at place) {
	for _, tag := range tagged.FindAllString(text, -1) {
		t[tag] = append(t[tag], at)
	}
}

// source adds the tags in the comments of a Go file.
func (t tags) source(name string, text []byte) error {
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return fmt.Errorf("read tags: %w", err)
	}
	line := func(p token.Pos) int { return set.Position(p).Line }
	for _, group := range f.Comments {
		for _, comment := range group.List {
			t.add(comment.Text, place{file: name, name: nameAt(f, line, line(comment.Pos()))})
		}
	}
	return nil
}

// nameAt returns the name of the declaration that has the line, its comment
// included, and nothing if none does.
func nameAt(f *ast.File, line func(token.Pos) int, at int) string {
	has := func(doc *ast.CommentGroup, n ast.Node) bool {
		from := n.Pos()
		if doc != nil {
			from = doc.Pos()
		}
		return line(from) <= at && at <= line(n.End())
	}
	for _, decl := range f.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			if has(d.Doc, d) {
				return funcName(d)
			}
		case *ast.GenDecl:
			if !has(d.Doc, d) {
				continue
			}
			for _, spec := range d.Specs {
				if doc, name := specName(spec); len(d.Specs) == 1 || has(doc, spec) {
					return name
				}
			}
			_, name := specName(d.Specs[0])
			return name
		}
	}
	return ""
}

func funcName(d *ast.FuncDecl) string {
	if d.Recv == nil {
		return d.Name.Name
	}
	of := d.Recv.List[0].Type
	if star, ok := of.(*ast.StarExpr); ok {
		of = star.X
	}
	switch x := of.(type) {
	case *ast.IndexExpr:
		of = x.X
	case *ast.IndexListExpr:
		of = x.X
	}
	return fmt.Sprint(of) + "." + d.Name.Name
}

func specName(spec ast.Spec) (*ast.CommentGroup, string) {
	switch s := spec.(type) {
	case *ast.TypeSpec:
		return s.Doc, s.Name.Name
	case *ast.ValueSpec:
		return s.Doc, s.Names[0].Name
	}
	return nil, ""
}

// unknown returns the tags that name no statement, each with its places.
func (t tags) unknown() (list []string) {
	known := map[string]bool{}
	for _, std := range standards() {
		for _, s := range std.statements {
			known[s.Tag] = true
		}
	}
	for tag, places := range t {
		if known[tag] {
			continue
		}
		var b bytes.Buffer
		fmt.Fprintf(&b, "%s:", tag)
		for _, p := range places {
			fmt.Fprintf(&b, " %s %s", p.file, p.name)
		}
		list = append(list, b.String())
	}
	slices.Sort(list)
	return list
}

// split returns the places of a statement that implement it and those that
// test it.
func (t tags) split(s Statement) (code, tests []place) {
	for _, p := range t[s.Tag] {
		if p.isTest() {
			tests = append(tests, p)
		} else {
			code = append(code, p)
		}
	}
	return code, tests
}

// shown reports whether the server's code, and a test of it, name s.
func (t tags) shown(s Statement) (code, test bool) {
	in, by := t.split(s)
	return slices.ContainsFunc(in, place.isServer), slices.ContainsFunc(by, place.isServer)
}
