package resourceserver

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/unicode"
	"golang.org/x/text/transform"
)

// The encodings of text that an import knows.
const (
	EncodingUTF8        = "UTF-8"
	EncodingUTF16LE     = "UTF-16LE"
	EncodingUTF16BE     = "UTF-16BE"
	EncodingWindows1252 = "Windows-1252" // of which Latin-1 is, for text, a part
)

// Encodings are the names that [ImportOptions] takes.
var Encodings = []string{EncodingUTF8, EncodingUTF16LE, EncodingUTF16BE, EncodingWindows1252}

// ErrEncoding is returned for a file that can't be unpacked or read as text.
var ErrEncoding = errors.New("resourceserver: the file can't be read as text")

const (
	// lookAhead is how much of a file is looked at to find out what it is.
	lookAhead = 64 << 10
	// zstdMemory bounds the window that a file makes us keep.
	zstdMemory = 16 << 20
)

// text is a file as UTF-8, whatever it came as.
type text struct {
	io.Reader
	packed   string // gzip, zstd or ""
	encoding func() string
	close    func()
}

// newText unpacks and decodes r. What is detected is known once enough was
// read; encoding names it, "" when all was ASCII.
func newText(r io.Reader, want string, most int64) (*text, error) {
	t := &text{close: func() {}}
	buffered := bufio.NewReaderSize(r, lookAhead)
	switch magic, _ := buffered.Peek(4); {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		unpacked, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, fmt.Errorf("%w: broken gzip: %w", ErrEncoding, err)
		}
		t.packed, buffered = "gzip", bufio.NewReaderSize(unpackError{atMost(unpacked, most), "gzip"}, lookAhead)
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		unpacked, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(zstdMemory), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, fmt.Errorf("%w: broken zstd: %w", ErrEncoding, err)
		}
		t.packed, t.close = "zstd", unpacked.Close
		buffered = bufio.NewReaderSize(unpackError{atMost(unpacked, most), "zstd"}, lookAhead)
	}
	decode := func(name string, e encoding.Encoding) {
		t.Reader = transform.NewReader(buffered, e.NewDecoder())
		t.encoding = func() string { return name }
	}
	start, err := buffered.Peek(lookAhead)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, bufio.ErrBufferFull) && len(start) == 0 {
		return nil, err
	}
	if want == "" {
		want = detectMark(start)
	}
	switch want {
	case EncodingUTF16LE:
		decode(want, unicode.UTF16(unicode.LittleEndian, unicode.UseBOM))
	case EncodingUTF16BE:
		decode(want, unicode.UTF16(unicode.BigEndian, unicode.UseBOM))
	case EncodingWindows1252:
		decode(want, charmap.Windows1252)
	default:
		if bytes.HasPrefix(start, []byte("\uFEFF")) {
			_, _ = buffered.Discard(len("\uFEFF")) // it is in the buffer
			want = EncodingUTF8
		}
		if want == EncodingUTF8 {
			t.Reader, t.encoding = buffered, func() string { return EncodingUTF8 }
			break
		}
		g := &guess{r: buffered}
		t.Reader, t.encoding = g, func() string { return g.name }
	}
	return t, nil
}

// unpackError says of an error that it is the packing's, and no end of the
// file.
type unpackError struct {
	io.Reader
	packed string
}

func (u unpackError) Read(p []byte) (int, error) {
	n, err := u.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("%w: broken %s: %w", ErrEncoding, u.packed, err)
	}
	return n, err
}

// errUnpacks is returned for a packed file that is more than may be.
var errUnpacks = errors.New("it unpacks to too much")

// bounded ends with errUnpacks.
type bounded struct {
	io.Reader
	left int64
}

// atMost bounds what is read, unless most is 0.
func atMost(r io.Reader, most int64) io.Reader {
	if most == 0 {
		return r
	}
	return &bounded{r, most}
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errUnpacks
	}
	n, err := b.Reader.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// detectMark finds UTF-16, by its byte order mark, or by the zero bytes that
// every other byte of a header row is then.
func detectMark(start []byte) string {
	switch {
	case bytes.HasPrefix(start, []byte{0xff, 0xfe}):
		return EncodingUTF16LE
	case bytes.HasPrefix(start, []byte{0xfe, 0xff}):
		return EncodingUTF16BE
	}
	const few = 64
	if len(start) < 4 {
		return ""
	}
	var zeros [2]int
	n := min(len(start), few) &^ 1
	for i, c := range start[:n] {
		if c == 0 {
			zeros[i%2]++
		}
	}
	switch half := n / 2; {
	case zeros[1] > half*3/4 && zeros[0] == 0:
		return EncodingUTF16LE
	case zeros[0] > half*3/4 && zeros[1] == 0:
		return EncodingUTF16BE
	}
	return ""
}

// guess reads UTF-8 or Windows-1252: which, it decides at the first byte that
// isn't ASCII, by what follows. Up to there both are the same, so that a file
// whose first ñ is a gigabyte away is read right, too.
type guess struct {
	r    *bufio.Reader
	name string
	out  io.Reader // once it is decided
}

func (g *guess) Read(p []byte) (int, error) {
	if g.out != nil {
		return g.out.Read(p)
	}
	if _, err := g.r.Peek(1); err != nil {
		return 0, err
	}
	window, _ := g.r.Peek(g.r.Buffered())
	ascii := len(window)
	for i, c := range window {
		if c >= utf8.RuneSelf {
			ascii = i
			break
		}
	}
	if ascii > 0 {
		return g.r.Read(p[:min(len(p), ascii)])
	}
	window, _ = g.r.Peek(lookAhead) // what there is
	if looksLikeUTF8(window) {
		g.name, g.out = EncodingUTF8, g.r
	} else {
		g.name, g.out = EncodingWindows1252, transform.NewReader(g.r, charmap.Windows1252.NewDecoder())
	}
	return g.out.Read(p)
}

// looksLikeUTF8 counts: a broken character in a UTF-8 file is a bad row, and
// no reason to read all others wrong.
func looksLikeUTF8(window []byte) bool {
	good, bad := 0, 0
	for len(window) > 0 {
		c, size := utf8.DecodeRune(window)
		switch {
		case c == utf8.RuneError && size == 1:
			if !utf8.FullRune(window) { // cut off by the window's end
				size = len(window)
				break
			}
			bad++
		case size > 1:
			good++
		}
		window = window[size:]
	}
	return good > 0 && good >= bad || bad == 0
}
