package cli

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/urbandata/urbandata/resourceserver"
)

type exportCmd struct {
	File   string `arg:"" optional:"" default:"-" placeholder:"FILE" help:"Where to write, or - for standard output. A name that ends in .gz or .zst is packed."`
	Format string `default:"auto" enum:"auto,json,ndjson,csv,geojson" placeholder:"auto" help:"json, ndjson, csv or geojson; by the file's name if not set, else csv."`

	Filter string `placeholder:"QUERY" help:"Which, and in which order, as in the query string of the API's list: listing_type=1&order=date.desc."`

	inmueblesDatabase `embed:""`
}

// Help is shown by --help.
func (*exportCmd) Help() string {
	return `
All inmuebles in the order of their _id, or those that --filter asks for. CSV has the columns of the original's files. What is exported as CSV or NDJSON, "urbandata import" reads again to the same documents. A file appears under its name only when it is complete.`
}

// Run writes the file and says on standard error how many inmuebles it has.
func (c *exportCmd) Run(p *program) (err error) {
	url, err := c.url(p)
	if err != nil {
		return err
	}
	query, err := resourceserver.ParseQuery(c.Filter)
	if err != nil {
		return wrongSetting("--filter", "%s", strings.TrimPrefix(err.Error(), "resourceserver: "))
	}
	packing := filepath.Ext(c.File)
	if packing != ".gz" && packing != ".zst" {
		packing = ""
	}
	format := c.format(packing)
	store, closer, err := openInmuebles(p.ctx, url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closer()) }()
	left, n := 0, 0
	docs := resourceserver.Every(p.ctx, store, query, func(resourceserver.Unreadable) { left++ })
	write := func(w io.Writer) error {
		packed, err := packer(w, packing)
		if err != nil {
			return err
		}
		if n, err = resourceserver.Export(packed, format, docs); err != nil {
			return err
		}
		return packed.Close()
	}
	if c.File == "-" {
		err = write(p.stdout)
	} else {
		err = writeWhole(c.File, write)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(p.stderr, "%d exported\n", n)
	if left > 0 {
		fmt.Fprintf(p.stderr, "%d stored documents are no valid inmuebles and were left out\n", left)
	}
	return nil
}

func (c *exportCmd) format(packing string) resourceserver.Format {
	name := c.Format
	if name == "auto" {
		name = strings.TrimPrefix(filepath.Ext(strings.TrimSuffix(c.File, packing)), ".")
	}
	for _, f := range resourceserver.Formats {
		if f.Name == name {
			return f
		}
	}
	return resourceserver.CSV
}

// packer packs what is written, by the end of the file's name.
func packer(w io.Writer, packing string) (io.WriteCloser, error) {
	switch packing {
	case ".gz":
		return gzip.NewWriter(w), nil
	case ".zst":
		return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
	}
	return plain{w}, nil
}

// plain is a writer that needs no closing.
type plain struct{ io.Writer }

func (plain) Close() error { return nil }

// writeWhole gives a file its name once it is complete and on the disk.
func writeWhole(path string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".export-*")
	if err != nil {
		return wrongSetting("FILE", "%s can't be written (%s); name a file in a folder that this user may write to", path, reason(err))
	}
	defer func() { _ = os.Remove(f.Name()) }() // gone, when it has got its name
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return wrongSetting("FILE", "%s can't be written (%s); name a file in a folder that this user may write to", path, reason(err))
	}
	return nil
}
