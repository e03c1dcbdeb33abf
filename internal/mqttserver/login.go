package mqttserver

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"

	"github.com/homing-mq/homing/internal/broker"
	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/mqtt"
)

var (
	errNoAuth      = &mqtt.Error{Code: mqtt.CodeProtocolError, Text: "AUTH without enhanced authentication"}                        // [MQTT-4.12.0-7]
	errAuthMethod  = &mqtt.Error{Code: mqtt.CodeProtocolError, Text: "authentication method is not that of CONNECT"}                // [MQTT-4.12.0-5] [MQTT-4.12.1-1]
	errAuthOrder   = &mqtt.Error{Code: mqtt.CodeProtocolError, Text: "AUTH does not follow from what was said before"}              //
	errAuthOnly    = &mqtt.Error{Code: mqtt.CodeProtocolError, Text: "neither AUTH nor DISCONNECT before CONNACK"}                  // [MQTT-3.1.2-30]
	errAuthUnknown = &mqtt.Error{Code: mqtt.CodeBadAuthenticationMethod, Text: "authentication method is not known"}                // [MQTT-4.12.0-1]
	errAuthOther   = &mqtt.Error{Code: mqtt.CodeNotAuthorized, Text: "re-authentication as somebody else"}                          // [MQTT-4.12.1-2]
	errAuthSize    = &mqtt.Error{Code: mqtt.CodePacketTooLarge, Text: "AUTH would be larger than the client's maximum packet size"} // [MQTT-3.1.2-24]
)

// login is the enhanced authentication of a connection (section 4.12): under way,
// or with its method only, which AUTH packets must keep.
type login struct {
	method   string
	exchange mq.Exchange        // nil: none is under way
	cancel   context.CancelFunc // of the exchange
	who      entrant
	connect  []byte // body of the CONNECT, until CONNACK; nil while the reader still has it
}

// end forgets the exchange.
func (l *login) end() {
	if l != nil && l.exchange != nil {
		l.cancel()
		l.exchange, l.cancel = nil, nil
	}
}

// authenticate sets the principal.
// [MQTT-3.1.4-2]
func (c *conn) authenticate(p *mqtt.Connect, as *entrant) error {
	ctx := c.srv.ctx
	if p.HasPassword { // hashing may queue
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.srv.opt.ConnectTimeout)
		defer cancel()
	}
	cred := c.credentials(as)
	cred.HasUsername, cred.Username = p.HasUsername, string(p.Username)
	cred.HasPassword, cred.Password = p.HasPassword, p.Password
	who, err := c.srv.opt.Auth.Authenticate(ctx, cred)
	if err != nil {
		return err
	}
	c.principal = who
	return nil
}

// credentials returns what the connection itself says about the client.
func (c *conn) credentials(as *entrant) *mq.Credentials {
	cred := &c.w.credentials
	*cred = mq.Credentials{ClientID: as.id, Assigned: as.assigned, Remote: c.remote().Addr()}
	if t, ok := c.nc.(*tls.Conn); ok {
		if certs := t.ConnectionState().PeerCertificates; len(certs) > 0 {
			cred.PeerCertificate = certs[0].Raw
		}
	}
	return cred
}

// rejectLogin answers a CONNECT whose sender is not let in. What is behind the
// error goes to the log only.
func (c *conn) rejectLogin(err error, id string, b *broker.Batch) error {
	code, told := refusal(err)
	c.setReason("CONNECT refused: " + err.Error())
	c.srv.Stats.countLogin(code)
	c.principal = &mq.Principal{ClientID: id}
	return c.reject(connackCode(code, c.version), told, b)
}

// countLogin counts a refused login by why it was refused.
func (s *Stats) countLogin(code mq.Code) {
	s.AuthFailed.Add(1)
	switch code {
	case mq.TooManyAttempts:
		s.AuthTooMany.Add(1)
	case mq.Overloaded:
		s.AuthBusy.Add(1)
	}
}

// refusal is what an error of an authenticator means, and what of it the client
// is told.
func refusal(err error) (code mq.Code, told string) {
	if e, ok := errors.AsType[*mq.Error](err); ok {
		return e.Code, e.Text
	}
	return mq.StoreFailed, "the server could not check the login"
}

// begin starts an exchange. It reports false for a method that is not known.
func (c *conn) begin(l *login) bool {
	auth, ok := c.srv.opt.Auth.(mq.EnhancedAuthenticator)
	if !ok {
		return false
	}
	ctx, cancel := context.WithTimeout(c.srv.ctx, c.srv.opt.ConnectTimeout)
	exchange, ok := auth.Begin(ctx, l.method, c.credentials(&l.who))
	if !ok {
		cancel()
		return false
	}
	l.exchange, l.cancel = exchange, cancel
	return true
}

// sendAuth sends an AUTH packet, and reports false if the client does not take
// one of that size.
func (c *conn) sendAuth(code mqtt.ReasonCode, method string, data []byte, b *broker.Batch) bool {
	ack := mqtt.Auth{Code: code}
	ack.Properties.AuthMethod = []byte(method)
	ack.Properties.Set(mqtt.PropAuthMethod)
	if data != nil {
		ack.Properties.AuthData = data
		ack.Properties.Set(mqtt.PropAuthData)
	}
	return c.send(mqtt.AUTH, &ack, b)
}

