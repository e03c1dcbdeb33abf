// Package api is the HTTP side of the server: metrics and health. Messages over
// HTTP come here later.
package api

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/homing-mq/homing/internal/gateway"
	"github.com/homing-mq/homing/internal/logging"
)

// Options configure a Server.
type Options struct {
	Metrics prometheus.Gatherer
	// Ready returns why the server cannot take messages, or nil.
	Ready func() error
	Log   *slog.Logger
	// Places are those for connections; nil: any number.
	Places *gateway.Places
}

// Server answers /metrics, /healthz and /readyz.
type Server struct {
	http      http.Server
	admission gateway.Admission
	log       *slog.Logger
	wg        sync.WaitGroup
}

// New makes a server without listeners.
func New(opt Options) *Server {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(opt.Metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, nil) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { answer(w, opt.Ready()) })
	if opt.Places == nil {
		opt.Places = gateway.NewPlaces(0)
	}
	s := &Server{log: opt.Log}
	strangers := logging.Strangers(opt.Log)
	s.admission = gateway.Admission{Limiter: opt.Places.Limiter(0, 0), Log: opt.Log, Refused: func(remote netip.AddrPort) {
		strangers.Info("connection refused", "remote", remote.String(), "transport", "http", "reason", "connection limit reached")
	}}
	s.http = http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		ErrorLog: slog.NewLogLogger(opt.Log.Handler(), slog.LevelDebug)}
	return s
}

func answer(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = w.Write([]byte(err.Error() + "\n"))
		return
	}
	_, _ = w.Write([]byte("ok\n"))
}

// Serve answers requests from l until Shutdown.
func (s *Server) Serve(l net.Listener) {
	l = s.admission.Listen(context.Background(), l, gateway.NewAdmitted)
	s.wg.Go(func() {
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("HTTP listener stopped", "error", err)
		}
	})
}

// Shutdown lets requests under way finish.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	s.wg.Wait()
	return err
}
