package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxQMPLine bounds a message of QEMU. The answers that are asked for have a few hundred bytes. QEMU may have been taken
// over by its guest, so it is not trusted to keep to that.
const maxQMPLine = 16 << 10

// qmp is a client of QEMU's control protocol: docs/interop/qmp-spec.rst.
type qmp struct {
	conn    net.Conn
	onEvent func(name string, data json.RawMessage) // called from one goroutine
	ready   chan struct{}                           // closed when commands are accepted
	done    chan struct{}                           // closed when the connection has ended
	err     error                                   // why; valid after done

	mu      sync.Mutex
	lastID  uint64
	pending map[uint64]chan qmpMessage
	sending chan struct{} // holds one token: the right to write
}

// qmpMessage is any message that QEMU sends; exactly one of greeting, answer and event.
type qmpMessage struct {
	QMP    json.RawMessage `json:"QMP"`
	Return json.RawMessage `json:"return"`
	Error  *qmpError       `json:"error"`
	ID     *uint64         `json:"id"`
	Event  string          `json:"event"`
	Data   json.RawMessage `json:"data"`
}

type qmpError struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

func (e *qmpError) Error() string {
	return fmt.Sprintf("QEMU refused it: %.200s (%.40s)", e.Desc, e.Class)
}

// decodeQMP decodes one line.
func decodeQMP(line []byte) (qmpMessage, error) {
	var m qmpMessage
	if err := json.Unmarshal(line, &m); err != nil {
		return m, fmt.Errorf("decode a QMP message: %w", err)
	}
	kinds := 0
	for _, is := range []bool{m.QMP != nil, m.Return != nil, m.Error != nil, m.Event != ""} {
		if is {
			kinds++
		}
	}
	if kinds != 1 {
		return m, errors.New("decode a QMP message: it is not a greeting, an answer or an event")
	}
	return m, nil
}

// newQMP speaks QMP on conn, which it closes in the end. It does not wait for QEMU.
func newQMP(conn net.Conn, onEvent func(string, json.RawMessage)) *qmp {
	q := &qmp{
		conn: conn, onEvent: onEvent,
		ready: make(chan struct{}), done: make(chan struct{}),
		pending: make(map[uint64]chan qmpMessage), sending: make(chan struct{}, 1),
	}
	q.sending <- struct{}{}
	go q.read()
	return q
}

func (q *qmp) read() {
	err := q.receive(bufio.NewReaderSize(q.conn, maxQMPLine))
	q.conn.Close()
	q.err = err
	close(q.done)
}

// receive handles messages until the connection ends. The greeting comes first and is answered with the one command that
// ends the negotiation; its answer has id 0.
func (q *qmp) receive(r *bufio.Reader) error {
	greeted, negotiated := false, false
	for {
		line, err := r.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return fmt.Errorf("a QMP message is longer than %d bytes", maxQMPLine)
		}
		if err != nil {
			return fmt.Errorf("read from QMP: %w", err)
		}
		m, err := decodeQMP(line)
		if err != nil {
			return err
		}
		switch {
		case m.QMP != nil:
			if greeted {
				return errors.New("QEMU sent a second QMP greeting")
			}
			greeted = true
			if err := q.send(context.Background(), qmpCommand{Execute: "qmp_capabilities"}); err != nil {
				return err
			}
		case m.Event != "":
			q.onEvent(m.Event, m.Data)
		case m.ID == nil:
			return fmt.Errorf("QEMU sent a QMP answer to nothing: %w", errorOf(m))
		case *m.ID == 0:
			if !greeted || negotiated || m.Error != nil {
				return fmt.Errorf("negotiate QMP: %w", errorOf(m))
			}
			negotiated = true
			close(q.ready)
		default:
			q.mu.Lock()
			answer := q.pending[*m.ID]
			delete(q.pending, *m.ID)
			q.mu.Unlock()
			if answer != nil { // nobody waits any longer otherwise
				answer <- m
			}
		}
	}
}

func errorOf(m qmpMessage) error {
	if m.Error != nil {
		return m.Error
	}
	return errors.New("it is out of order")
}

type qmpCommand struct {
	Execute   string `json:"execute"`
	Arguments any    `json:"arguments,omitempty"`
	ID        uint64 `json:"id"`
	// file is handed over with the command; QEMU gets a descriptor of its own.
	file *os.File
}

// send writes a command. A QEMU that does not read blocks it until ctx ends.
func (q *qmp) send(ctx context.Context, c qmpCommand) error {
	b, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode a QMP command: %w", err)
	}
	select {
	case <-q.sending:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { q.sending <- struct{}{} }()
	expired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = q.conn.SetWriteDeadline(time.Unix(1, 0))
		close(expired)
	})
	defer func() {
		if !stop() { // it may have come too late for this command; it is not for the next
			<-expired
			_ = q.conn.SetWriteDeadline(time.Time{})
		}
	}()
	if err := q.write(append(b, '\n'), c.file); err != nil {
		q.conn.Close() // half a command may have been written
		return fmt.Errorf("write to QMP: %w", err)
	}
	return nil
}

// write writes a whole line. A file goes with its first byte: unix(7), SCM_RIGHTS.
func (q *qmp) write(line []byte, file *os.File) error {
	if file != nil {
		conn, ok := q.conn.(*net.UnixConn)
		if !ok {
			return errors.New("a file can be handed over on a unix socket only")
		}
		raw, err := file.SyscallConn() // not Fd, which would make a pipe block whoever reads from it
		if err != nil {
			return err
		}
		n := 0
		if cerr := raw.Control(func(fd uintptr) { n, _, err = conn.WriteMsgUnix(line, unix.UnixRights(int(fd)), nil) }); cerr != nil {
			return cerr
		}
		if err != nil {
			return err
		}
		line = line[n:]
	}
	_, err := q.conn.Write(line)
	return err
}

// execute runs a command without arguments and decodes its answer into result, unless that is nil.
func (q *qmp) execute(ctx context.Context, command string, result any) error {
	return q.run(ctx, qmpCommand{Execute: command}, result)
}

// run is execute for any command.
func (q *qmp) run(ctx context.Context, command qmpCommand, result any) error {
	select {
	case <-q.ready:
	case <-q.done:
		return q.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	answer := make(chan qmpMessage, 1)
	q.mu.Lock()
	q.lastID++
	id := q.lastID
	q.pending[id] = answer
	q.mu.Unlock()
	defer func() {
		q.mu.Lock()
		delete(q.pending, id)
		q.mu.Unlock()
	}()
	command.ID = id
	if err := q.send(ctx, command); err != nil {
		return err
	}
	select {
	case m := <-answer:
		if m.Error != nil {
			return m.Error
		}
		if result == nil {
			return nil
		}
		if err := json.Unmarshal(m.Return, result); err != nil {
			return fmt.Errorf("decode the answer to %s: %w", command.Execute, err)
		}
		return nil
	case <-q.done:
		return q.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// close ends the connection and waits for the last event.
func (q *qmp) close() {
	q.conn.Close()
	<-q.done
}
