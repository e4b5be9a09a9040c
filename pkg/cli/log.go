package cli

import (
	"log/slog"
	"os"

	"github.com/mattn/go-isatty"
)

// logging is how and how much is logged.
type logging struct {
	Level  string `enum:"debug,info,warn,error" default:"info" env:"URBANDATA_LOG_LEVEL" help:"Least level that is logged: debug, info, warn or error. (${env})"`
	Format string `enum:"auto,text,json" default:"auto" env:"URBANDATA_LOG_FORMAT" help:"text, json, or auto: text on a terminal, json otherwise. (${env})"`
}

// logger writes to standard error.
func (l *logging) logger(p *program) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.Level)); err != nil { // kong has checked it
		level = slog.LevelInfo
	}
	options := &slog.HandlerOptions{Level: level}
	f, isFile := p.stderr.(*os.File)
	if l.Format == "text" || l.Format == "auto" && isFile && isatty.IsTerminal(f.Fd()) {
		return slog.New(slog.NewTextHandler(p.stderr, options))
	}
	return slog.New(slog.NewJSONHandler(p.stderr, options))
}
