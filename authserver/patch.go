package authserver

import (
	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json/jsontext"

	jsonv2 "github.com/go-json-experiment/json"
)

// patch is a text member of a JSON Merge Patch (RFC 7396): absent leaves the
// value alone, null takes it away.
type patch struct {
	Set   bool
	Value string // "" for null
}

// UnmarshalJSONFrom is called for a member that is there.
func (p *patch) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	p.Set, p.Value = true, ""
	return jsonv2.UnmarshalDecode(dec, &p.Value) // null leaves it empty
}

// Schema is that of a string or null.
func (patch) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Nullable: true}
}
