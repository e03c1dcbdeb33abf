package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/homing-mq/homing/internal/mqtt"
	"github.com/homing-mq/homing/internal/rocketmq"
)

// remoting is a sender that is a RocketMQ producer of the remoting protocol. It
// sends what the Java SDK sends for each message, and has one goroutine, the
// reader, and one more while there is something to write.
type remoting struct {
	conn net.Conn
	id   messageID
	wg   sync.WaitGroup

	mu         sync.Mutex       // guards the fields below
	request    rocketmq.Command // the last one
	properties []byte           // its properties, the ID at their end
	secret     []byte           // to sign it with; nil: is not signed
	waiting    map[int32]*token // by opaque
	out, spare []byte           // to be written; memory for that
	writing    bool             // there is a writer
	err        error            // why nothing can be sent any more
}

// Where the fields of the request are that are not always the same.
const (
	fieldBorn       = 6
	fieldProperties = 8
)

// javaVersion is that of RocketMQ 5.3.3 (MQVersion).
const javaVersion = 479

// dialRemoting connects a producer that sends messages like m.
func dialRemoting(ctx context.Context, o *Senders, m *mqtt.Publish, keep bool) (sender, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", o.Address)
	if err != nil {
		return nil, err
	}
	s := &remoting{conn: conn, id: newMessageID("7F000001", 32), waiting: make(map[int32]*token)}
	e := newErrand(m, keep)
	for _, p := range append(e.properties, [2]string{"TAGS", "bench"}, [2]string{"WAIT", "true"}) {
		s.properties = rocketmq.AppendProperty(s.properties, p[0], p[1])
	}
	s.properties = append(s.properties, "UNIQ_KEY\x01"...)
	s.request = rocketmq.Command{Code: int32(rocketmq.SendMessageV2), Language: rocketmq.LanguageJava, Version: javaVersion}
	for i, value := range []string{
		"bench", e.parent, "TBW102", "4", "0", "0", fieldBorn: "", "0", fieldProperties: "", "0", "false", "0", "false", "homing",
	} {
		s.request.Ext = append(s.request.Ext, rocketmq.Field{Key: []byte{'a' + byte(i)}, Value: []byte(value)})
	}
	if o.AccessKey != "" {
		s.secret = []byte(o.Secret)
		s.request.Ext = append(s.request.Ext, rocketmq.Field{Key: []byte(rocketmq.KeyAccessKey), Value: []byte(o.AccessKey)})
	}
	s.wg.Go(s.read)
	return s, nil
}

func (s *remoting) enqueue(m *mqtt.Publish, t *token) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	r := &s.request
	r.Opaque++
	r.Flag = rocketmq.FlagOneway
	if t != nil {
		r.Flag = 0
		s.waiting[r.Opaque] = t
	}
	all := len(r.Ext)
	r.Ext[fieldBorn].Value = strconv.AppendInt(r.Ext[fieldBorn].Value[:0], time.Now().UnixMilli(), 10)
	properties := len(s.properties)
	r.Ext[fieldProperties].Value = append(append(s.properties, s.id.next()...), '\x02')
	if s.secret != nil {
		signature := rocketmq.Sign(s.secret, r.Ext, m.Payload)
		r.Ext = append(r.Ext, rocketmq.Field{Key: []byte(rocketmq.KeySignature), Value: []byte(signature)})
	}
	s.out = r.Append(s.out, rocketmq.JSON, m.Payload)
	s.properties = r.Ext[fieldProperties].Value[:properties] // with its new memory
	r.Ext = r.Ext[:all]
	return nil
}

func (s *remoting) Flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.out) > 0 && !s.writing && s.err == nil {
		s.writing = true
		s.wg.Go(s.write)
	}
}

// write writes until there is nothing left.
func (s *remoting) write() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.out) > 0 && s.err == nil {
		data := s.out
		s.out = s.spare[:0]
		s.mu.Unlock()
		_, err := s.conn.Write(data)
		s.mu.Lock()
		s.spare = data
		s.fail(err)
	}
	s.writing = false
}

// fail notes the first error. mu is held.
func (s *remoting) fail(err error) {
	if s.err == nil {
		s.err = err
	}
}

func (s *remoting) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *remoting) leave(context.Context) {
	s.mu.Lock()
	s.fail(net.ErrClosed)
	s.mu.Unlock()
	_ = s.conn.Close()
	s.wg.Wait()
}

// read is the reader. It takes answers until the connection ends.
func (s *remoting) read() {
	err := s.answers()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail(err)
}

func (s *remoting) answers() error {
	var answer rocketmq.Command
	buf := make([]byte, 64<<10) // far more than one has
	for have := 0; ; {
		n, err := s.conn.Read(buf[have:])
		if err != nil {
			return err
		}
		have += n
		start := 0
		for {
			f, size, complete, err := rocketmq.Split(buf[start:have], len(buf))
			if err != nil {
				return err
			}
			if !complete {
				break
			}
			if err := answer.Decode(f.Serialize, f.Header); err != nil {
				return err
			}
			if err := s.answered(&answer); err != nil {
				return err
			}
			start += size
		}
		have = copy(buf, buf[start:have])
		s.Flush()
	}
}

func (s *remoting) answered(answer *rocketmq.Command) error {
	if !answer.IsResponse() {
		return errors.New("the server sends requests")
	}
	s.mu.Lock()
	t := s.waiting[answer.Opaque]
	delete(s.waiting, answer.Opaque)
	s.mu.Unlock()
	if t == nil {
		return fmt.Errorf("an answer to request %d, which does not wait for it", answer.Opaque)
	}
	refusal := ""
	if code := rocketmq.ResponseCode(answer.Code); code != rocketmq.Success {
		refusal = fmt.Sprintf("%d %v", answer.Code, code)
	}
	t.acknowledged(refusal)
	return nil
}
