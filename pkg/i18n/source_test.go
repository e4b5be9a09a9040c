package i18n_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/constant"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	module  = "github.com/urbandata/urbandata"
	i18nPkg = module + "/pkg/i18n"
	huma    = "github.com/danielgtaylor/huma/v2"
)

// goPackage is what `go list` tells of a package.
type goPackage struct {
	ImportPath string
	Dir        string
	Export     string
	GoFiles    []string
	Imports    []string
}

// source is what the program's source says to people.
type source struct {
	messages map[string]string // English → where it stands
	faults   []string          // texts that can't be followed
}

// readSource type-checks every package that imports pkg/i18n and collects
// what becomes a Text there. That is every constant of that type, the compiler
// having made it one, and every format of Textf. What is made a Text in
// another way than these is a fault.
func readSource(t *testing.T) *source {
	t.Helper()
	packages, fset, imports := listPackages(t)
	s := &source{messages: map[string]string{}}
	root := filepath.Dir(filepath.Dir(packages[i18nPkg].Dir))
	for path, p := range packages {
		if path == i18nPkg || slices.Contains(p.Imports, i18nPkg) {
			s.read(t, fset, imports, p, root)
		}
	}
	s.foreign(t, packages)
	return s
}

// listPackages are the packages of the program and all that they import, with
// an importer that has their compiled form.
func listPackages(t *testing.T) (map[string]*goPackage, *token.FileSet, types.Importer) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-export", "-deps", "-json=ImportPath,Dir,Export,GoFiles,Imports", module+"/...")
	out, err := cmd.Output()
	if err != nil {
		var failed *exec.ExitError
		_ = errors.As(err, &failed)
		t.Fatalf("go list: %v: %s", err, failed.Stderr)
	}
	packages := map[string]*goPackage{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := dec.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		packages[p.ImportPath] = &p
	}
	fset := token.NewFileSet()
	return packages, fset, importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) {
		p := packages[path]
		if p == nil {
			return nil, fmt.Errorf("no package %s", path)
		}
		return os.Open(p.Export)
	})
}

// foreignIn are the packages that may make a Text of what another package
// found. source.foreign knows all that they can get.
var foreignIn = []string{module + "/pkg/web", module + "/resourceserver", module + "/pkg/forwardauth"}

func (s *source) read(t *testing.T, fset *token.FileSet, imports types.Importer, p *goPackage, root string) {
	t.Helper()
	var files []*ast.File
	for _, name := range p.GoFiles {
		f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Uses: map[*ast.Ident]types.Object{}}
	conf := types.Config{Importer: imports}
	if _, err := conf.Check(p.ImportPath, fset, files, info); err != nil {
		t.Fatal(err)
	}
	own := p.ImportPath == i18nPkg
	where := func(n ast.Node) string {
		at := fset.Position(n.Pos())
		name, _ := filepath.Rel(root, at.Filename)
		return fmt.Sprintf("%s:%d", filepath.ToSlash(name), at.Line)
	}
	fault := func(n ast.Node, what string) {
		if !own {
			s.faults = append(s.faults, where(n)+": "+what)
		}
	}
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			e, ok := n.(ast.Expr)
			if !ok {
				return true
			}
			tv := info.Types[e]
			if tv.IsValue() && isText(tv.Type) && tv.Value != nil {
				s.add(constant.StringVal(tv.Value), where(e))
				return false // its parts are no messages
			}
			switch e := e.(type) {
			case *ast.BinaryExpr:
				if isText(tv.Type) {
					fault(e, "a sentence is put together with +: use Textf")
				}
			case *ast.CallExpr:
				if info.Types[e.Fun].IsType() && isText(tv.Type) {
					fault(e, "a string is converted to a Text: use Textf")
				}
				switch calleeOf(info, e) {
				case i18nPkg + ".Textf":
					if v := info.Types[e.Args[0]].Value; v != nil {
						s.add(constant.StringVal(v), where(e))
					} else {
						fault(e, "the format of Textf is not constant")
					}
				case i18nPkg + ".Foreign":
					if !slices.Contains(foreignIn, p.ImportPath) {
						fault(e, "Foreign is called: see foreignIn")
					}
				}
			}
			return true
		})
	}
}

