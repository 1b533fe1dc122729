package stress

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
	"github.com/agentkernel/agentkernel/internal/bench/census"
	"github.com/agentkernel/agentkernel/internal/procusage"
	"github.com/agentkernel/agentkernel/pkg/client"
)

// The steps of a sandbox's life, as they are reported.
const (
	stepCreate   = "create"
	stepBoot     = "boot" // with the create
	stepExec     = "exec"
	stepShutdown = "shutdown"
	stepRemove   = "remove"
)

// grace is what processes in the guest get to end. There are none, so a shutdown that takes it was none.
const grace = 10 * time.Second

// maxAnswer is how many bytes of a command's output are looked at.
const maxAnswer = 1 << 10

type outcome struct {
	name, step string // the step that failed
	err        error
	sandbox    client.Sandbox // as it started
}

// wrongAnswer says that a command succeeded and printed something else.
type wrongAnswer struct{ got, want string }

func (e *wrongAnswer) Error() string {
	return fmt.Sprintf("the answer is %.200q, not %q", e.got, e.want)
}

// one is the life of a sandbox. Whatever happens, Ctrl-C included, it is removed at the end.
func (r *runner) one(ctx context.Context, suffix string) (o outcome) {
	o.name = "stress-" + r.seed + "-" + suffix
	step := func(name string, from time.Time, f func() error) bool {
		if o.err = f(); o.err != nil {
			o.step = name
			return false
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.table.Add(name, time.Since(from))
		return true
	}
	began := time.Now()
	req := r.o.Request
	req.Name = o.name
	made, err := r.api.Create(ctx, req)
	if err == nil {
		r.mu.Lock()
		r.ids = append(r.ids, made.Id)
		r.running[made.Id] = true
		r.mu.Unlock()
	}
	defer func() {
		from := time.Now()
		rmErr := r.remove(context.WithoutCancel(ctx), o.name)
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.running, made.Id)
		switch {
		case rmErr != nil && o.err == nil:
			o.step, o.err = stepRemove, rmErr
		case rmErr != nil:
			o.err = errors.Join(o.err, fmt.Errorf("and its removal: %w", rmErr))
		case o.err == nil:
			r.table.Add(stepRemove, time.Since(from))
		}
	}()
	if err != nil {
		o.step, o.err = stepCreate, err
		return o
	}
	if !step(stepBoot, began, func() (err error) {
		o.sandbox, err = r.api.Start(ctx, o.name, r.o.Start)
		return err
	}) {
		return o
	}
	r.started(o.sandbox)
	if !step(stepExec, time.Now(), func() error { return r.ask(ctx, o.name) }) {
		return o
	}
	if u, err := procusage.Of(deref(o.sandbox.Pid), 0, true); err == nil && u.PSS > 0 {
		r.mu.Lock()
		r.sizes = append(r.sizes, u.PSS)
		r.mu.Unlock()
	}
	step(stepShutdown, time.Now(), func() error {
		from := time.Now()
		sb, err := r.api.Stop(ctx, o.name, grace)
		switch {
		case err != nil:
			return err
		case sb.State != apiv1.SandboxStateStopped:
			return fmt.Errorf("it is %s after its shutdown", sb.State)
		case time.Since(from) >= grace:
			return fmt.Errorf("it took %v, as long as a guest gets before it is killed", time.Since(from).Round(time.Millisecond))
		}
		return nil
	})
	return o
}

// started keeps what is known of a sandbox that was started.
func (r *runner) started(sb client.Sandbox) {
	vmm, err := census.Identify(deref(sb.Pid))
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		r.vmms = append(r.vmms, vmm)
	}
	from := apiv1.HygieneFromBoot
	if sb.Hygiene != nil {
		from = sb.Hygiene.From
	}
	r.report.From[string(from)]++
}

// ask has the guest compute something that nothing but a computation gives.
func (r *runner) ask(ctx context.Context, name string) error {
	// The name is different for each sandbox, and its seed for each run.
	want := fmt.Sprintf("%x  -\n", sha256.Sum256([]byte(name)))
	var out, errOut limited
	exit, err := r.api.Exec(ctx, name, client.ExecStart{Argv: []string{"sh", "-c", `printf %s "$0" | sha256sum`, name}},
		client.ExecIO{Stdout: &out, Stderr: &errOut})
	switch {
	case err != nil:
		return err
	case exit.Status() != 0:
		return fmt.Errorf("the command ended with exit code %d: %.200q", exit.Status(), errOut.String())
	case out.String() != want:
		return &wrongAnswer{out.String(), want}
	}
	return nil
}

// remove is content when there is nothing: a create that was cut short may have made a sandbox or not.
func (r *runner) remove(ctx context.Context, name string) error {
	err := r.api.Remove(ctx, name, true)
	var answer *client.Error
	if errors.As(err, &answer) && answer.Code == apiv1.ErrorCodeNotFound {
		return nil
	}
	return err
}

// limited keeps the first bytes that are written to it, and takes the others.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	_, _ = l.Buffer.Write(p[:min(len(p), max(0, maxAnswer-l.Len()))]) // never fails
	return len(p), nil
}
