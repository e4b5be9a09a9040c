package keys

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/lib/pq"
)

// channel is what [SQLStore] notifies on PostgreSQL within each swap, with the
// ring's new version. A listener needs a session of its own, so it hears
// nothing through a pooler that shares sessions; polling is enough without it.
const channel = "urbandata_signing_ring"

// Listen calls wake whenever a replica has stored a new ring in a PostgreSQL
// database, until ctx ends: give it [Keeper.Wake], and every replica has the
// ring within a second instead of a Tick. It reconnects by itself, and wakes
// after each reconnect, for what it may have missed. Losing it is logged and
// harmless. dsn is a URL or a connection string as lib/pq reads them.
func Listen(ctx context.Context, dsn string, log *slog.Logger, wake func()) error {
	return ListenOn(ctx, dsn, channel, log, wake)
}

// ListenOn is [Listen] for another channel of the same database: replicas tell
// each other by it what they otherwise see when they look the next time.
func ListenOn(ctx context.Context, dsn, channel string, log *slog.Logger, wake func()) error {
	listener := pq.NewListener(dsn, time.Second, time.Minute, func(event pq.ListenerEventType, err error) {
		if event == pq.ListenerEventDisconnected || event == pq.ListenerEventConnectionAttemptFailed {
			log.WarnContext(ctx, "other replicas' changes are seen with each tick only, until the database can be listened to again", "channel", channel, "err", err)
		}
	})
	// Closing is what ends a Listen that waits for its first connection.
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	if err := listener.Listen(channel); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		_ = listener.Close()
		return fmt.Errorf("keys: listen on %s: %w", channel, err)
	}
	wake() // for what happened before
	ping := time.NewTicker(listenPing)
	defer ping.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, open := <-listener.Notify: // nil after a reconnect
			if !open {
				return nil
			}
			wake()
		case <-ping.C:
			// A connection that broke without a word shows here. Ping only
			// writes, so it doesn't hold up a notification for long.
			if err := listener.Ping(); err != nil {
				log.DebugContext(ctx, "the listener's connection is gone", "err", err)
			}
		}
	}
}

// listenPing is how often the listener's connection is tried.
const listenPing = 30 * time.Second
