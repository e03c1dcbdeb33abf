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
	// Connections and PerAddress bound the open connections, of all and of one
	// address; 0: no limit but Places.
	Connections, PerAddress int
	// Time is how long a client may take to send a request, to take the answer, and
	// to send the next request; 0: 10 seconds.
	Time time.Duration
	// Web says by which names the server may be asked; nil: those of loopback.
	Web *gateway.WebPolicy
	// Proxies are the load balancers that say whose connection it is.
	Proxies gateway.Proxies
}

// Server answers /metrics, /healthz and /readyz.
type Server struct {
	http      http.Server
	admission gateway.Admission
	log       *slog.Logger
	strangers *slog.Logger // the log for those who are not answered
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
	if opt.Web == nil {
		opt.Web = gateway.NewWebPolicy(nil, opt.Log)
	}
	if opt.Time == 0 {
		opt.Time = 10 * time.Second
	}
	s := &Server{log: opt.Log, strangers: logging.Strangers(opt.Log)}
	s.admission = gateway.Admission{
		Limiter: opt.Places.Limiter(opt.Connections, opt.PerAddress), Log: opt.Log, Proxies: opt.Proxies, HeaderTime: opt.Time,
		Refused: func(remote netip.AddrPort) { s.note("connection refused", remote, errLimit) },
		Misled:  func(balancer netip.AddrPort, err error) { s.note("connection refused", balancer, err) },
	}
	admitted := func(w http.ResponseWriter, r *http.Request) {
		if opt.Web.AdmitHTTP(w, r, "http") {
			mux.ServeHTTP(w, r)
		}
	}
	s.http = http.Server{
		Handler: http.HandlerFunc(admitted), ReadTimeout: opt.Time, WriteTimeout: opt.Time, IdleTimeout: opt.Time, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(opt.Log.Handler(), slog.LevelDebug),
	}
	return s
}

var errLimit = errors.New("connection limit reached")

func (s *Server) note(message string, remote netip.AddrPort, reason error) {
	s.strangers.Info(message, "remote", remote.String(), "transport", "http", "reason", reason.Error()) //nolint:sloglint // the messages are constants of the callers
}

// conn looks at the first bytes of a connection: the HTTP server would not log that
// they are of another protocol.
type conn struct {
	net.Conn
	srv     *Server
	remote  netip.AddrPort
	checked bool
}

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && !c.checked {
		c.checked = true
		if wrong := gateway.CheckHTTP(b[:n]); wrong != nil {
			c.srv.note("connection closed", c.remote, wrong)
			return 0, wrong
		}
	}
	return n, err
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
	l = s.admission.Listen(context.Background(), l, func(nc net.Conn, remote netip.AddrPort, leave func()) net.Conn {
		return &conn{Conn: gateway.NewAdmitted(nc, remote, leave), srv: s, remote: remote}
	})
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
