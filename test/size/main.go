// Size tells what the program's binary is made of, as it is built for the
// image (Dockerfile: no cgo, stripped), whatever machine this runs on:
//
//	go run ./test/size
//
// The first table has the sections of the file. The second shares the code out
// to the modules that it is of, and with it, in proportion, the tables that
// the runtime keeps about code: without them it could neither print a stack
// nor collect garbage. Types, strings and embedded files have no names in the
// file, and stay in their section.
package main

import (
	"bytes"
	"cmp"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

const program = "github.com/urbandata/urbandata"

func main() {
	log.SetFlags(0)
	if err := run(os.Stdout); err != nil {
		log.Fatal("size: ", err)
	}
}

func run(out io.Writer) (err error) {
	folder, err := os.MkdirTemp("", "urbandata-size-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	stripped, named := filepath.Join(folder, "stripped"), filepath.Join(folder, "named")
	if _, err := tool("build", "-trimpath", "-ldflags=-s -w", "-o", stripped, program); err != nil {
		return err
	}
	if _, err := tool("build", "-trimpath", "-o", named, program); err != nil {
		return err
	}
	// Of a package of the standard library: the path and a blank.
	packages, err := tool("list", "-deps", "-f", "{{.ImportPath}} {{with .Module}}{{.Path}}{{end}}", program)
	if err != nil {
		return err
	}
	info, err := os.Stat(stripped)
	if err != nil {
		return err
	}
	file, err := elf.Open(named)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	symbols, err := file.Symbols()
	if err != nil {
		return err
	}
	return write(out, info.Size(), file.Sections, shares(symbols, modules(string(packages))))
}

// tool runs the go command for the image's platform.
func tool(args ...string) ([]byte, error) {
	cmd := exec.Command("go", args...) //nolint:gosec,noctx // arguments of ours; go build ends
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go %s: %w\n%s", args[0], err, stderr.Bytes())
	}
	return out, nil
}

// modules is the module of each package.
func modules(list string) map[string]string {
	of := map[string]string{}
	for line := range strings.Lines(list) {
		path, module, _ := strings.Cut(strings.TrimSpace(line), " ")
		if module == "" {
			module = "standard library"
		}
		of[path] = module
	}
	return of
}

// share is the code of a module, in bytes.
type share struct {
	module string
	code   uint64
}

// shares are the modules with code, those with the most first.
func shares(symbols []elf.Symbol, module map[string]string) []share {
	code := map[string]uint64{}
	for _, s := range symbols {
		if elf.ST_TYPE(s.Info) != elf.STT_FUNC {
			continue
		}
		m := module[packageOf(s.Name)]
		if m == "" {
			m = "made by the compiler" // equality of types, wrappers of methods
		}
		code[m] += s.Size
	}
	var all []share
	for m, n := range code {
		all = append(all, share{m, n})
	}
	slices.SortFunc(all, func(a, b share) int {
		return cmp.Or(cmp.Compare(b.code, a.code), cmp.Compare(a.module, b.module))
	})
	return all
}

// packageOf is the path of the package that a function is of: of generic
// functions that which declares them.
//
//	go.mongodb.org/mongo-driver/mongo.(*Client).Ping
//	slices.partitionOrdered[go.shape.struct { … }]
//	gopkg.in/yaml%2ev3.Unmarshal
func packageOf(symbol string) string {
	end := strings.IndexAny(symbol, "[( ") // what is in brackets may have slashes
	if end < 0 {
		end = len(symbol)
	}
	folder := strings.LastIndexByte(symbol[:end], '/') + 1
	name, _, found := strings.Cut(symbol[folder:end], ".")
	if !found {
		return ""
	}
	return symbol[:folder] + strings.ReplaceAll(name, "%2e", ".")
}

// least is the code of a module that has a line of its own.
const least = 40_000

func write(out io.Writer, size int64, sections []*elf.Section, all []share) error {
	mb := func(bytes uint64) string { return fmt.Sprintf("%5.2f", float64(bytes)/1e6) }
	var b strings.Builder
	fmt.Fprintf(&b, "   MB  of the file\n%5.2f  all of it, stripped\n", float64(size)/1e6)
	section := map[string]uint64{}
	for _, s := range sections {
		section[s.Name] = s.FileSize
	}
	for _, s := range [][2]string{
		{".text", "code"},
		{".gopclntab", "tables about code"},
		{".rodata", "types, strings, embedded files"},
		{".noptrdata", "data without pointers"},
		{".data", "data with pointers"},
	} {
		fmt.Fprintf(&b, "%s  %s (%s)\n", mb(section[s[0]]), s[1], s[0])
	}
	b.WriteString("\n   MB   code  with its tables, of\n")
	var code, rest uint64
	for _, s := range all {
		code += s.code
	}
	line := func(n uint64, of string) {
		tables := float64(n) / float64(code) * float64(section[".gopclntab"])
		fmt.Fprintf(&b, "%s  %s  %s\n", mb(n+uint64(tables)), mb(n), of)
	}
	for _, s := range all {
		if s.code < least {
			rest += s.code
			continue
		}
		line(s.code, s.module)
	}
	line(rest, "others, each with less than 0.04 of code")
	_, err := io.WriteString(out, b.String())
	return err
}
