package stress

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
	"github.com/agentkernel/agentkernel/pkg/client"
)

// fake is a daemon whose sandboxes are entries of a map, and directories.
type fake struct {
	mu        sync.Mutex
	dir       string
	sandboxes map[string]client.Sandbox
	made      int
	prefix    uint32 // of ids, which no other test of this machine shall have

	pid      func() int // of the daemon
	answer   func(name, right string) string
	starts   func(name string) error
	dontTidy bool // a removed sandbox's directory stays
}

func newFake(t *testing.T) *fake {
	return &fake{
		dir: t.TempDir(), prefix: rand.Uint32(), sandboxes: map[string]client.Sandbox{},
		pid:    os.Getpid,
		answer: func(_, right string) string { return right },
		starts: func(string) error { return nil },
	}
}

func (f *fake) id(n int) string { return fmt.Sprintf("%08x%08x", f.prefix, n) }

func (f *fake) Version(context.Context) (client.Version, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return client.Version{Pid: f.pid()}, nil
}

func (f *fake) List(context.Context) (l client.SandboxList, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, sb := range f.sandboxes {
		l.Sandboxes = append(l.Sandboxes, sb)
	}
	return l, nil
}

func (f *fake) Create(ctx context.Context, req client.CreateRequest) (client.Sandbox, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.made++
	sb := client.Sandbox{Id: f.id(f.made), Name: req.Name, Image: *req.Image, MemoryMib: 128}
	f.sandboxes[req.Name] = sb
	if err := os.Mkdir(filepath.Join(f.dir, sb.Id), 0o700); err != nil {
		return sb, err
	}
	return sb, ctx.Err() // the daemon has made it, and the client does not hear of it
}

