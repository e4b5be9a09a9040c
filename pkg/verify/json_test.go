package verify

import (
	"errors"
	"strings"
	"testing"
)

func TestStrings(t *testing.T) {
	for _, tc := range []struct {
		in, out string
		want    error
	}{
		{`""`, "", nil},
		{`"é"`, "é", nil},
		{`"\"\\\/\b\f\n\r\t"`, "\"\\/\b\f\n\r\t", nil},
		{`"a\u00E9b\u00e9c"`, "aébéc", nil},
		{`"\ud83d\ude00"`, "😀", nil},
		{`"\u0000"`, "\x00", nil},
		{`"é\n"`, "é\n", nil},
		{`"\ufffd"`, "\ufffd", nil},

		{`"`, "", errSyntax},
		{`"a`, "", errSyntax},
		{`"\`, "", errSyntax},
		{`"\n`, "", errSyntax},
		{`"\x41"`, "", errSyntax},
		{`"\u12"`, "", errSyntax},
		{`"\u12x4"`, "", errSyntax},
		{"\"\x01\"", "", errSyntax},
		{"\"\\n\x01\"", "", errSyntax},
		{"\"\xff\"", "", errUnicode},
		{"\"\\n\xff\"", "", errUnicode},
		{"\"\xed\xa0\x80\"", "", errUnicode},
		{`"\ud800"`, "", errUnicode},
		{`"\ud800\u0041"`, "", errUnicode},
		{`"\ud800\n"`, "", errUnicode},
		{`"\ud800\u12"`, "", errSyntax},
		{`"\udc00\ud800"`, "", errUnicode},
		{`1`, "", errKind},
		{``, "", errSyntax},
		{`,`, "", errSyntax},
	} {
		r := reader{s: tc.in}
		if got, err := r.str(); got != tc.out || !errors.Is(err, tc.want) {
			t.Errorf("%s: %q, %v; want %q, %v", tc.in, got, err, tc.out, tc.want)
		}
	}
}

func TestSeconds(t *testing.T) {
	for _, tc := range []struct {
		in          string
		floor, ceil int64
		want        error
	}{
		{"0", 0, 0, nil},
		{"-0", 0, 0, nil},
		{"1.5", 1, 2, nil},
		{"-1.5", -2, -1, nil},
		{"1.0", 1, 1, nil},
		{"2e9", 2_000_000_000, 2_000_000_000, nil},
		{"1E-3", 0, 1, nil},
		{"9007199254740992", maxInteger, maxInteger, nil},

		{"9007199254740993", 0, 0, errNumber},
		{"-9007199254740993", 0, 0, errNumber},
		{"1e16", 0, 0, errNumber},
		{"-1e999", 0, 0, errNumber},
		{"00", 0, 0, errSyntax},
		{"-", 0, 0, errSyntax},
		{"1.", 0, 0, errSyntax},
		{"1e", 0, 0, errSyntax},
		{"1e+", 0, 0, errSyntax},
		{".5", 0, 0, errSyntax},
		{"+1", 0, 0, errSyntax},
		{`"1"`, 0, 0, errKind},
		{"null", 0, 0, errKind},
	} {
		r := reader{s: tc.in}
		if floor, ceil, err := r.seconds(); floor != tc.floor || ceil != tc.ceil || !errors.Is(err, tc.want) {
			t.Errorf("%s: %d, %d, %v; want %d, %d, %v", tc.in, floor, ceil, err, tc.floor, tc.ceil, tc.want)
		}
	}
}

func TestValues(t *testing.T) {
	nest := func(n int) string { return strings.Repeat(`{"a":[`, n/2) + strings.Repeat("]}", n/2) }
	for _, tc := range []struct {
		in          string
		want, loose error
	}{
		{`[1,"a",true,false,null,{},[]]`, nil, nil},
		{` [ 1 , { "a" : 2 } ] `, nil, nil},
		{nest(maxDepth), nil, nil},
		{nest(maxDepth + 2), errDepth, nil},
		{nest(maxLooseDepth + 2), errDepth, errDepth},
		{`{"a":1,"a":1}`, errDuplicate, nil},
		{`{"a":{"b":1},"b":{"b":1}}`, nil, nil},
		{`[1,]`, errSyntax, errSyntax},
		{`[1 2]`, errSyntax, errSyntax},
		{`{"a":1,}`, errSyntax, errSyntax},
		{`{"a" 1}`, errSyntax, errSyntax},
		{`{1:1}`, errKind, errKind},
		{`tru`, errSyntax, errSyntax},
		{`nul`, errSyntax, errSyntax},
		{`falsey`, errSyntax, errSyntax},
		{`[`, errSyntax, errSyntax},
		{`{`, errSyntax, errSyntax},
	} {
		for loose, want := range map[bool]error{false: tc.want, true: tc.loose} {
			r := reader{s: tc.in, loose: loose}
			err := r.value()
			if err == nil {
				err = r.end()
			}
			if !errors.Is(err, want) {
				t.Errorf("%.60s (loose %v): %v, want %v", tc.in, loose, err, want)
			}
		}
	}
}
