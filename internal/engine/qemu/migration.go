package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// migrationStream is the name by which QEMU knows the descriptor that it is to write a stream to.
const migrationStream = "stream"

// migrationBytesPerSecond is no limit: QEMU's own is one for networks.
const migrationBytesPerSecond = 1 << 40

// pipeBytes is the size of a stream's pipe, and of the pieces that are read from it. It is as much as Linux lets anybody have:
// /proc/sys/fs/pipe-max-size.
const pipeBytes = 1 << 20

// cancelTimeout is how long QEMU may take to give up a migration.
const cancelTimeout = 30 * time.Second

// migration is QEMU's way to write a microVM's memory and devices to a stream and to read them from one: docs/devel/migration,
// qapi/migration.json. There is one at a time.
//
// The stream is a pipe in both directions, with us at its other end: that is what every QEMU takes. (Files by `fd:` are gone from
// newer ones, `file:` is not in older ones, and `exec:` is what the seccomp filter is there to refuse.)
type migration struct {
	ended chan string // the status in which the last one has ended
}

func newMigration() migration { return migration{ended: make(chan string, 1)} }

// onEvent takes the event MIGRATION.
func (m migration) onEvent(data json.RawMessage) {
	var event struct {
		Status string `json:"status"`
	}
	if json.Unmarshal(data, &event) != nil {
		return
	}
	switch event.Status {
	case "completed", "failed", "cancelled":
		select {
		case m.ended <- event.Status:
		default: // more than one end, of which the first counts
		}
	}
}

// prepare sets what holds for the next migration. Without shared memory, none that is mapped from a file and shared is in the stream.
func (m migration) prepare(ctx context.Context, q *qmp, sharedMemory bool) error {
	select {
	case <-m.ended: // of one that somebody else has waited for in vain
	default:
	}
	type capability struct {
		Capability string `json:"capability"`
		State      bool   `json:"state"`
	}
	return q.run(ctx, qmpCommand{Execute: "migrate-set-capabilities", Arguments: map[string]any{
		"capabilities": []capability{{"events", true}, {"x-ignore-shared", !sharedMemory}},
	}}, nil)
}

// save writes a microVM that does not run to w, of at most limit bytes. It returns when all is written. On error the microVM is as
// it was, unless QEMU does not answer any more.
func (m migration) save(ctx context.Context, q *qmp, w io.Writer, limit int64, sharedMemory bool) error {
	if err := m.prepare(ctx, q, sharedMemory); err != nil {
		return err
	}
	err := q.run(ctx, qmpCommand{Execute: "migrate-set-parameters", Arguments: map[string]any{"max-bandwidth": int64(migrationBytesPerSecond)}}, nil)
	if err != nil {
		return err
	}
	ours, theirs, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make a pipe: %w", err)
	}
	defer ours.Close()
	widen(theirs)
	err = q.run(ctx, qmpCommand{Execute: "getfd", Arguments: map[string]any{"fdname": migrationStream}, file: theirs}, nil)
	theirs.Close()
	if err != nil {
		return err
	}
	copied := make(chan error, 1)
	go func() {
		// A writer of its own type: os.File would look for a way to have the kernel copy, and find none for a pipe.
		n, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{io.LimitReader(ours, limit+1)}, make([]byte, pipeBytes))
		if err == nil && n > limit {
			err = fmt.Errorf("QEMU writes more than %d bytes", limit)
		}
		ours.Close() // a QEMU that still writes fails
		copied <- err
	}()
	err = q.run(ctx, qmpCommand{Execute: "migrate", Arguments: map[string]any{"uri": "fd:" + migrationStream}}, nil)
	if err != nil {
		// QEMU may have taken the descriptor or not.
		err = errors.Join(err, m.closeStream(ctx, q))
	} else {
		err = m.wait(ctx, q)
	}
	if err != nil {
		ours.Close()
		return errors.Join(err, explainCopy(<-copied))
	}
	select {
	case err := <-copied: // QEMU has closed its end
		return err
	case <-ctx.Done():
		ours.Close()
		return errors.Join(context.Cause(ctx), explainCopy(<-copied))
	}
}

// explainCopy leaves out that the pipe was closed here.
func explainCopy(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// closeStream takes the descriptor of a migration that was refused back from QEMU.
func (m migration) closeStream(ctx context.Context, q *qmp) error {
	err := q.run(ctx, qmpCommand{Execute: "closefd", Arguments: map[string]any{"fdname": migrationStream}}, nil)
	var refused *qmpError
	if errors.As(err, &refused) { // it has none of that name any more
		return nil
	}
	return err
}

// load reads a microVM from the descriptor that QEMU inherited. The caller writes to it meanwhile.
func (m migration) load(ctx context.Context, q *qmp, fd int, sharedMemory bool) error {
	if err := m.prepare(ctx, q, sharedMemory); err != nil {
		return err
	}
	if err := q.run(ctx, qmpCommand{Execute: "migrate-incoming", Arguments: map[string]any{"uri": fmt.Sprintf("fd:%d", fd)}}, nil); err != nil {
		return err
	}
	return m.wait(ctx, q)
}

// wait waits for the end of a migration, and cancels it when ctx ends before.
func (m migration) wait(ctx context.Context, q *qmp) error {
	select {
	case status := <-m.ended:
		return m.result(ctx, q, status)
	case <-q.done:
		return q.err
	case <-ctx.Done():
	}
	cause := context.Cause(ctx)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelTimeout)
	defer cancel()
	if err := q.execute(ctx, "migrate_cancel", nil); err != nil {
		return errors.Join(cause, fmt.Errorf("cancel a migration: %w", err))
	}
	select {
	case <-m.ended: // whatever the status: nobody waits for what it has done
		return cause
	case <-q.done:
		return errors.Join(cause, q.err)
	case <-ctx.Done():
		return errors.Join(cause, errors.New("QEMU does not end a migration that was cancelled"))
	}
}

// result has QEMU's words for a migration that did not complete.
func (m migration) result(ctx context.Context, q *qmp, status string) error {
	if status == "completed" {
		return nil
	}
	var info struct {
		Desc string `json:"error-desc"`
	}
	if err := q.execute(ctx, "query-migrate", &info); err != nil || info.Desc == "" {
		return fmt.Errorf("QEMU's migration %s", status)
	}
	return fmt.Errorf("QEMU's migration %s: %.400s", status, info.Desc)
}
