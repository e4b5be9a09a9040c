package cli

import (
	"time"

	"github.com/urbandata/urbandata/authserver"
)

// accountFlags are the settings of accounts that a running authn has.
type accountFlags struct {
	DeletionGrace time.Duration `default:"720h" env:"URBANDATA_AUTH_DELETION_GRACE" help:"For how long an account that its owner deleted can be restored before it is erased. (${env})"`
}

// accounts are the settings as authserver takes them.
func (f *authnFlags) accounts() (authserver.AccountsOptions, error) {
	if f.DeletionGrace < time.Minute {
		return authserver.AccountsOptions{}, wrongSetting("--deletion-grace (URBANDATA_AUTH_DELETION_GRACE)", "it must be a minute at least, such as 720h")
	}
	return authserver.AccountsOptions{
		Sessions:      authserver.SessionLimits{Grace: f.RefreshGrace, Idle: f.RefreshIdle, Lifetime: f.SessionLifetime},
		DeletionGrace: f.DeletionGrace,
	}, nil
}
