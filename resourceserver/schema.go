package resourceserver

import (
	"math"

	"github.com/danielgtaylor/huma/v2"
)

// The three shapes that an inmueble has in requests and answers. All are
// drawn from the table of fields, so that the API's document can't differ
// from what the code checks.
const (
	schemaAnswer      = "Inmueble"
	schemaNew         = "NewInmueble"
	schemaReplacement = "InmuebleReplacement"
)

// newInmueble is the body of a POST: what the server sets is not in it.
type newInmueble struct{ Inmueble }

// Schema names and registers the schema of a POST's body.
func (newInmueble) Schema(r huma.Registry) *huma.Schema {
	return register(r, schemaNew, "An inmueble to create.", func() *huma.Schema {
		return object(fields[1:])
	})
}

// replacement is the body of a PUT. It takes what a GET answered, as it is.
type replacement struct{ Inmueble }

// Schema names and registers the schema of a PUT's body.
func (replacement) Schema(r huma.Registry) *huma.Schema {
	return register(r, schemaReplacement, "All of an inmueble, in place of what is stored. "+
		"What GET answered can be sent back: the read-only members are accepted and ignored.", func() *huma.Schema {
		s := object(fields[:])
		for _, name := range []string{nameOwner, nameCreatedAt, nameUpdatedAt} {
			s.Properties[name] = &huma.Schema{ReadOnly: true, Description: "Ignored: the server sets it"}
		}
		return s
	})
}

// answerSchema is what every answer has: all members, always.
func answerSchema(r huma.Registry) *huma.Schema {
	return register(r, schemaAnswer, "A real-estate property.", func() *huma.Schema {
		s := object(fields[:])
		s.Required = nil
		for i := range fields {
			s.Required = append(s.Required, fields[i].name)
		}
		// What was an integer has become its digits.
		otherID := fields[fieldIndex["other_id"]]
		s.Properties["other_id"] = &huma.Schema{Type: huma.TypeString, MaxLength: &otherID.bound, Description: otherID.doc}
		s.Properties[nameOwner] = &huma.Schema{
			Type: huma.TypeString, ReadOnly: true,
			Description: "The sub of the token that created it; empty when nobody owns it, as after an import",
		}
		for _, name := range []string{nameCreatedAt, nameUpdatedAt} {
			s.Properties[name] = &huma.Schema{
				Type: huma.TypeString, Format: "date-time", Nullable: true, ReadOnly: true,
				Description: "UTC, with milliseconds; null when unknown, as in data older than this server",
			}
		}
		s.Required = append(s.Required, nameOwner, nameCreatedAt, nameUpdatedAt)
		return s
	})
}

// register puts a schema among the document's components, once, and returns
// a reference to it.
func register(r huma.Registry, name, doc string, draw func() *huma.Schema) *huma.Schema {
	if _, ok := r.Map()[name]; !ok {
		s := draw()
		s.Description = doc
		s.PrecomputeMessages()
		r.Map()[name] = s
	}
	return &huma.Schema{Ref: "#/components/schemas/" + name}
}

// object draws the schema of an object of these fields and no others.
func object(of []field) *huma.Schema {
	s := &huma.Schema{Type: huma.TypeObject, Properties: map[string]*huma.Schema{}, AdditionalProperties: false}
	for i := range of {
		f := &of[i]
		s.Properties[f.name] = f.schema()
		if f.required {
			s.Required = append(s.Required, f.name)
		}
	}
	return s
}

func (f *field) schema() *huma.Schema {
	s := &huma.Schema{Description: f.doc}
	number := func(low, high float64) { s.Minimum, s.Maximum = &low, &high }
	switch f.at(&Inmueble{}).(type) {
	case *bool:
		s.Type = huma.TypeBoolean
	case *string:
		s.Type, s.MaxLength = huma.TypeString, &f.bound
		// Only for readers of the document: Validate finds a NUL faster than
		// an expression does.
		s.Extensions = map[string]any{"pattern": `^[^\u0000]*$`}
	case *int32, **int32:
		s.Type, s.Format = huma.TypeInteger, "int32"
		number(math.MinInt32, math.MaxInt32)
	case *float64:
		s.Type, s.Format = huma.TypeNumber, "double"
		number(-float64(f.bound), float64(f.bound))
	}
	switch f.at(&Inmueble{}).(type) {
	case **int32:
		s.Nullable = true
	case *int32:
		if !f.required {
			s.Default = 0
		}
	case *string:
		if !f.required {
			s.Default = ""
		}
	}
	switch f.name {
	case "_id":
		one := 1
		s.MinLength = &one
	case "other_id":
		// Two types: huma has no word for that, so it checks nothing here,
		// and the decoder and Validate do.
		s.Type = ""
		s.Extensions["type"] = []string{"string", "integer"}
		number(-maxInteger, maxInteger)
	}
	return s
}