func (s *source) add(text, where string) {
	if text == "" || strings.Trim(text, "%s") == "" { // nothing to translate
		return
	}
	if before, ok := s.messages[text]; !ok || where < before {
		s.messages[text] = where
	}
}

func isText(t types.Type) bool {
	named, ok := types.Unalias(t).(*types.Named)
	return ok && named.Obj().Name() == "Text" && named.Obj().Pkg() != nil && named.Obj().Pkg().Path() == i18nPkg
}

func calleeOf(info *types.Info, call *ast.CallExpr) string {
	var id *ast.Ident
	switch f := call.Fun.(type) {
	case *ast.SelectorExpr:
		id = f.Sel
	case *ast.Ident:
		id = f
	default:
		return ""
	}
	if f, ok := info.Uses[id].(*types.Func); ok {
		return f.FullName()
	}
	return ""
}

// foreign adds what comes from packages that know nothing of this one: the
// names of statuses, the sentences of pkg/verify, and the messages of huma
// that its validation and its reading of parameters can end in.
func (s *source) foreign(t *testing.T, packages map[string]*goPackage) {
	t.Helper()
	for status := 400; status < 600; status++ {
		s.add(http.StatusText(status), "net/http")
	}
	constants := func(pkg string, take func(n ast.Node, text string) bool) {
		p := packages[pkg]
		if p == nil {
			t.Fatalf("no package %s", pkg)
		}
		found := 0
		fset := token.NewFileSet()
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(f, func(n ast.Node) bool {
				for _, e := range operands(n) {
					lit, ok := e.(*ast.BasicLit)
					if !ok || lit.Kind != token.STRING {
						continue
					}
					text := constant.StringVal(constant.MakeFromLiteral(lit.Value, lit.Kind, 0))
					if take(n, text) {
						found++
						s.add(strings.TrimSuffix(text, ": %v"), fmt.Sprintf("%s/%s:%d", pkg, name, fset.Position(lit.Pos()).Line))
					}
				}
				return true
			})
		}
		if found == 0 {
			t.Errorf("no messages found in %s", pkg)
		}
	}
	constants(huma+"/validation", func(n ast.Node, text string) bool {
		_, isVar := n.(*ast.ValueSpec)
		return isVar && text != "unexpected property" && !strings.HasPrefix(text, "expected required property") // pkg/web says these its own way
	})
	constants(huma, func(n ast.Node, text string) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return false
		}
		name, ok := call.Fun.(*ast.SelectorExpr)
		switch {
		case !ok:
			return false
		case name.Sel.Name == "Add": // ValidateResult.Add(path, value, message)
			return len(call.Args) == 3 && strings.Contains(text, " ")
		case name.Sel.Name == "New": // errors.New, of a parameter
			return strings.HasPrefix(text, "invalid ") && !strings.HasSuffix(text, " ")
		}
		return false
	})
	for _, in := range []string{"query", "path", "header", "cookie"} {
		s.add("required "+in+" parameter is missing", huma)
	}
	constants(module+"/pkg/verify", func(n ast.Node, text string) bool {
		switch n.(type) {
		case *ast.CompositeLit, *ast.ValueSpec, *ast.KeyValueExpr:
			return strings.HasSuffix(text, ".") && strings.Contains(text, " ")
		}
		return false
	})
}

// operands are the expressions that a node has right below it.
func operands(n ast.Node) []ast.Expr {
	switch n := n.(type) {
	case *ast.ValueSpec:
		return n.Values
	case *ast.CallExpr:
		return n.Args
	case *ast.CompositeLit:
		return n.Elts
	case *ast.KeyValueExpr:
		return []ast.Expr{n.Value}
	}
	return nil
}