// beginLogin takes a CONNECT with an authentication method; without one there is
// no AUTH from either side, and none in CONNACK [MQTT-4.12.0-6].
func (c *conn) beginLogin(p *mqtt.Connect, who entrant, w *worker, body []byte) error {
	l := &login{method: string(p.Properties.AuthMethod), who: who}
	l.who.method = l.method
	if !c.begin(l) { // [MQTT-4.12.0-1]
		return c.reject(errAuthUnknown.Code, errAuthUnknown.Text, &w.batch)
	}
	c.more().login = l
	done, err := c.login(l, p.Properties.AuthData, w)
	switch {
	case err != nil:
		return err
	case done:
		return c.attach(p, &l.who, w)
	}
	l.connect = bytes.Clone(body)
	return nil
}

// nextLogin takes a packet between CONNECT and CONNACK.
func (c *conn) nextLogin(w *worker, first byte, body []byte) error {
	l := c.detail.login
	if w.longLength {
		return c.reject(errLongLength.Code, errLongLength.Text, &w.batch)
	}
	switch mqtt.TypeOf(first) {
	case mqtt.AUTH:
	case mqtt.DISCONNECT:
		c.setReason("disconnected by the client")
		return errClosing
	default:
		return c.reject(errAuthOnly.Code, errAuthOnly.Text, &w.batch)
	}
	p := &w.auth
	err := p.Decode(first, body, c.version)
	switch {
	case err != nil:
		return c.reject(mqtt.CodeOf(err), err.Error(), &w.batch)
	case string(p.Properties.AuthMethod) != l.method:
		return c.reject(errAuthMethod.Code, errAuthMethod.Text, &w.batch)
	case p.Code != mqtt.CodeContinueAuthentication: // [MQTT-4.12.0-3]
		return c.reject(errAuthOrder.Code, errAuthOrder.Text, &w.batch)
	}
	done, err := c.login(l, p.Properties.AuthData, w)
	if err != nil || !done {
		return err
	}
	connect := &w.connect
	if err := connect.Decode(byte(mqtt.CONNECT)<<4, l.connect); err != nil {
		return err // it was decoded before
	}
	l.connect = nil
	return c.attach(connect, &l.who, w)
}

// login makes one step of the exchange before CONNACK: it answers, or reports
// that the client is let in [MQTT-4.12.0-2].
func (c *conn) login(l *login, data []byte, w *worker) (done bool, err error) {
	w.batch.Flush() // hashing may block
	reply, done, err := l.exchange.Next(data)
	w.batch.Begin()
	switch {
	case err != nil: // [MQTT-4.12.0-4]
		l.end()
		return false, c.rejectLogin(err, l.who.id, &w.batch)
	case done:
		c.principal = l.exchange.Principal()
		l.who.reply = reply
		l.end()
		return true, nil
	case !c.sendAuth(mqtt.CodeContinueAuthentication, l.method, reply, &w.batch):
		l.end()
		return false, c.reject(errAuthSize.Code, errAuthSize.Text, &w.batch)
	}
	return false, nil
}

// handleAuth takes an AUTH of a connected client: it begins or continues a
// re-authentication, which other packets may come between (section 4.12.1).
func (c *conn) handleAuth(w *worker, first byte, body []byte) error {
	p := &w.auth
	if err := p.Decode(first, body, c.version); err != nil {
		return err
	}
	if c.detail == nil || c.detail.login == nil {
		return errNoAuth
	}
	l := c.detail.login
	again := p.Code == mqtt.CodeReauthenticate
	switch {
	case string(p.Properties.AuthMethod) != l.method:
		return errAuthMethod
	case !again && p.Code != mqtt.CodeContinueAuthentication, again != (l.exchange == nil):
		return errAuthOrder
	case again && !c.begin(l):
		return errAuthUnknown
	}
	return c.relogin(l, p.Properties.AuthData, w)
}

// relogin makes one step of a re-authentication. Its failure ends the
// connection [MQTT-4.12.1-2].
func (c *conn) relogin(l *login, data []byte, w *worker) error {
	w.batch.Flush() // hashing may block
	reply, done, err := l.exchange.Next(data)
	w.batch.Begin()
	code := mqtt.CodeContinueAuthentication
	if err != nil || done {
		defer l.end()
	}
	switch {
	case err != nil:
		why, told := refusal(err)
		c.setReason("re-authentication failed: " + err.Error())
		c.srv.Stats.countLogin(why)
		return &mqtt.Error{Code: disconnectCode(why), Text: told}
	case done && *l.exchange.Principal() != *c.principal:
		return errAuthOther
	case done:
		code = mqtt.CodeSuccess
	}
	if !c.sendAuth(code, l.method, reply, &w.batch) {
		return errAuthSize
	}
	return nil
}
