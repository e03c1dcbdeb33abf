package main

import (
	"log/slog"
	"os"

	"github.com/homing-mq/homing/internal/gateway"
)

// places are those for connections: as many as the process has file descriptors
// for, besides those that the store needs to go on.
type places struct {
	clients *gateway.Places // of MQTT and RocketMQ
	http    *gateway.Places // so that health can be asked when the others are full
	store   int             // file descriptors kept free for the store
}

// What is kept free of the file descriptors, at least: for the store a file for
// each of its segments and tables; for everything else a certificate or a users
// file that is read again, and the connections that wait for a place.
const (
	storeFiles = 16
	otherFiles = 12
	httpPlaces = 64
)

// newPlaces shares out the limit of open files (ulimit -n). It is called when the
// listeners are open.
func newPlaces(log *slog.Logger) places {
	limit := openFilesLimit()
	if limit <= 0 {
		return places{clients: gateway.NewPlaces(0), http: gateway.NewPlaces(httpPlaces), store: 1 << 20}
	}
	return sharePlaces(limit, openFiles(), log)
}

// sharePlaces shares out limit file descriptors, of which used are open.
func sharePlaces(limit, used int, log *slog.Logger) places {
	store := min(max(limit/4, storeFiles), 8192)
	http := min(max(limit/16, 4), httpPlaces)
	clients := limit - used - store - http - otherFiles
	if clients < 16 {
		log.Warn("few file descriptors are left for connections: raise the limit of open files (ulimit -n, LimitNOFILE)",
			"limit", limit, "open", used, "connections", max(clients, 1))
	}
	return places{clients: gateway.NewPlaces(max(clients, 1)), http: gateway.NewPlaces(http), store: store}
}

// openFiles is how many file descriptors are open, or a guess.
func openFiles() int {
	d, err := os.Open("/proc/self/fd")
	if err != nil {
		return 32
	}
	defer func() { _ = d.Close() }()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return 32
	}
	return len(names)
}
