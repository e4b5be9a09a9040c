package cli

// Pins the modules until their users are written; removed before the first landing.
import (
	_ "github.com/alecthomas/kong"
	_ "github.com/ccojocar/zxcvbn-go/data"
	_ "github.com/danielgtaylor/huma/v2"
	_ "github.com/danielgtaylor/huma/v2/adapters/humamux"
	_ "github.com/felixge/httpsnoop"
	_ "github.com/go-jose/go-jose/v4"
	_ "github.com/go-json-experiment/json"
	_ "github.com/google/uuid"
	_ "github.com/gorilla/mux"
	_ "github.com/lestrrat-go/jwx/v2/jwk"
	_ "github.com/lestrrat-go/jwx/v2/jws"
	_ "github.com/lestrrat-go/jwx/v2/jwt"
	_ "github.com/lib/pq/pqerror"
	_ "github.com/mattn/go-isatty"
	_ "github.com/prometheus/client_golang/prometheus/promhttp"
	_ "github.com/swaggest/swgui/v5/static"
	_ "golang.org/x/crypto/argon2"
	_ "golang.org/x/sync/errgroup"
	_ "golang.org/x/term"
	_ "golang.org/x/text/unicode/norm"
	_ "pgregory.net/rapid"
)
