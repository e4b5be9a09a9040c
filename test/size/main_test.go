package main

import (
	"debug/elf"
	"slices"
	"strings"
	"testing"
)

func TestPackageOf(t *testing.T) {
	for symbol, want := range map[string]string{
		"main.main":                      "main",
		"runtime.mallocgc":               "runtime",
		"net/http.(*Server).Serve.func1": "net/http",
		"go.mongodb.org/mongo-driver/mongo.(*Client).Ping":                       "go.mongodb.org/mongo-driver/mongo",
		"slices.insertionSortCmpFunc[go.shape.*uint8]":                           "slices",
		"github.com/a/b/v2.Register[go.shape.struct { Body c.example/d/e.F },…]": "github.com/a/b/v2",
		"gopkg.in/yaml%2ev3.Unmarshal":                                           "gopkg.in/yaml.v3",
		"type:.eq.struct { net/http.a int }":                                     "type:",
		"_rt0_amd64_linux":                                                       "",
	} {
		if got := packageOf(symbol); got != want {
			t.Errorf("%s: %q, want %q", symbol, got, want)
		}
	}
}

func TestTable(t *testing.T) {
	f := func(name string, size uint64) elf.Symbol {
		return elf.Symbol{Name: name, Size: size, Info: elf.ST_INFO(elf.STB_LOCAL, elf.STT_FUNC)}
	}
	all := shares([]elf.Symbol{
		f("example.org/a/b.F", 1_000_000), f("example.org/a/c.(*T).M[x/y.Z]", 500_000),
		f("runtime.gc", 2_000_000), f("type:.eq.x", 500_000), f("example.org/small.F", 1_000),
		{Name: "example.org/a/b.data", Size: 1 << 30, Info: elf.ST_INFO(elf.STB_LOCAL, elf.STT_OBJECT)},
	}, modules("runtime \nexample.org/a/b example.org/a\nexample.org/a/c example.org/a\nexample.org/small example.org/small\n"))
	want := []share{{"standard library", 2_000_000}, {"example.org/a", 1_500_000}, {"made by the compiler", 500_000}, {"example.org/small", 1_000}}
	if !slices.Equal(all, want) {
		t.Fatalf("%v, want %v", all, want)
	}
	var out strings.Builder
	sections := []*elf.Section{
		{SectionHeader: elf.SectionHeader{Name: ".text", FileSize: 4_001_000}},
		{SectionHeader: elf.SectionHeader{Name: ".gopclntab", FileSize: 2_000_500}},
	}
	if err := write(&out, 9_000_000, sections, all); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		" 9.00  all of it, stripped\n", " 4.00  code (.text)\n", " 3.00   2.00  standard library\n", " 2.25   1.50  example.org/a\n",
		" 0.00   0.00  others",
	} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("no line %q in\n%s", line, &out)
		}
	}
}