func (f *fake) Start(ctx context.Context, name string, _ client.StartOptions) (client.Sandbox, error) {
	if err := errors.Join(f.starts(name), ctx.Err()); err != nil {
		return client.Sandbox{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sandboxes[name], nil
}

func (f *fake) Exec(ctx context.Context, name string, start client.ExecStart, s client.ExecIO) (client.Exit, error) {
	right := fmt.Sprintf("%x  -\n", sha256.Sum256([]byte(start.Argv[len(start.Argv)-1])))
	_, err := s.Stdout.Write([]byte(f.answer(name, right)))
	return client.Exit{}, errors.Join(err, ctx.Err())
}

func (f *fake) Stop(_ context.Context, name string, _ time.Duration) (client.Sandbox, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	sb := f.sandboxes[name]
	sb.State = apiv1.SandboxStateStopped
	return sb, nil
}

func (f *fake) Remove(_ context.Context, name string, _ bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	sb, ok := f.sandboxes[name]
	if !ok {
		return &client.Error{Code: apiv1.ErrorCodeNotFound}
	}
	delete(f.sandboxes, name)
	if f.dontTidy && !strings.HasSuffix(name, "-first") {
		return nil
	}
	return os.Remove(filepath.Join(f.dir, sb.Id))
}

func (f *fake) Pool(context.Context) (client.Pool, error) { return client.Pool{}, nil }

func (f *fake) Close() {}

func (f *fake) run(t *testing.T, ctx context.Context, count int) Report {
	t.Helper()
	image := "base"
	r, err := Run(ctx, f, Options{
		Count: count, Parallel: 3, Request: client.CreateRequest{Image: &image}, Sandboxes: f.dir, Runtime: filepath.Join(f.dir, "none"),
		Progress: func(int, int) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRun(t *testing.T) {
	f := newFake(t)
	if _, err := f.Create(t.Context(), client.CreateRequest{Name: "somebody's", Image: new(string)}); err != nil {
		t.Fatal(err)
	}
	r := f.run(t, t.Context(), 20)
	if !r.OK() || r.Passed != 20 || r.Failed != 0 || f.made != 22 || r.WallSeconds <= 0 {
		t.Errorf("%+v", r)
	}
	var steps []string
	for _, s := range r.Steps {
		steps = append(steps, fmt.Sprint(s.Name, " ", s.N))
	}
	slices.Sort(steps)
	if want := []string{"boot 20", "exec 20", "remove 20", "shutdown 20"}; !slices.Equal(steps, want) {
		t.Errorf("steps %q, want %q", steps, want)
	}
}

func TestRunTellsWrongAnswers(t *testing.T) {
	f := newFake(t)
	f.answer = func(name, right string) string {
		if strings.HasSuffix(name, "-3") || strings.HasSuffix(name, "-5") {
			return strings.Repeat("x", 100*maxAnswer)
		}
		return right
	}
	f.starts = func(name string) error {
		if strings.HasSuffix(name, "-7") {
			return errors.New("it is broken")
		}
		return nil
	}
	r := f.run(t, t.Context(), 10)
	if r.OK() || r.Passed != 7 || r.WrongAnswers != 2 || r.Failed != 3 || len(r.Failures) != 3 || len(r.Left) != 0 {
		t.Errorf("%+v", r)
	}
	for _, failure := range r.Failures {
		switch i := failure.Sandbox[len(failure.Sandbox)-1]; {
		case i == '7' && failure.Step == "boot" && failure.Error == "it is broken":
		case i != '7' && failure.Step == "exec" && strings.HasPrefix(failure.Error, `the answer is "xxx`) && len(failure.Error) < 500:
		default:
			t.Errorf("%+v", failure)
		}
	}
	if len(f.sandboxes) != 0 {
		t.Error("failed sandboxes are still there")
	}
}

func TestRunKeepsTheFirstFailures(t *testing.T) {
	f := newFake(t)
	f.answer = func(name, right string) string { return right[:len(right)*strings.Count(name, "first")] }
	if r := f.run(t, t.Context(), 2*maxFailures); r.WrongAnswers != 2*maxFailures || len(r.Failures) != maxFailures {
		t.Errorf("%d wrong answers, %d of them told", r.WrongAnswers, len(r.Failures))
	}
}

func TestRunFindsWhatIsLeft(t *testing.T) {
	f := newFake(t)
	f.dontTidy = true
	if r := f.run(t, t.Context(), 4); r.OK() || r.Passed != 4 || len(r.Left) != 4 || !strings.HasPrefix(r.Left[0], "file "+f.dir) {
		t.Errorf("%+v", r)
	}
	f = newFake(t)
	asked := 0
	f.pid = func() int { asked++; return os.Getpid() + asked - 1 }
	if r := f.run(t, t.Context(), 1); r.OK() || len(r.Left) != 1 || !strings.Contains(r.Left[0], "another daemon answers") {
		t.Errorf("%+v", r)
	}
}

func TestRunIsInterrupted(t *testing.T) {
	f := newFake(t)
	ctx, cancel := context.WithCancel(t.Context())
	f.starts = func(name string) error {
		if strings.HasSuffix(name, "-8") {
			cancel()
		}
		return nil
	}
	r := f.run(t, ctx, 1000)
	if r.OK() || !r.Interrupted || r.Failed != 0 || r.Passed == 0 || r.Passed > 12 || len(r.Left) != 0 {
		t.Errorf("%+v", r)
	}
	if len(f.sandboxes) != 0 {
		t.Error("sandboxes are still there")
	}
}

func TestRunEndsWithTheFirstSandbox(t *testing.T) {
	f := newFake(t)
	f.starts = func(string) error { return errors.New("there is no kernel") }
	image := "base"
	_, err := Run(t.Context(), f, Options{Count: 5, Parallel: 1, Request: client.CreateRequest{Image: &image}, Sandboxes: f.dir, Runtime: f.dir})
	if err == nil || !strings.Contains(err.Error(), "boot: there is no kernel") || f.made != 1 {
		t.Errorf("%v, %d sandboxes made", err, f.made)
	}
}
