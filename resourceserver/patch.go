package resourceserver

import (
	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// A JSON Merge Patch (RFC 7396) of an inmueble has some of its members. Null
// removes a member, which is to say that it takes its default; of a member
// that has none the schema refuses it. Members that the server sets are
// refused too: to leave them out of a patch costs nothing, and to ignore one
// would be to answer 200 to a wish that wasn't granted.

const (
	schemaPatch   = "InmueblePatch"
	schemaElement = "InmuebleUpsert"
)

// patch is the body of a PATCH, and an element of an upsert.
type patch struct{ Row }

// Schema names and registers the schema of a PATCH's body.
func (patch) Schema(r huma.Registry) *huma.Schema {
	return register(r, schemaPatch, "Members of an inmueble to change (RFC 7396). Null stands for the default of a member that has one.", func() *huma.Schema {
		s := partial()
		s.Properties["_id"].Description = "May be left out; else it must be the one of the path"
		return s
	})
}

// elementSchema is what an upsert takes.
func elementSchema(r huma.Registry) *huma.Schema {
	return register(r, schemaElement, "An inmueble to create, or to change where one with this _id exists: then any members may be left out.", func() *huma.Schema {
		s := partial()
		s.Properties["_id"].Description = "Made by the server when it is left out"
		return s
	})
}

// partial is an object of any of the fields.
func partial() *huma.Schema {
	s := object(fields[:])
	s.Required = nil
	for i := range fields {
		p := s.Properties[fields[i].name]
		p.Default = nil
		p.Nullable = !fields[i].required
	}
	return s
}

// UnmarshalJSONFrom reads the members that are there.
func (p *patch) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	p.Inmueble = Inmueble{}
	got, bad, err := p.readJSON(dec, jsonReading{nullDefault: true})
	p.given = got
	if err == nil && bad != nil {
		err = &json.SemanticError{JSONPointer: jsontext.Pointer("/" + bad[0].Field), Err: bad}
	}
	return err
}
