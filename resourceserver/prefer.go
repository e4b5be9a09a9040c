package resourceserver

import "strings"

// prefer is what a Prefer header asks for (RFC 7240), as far as it is known
// here. What isn't is ignored, as the RFC wants.
type prefer struct {
	ret        string // minimal, representation or ""
	resolution string // merge-duplicates, ignore-duplicates or ""
	count      string // exact, estimated or ""
}

// The counts that can be asked for; PostgREST's planned is estimated here.
const (
	countExact     = "exact"
	countEstimated = "estimated"
)

// parsePrefer reads the field. Of a preference that is given twice the first
// counts.
func parsePrefer(header string) (p prefer) {
	for part := range strings.SplitSeq(header, ",") {
		part, _, _ = strings.Cut(part, ";") // its parameters
		name, value, _ := strings.Cut(part, "=")
		value = strings.ToLower(strings.Trim(strings.TrimSpace(value), `"`))
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "return":
			if p.ret == "" && (value == "minimal" || value == "representation") {
				p.ret = value
			}
		case "resolution":
			if p.resolution == "" && (value == "merge-duplicates" || value == "ignore-duplicates") {
				p.resolution = value
			}
		case "count":
			switch {
			case p.count == "" && value == countExact:
				p.count = countExact
			case p.count == "" && (value == countEstimated || value == "planned"):
				p.count = countEstimated
			}
		}
	}
	return p
}

func (p prefer) minimal() bool { return p.ret == "minimal" }

// onDuplicate is what resolution means.
func (p prefer) onDuplicate() OnDuplicate {
	switch p.resolution {
	case "merge-duplicates":
		return MergeDuplicate
	case "ignore-duplicates":
		return SkipDuplicate
	}
	return FailDuplicate
}

// applied is the Preference-Applied of the answer.
func (p prefer) applied() string {
	var done []string
	if p.ret != "" {
		done = append(done, "return="+p.ret)
	}
	if p.resolution != "" {
		done = append(done, "resolution="+p.resolution)
	}
	return strings.Join(done, ", ")
}
