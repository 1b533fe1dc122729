package vm

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/agentkernel/agentkernel/pkg/client"
)

var (
	manyExecs   = flag.Int("execs", 300, "how many commands TestManyExecs runs one after the other")
	manyAtOnce  = flag.Int("at-once", 60, "how many commands TestManyExecs runs at once")
	manyLeakMiB = 3 // what the guest agent may grow by: the heap of a Go program is not the same twice
)

// counts are what a leak would show in.
type counts struct{ agentFDs, agentKiB, processes, groups, daemonFDs int }

func (h *home) counts(name string) counts {
	h.t.Helper()
	fields := strings.Fields(h.sh(name, "ls /proc/1/fd | wc -l; grep VmRSS /proc/1/status | grep -o '[0-9]*'; ls -d /proc/[0-9]* | wc -l; ls -d /sys/fs/cgroup/*/*/ 2>/dev/null | wc -l"))
	if len(fields) != 4 {
		h.t.Fatal(fields)
	}
	var n [4]int
	for i, f := range fields {
		var err error
		if n[i], err = strconv.Atoi(f); err != nil {
			h.t.Fatal(err)
		}
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", h.daemonPID()))
	if err != nil {
		h.t.Fatal(err)
	}
	return counts{n[0], n[1], n[2], n[3], len(fds)}
}

// began tells that something was written to it.
type began chan<- struct{}

func (b began) Write(p []byte) (int, error) {
	b <- struct{}{}
	return len(p), nil
}

// together has n commands run at the same time: none ends before the last one has begun.
func (h *home) together(c *client.Client, name string, n int) {
	h.t.Helper()
	all := make(chan struct{}, n)
	errs := make(chan error, n)
	end, ended := context.WithCancel(h.t.Context())
	defer ended()
	for range n {
		in, ending := io.Pipe()
		context.AfterFunc(end, func() { ending.Close() })
		go func() {
			exit, err := c.Exec(h.t.Context(), name, client.ExecStart{Argv: []string{"sh", "-c", "echo; read line; exit 0"}}, client.ExecIO{Stdin: in, Stdout: began(all)})
			if err == nil && exit.Code != 0 {
				err = fmt.Errorf("a command that waits for others: %+v", exit)
			}
			errs <- err
		}()
	}
	for begun := 0; begun < n; begun++ {
		select {
		case <-all:
		case err := <-errs:
			h.t.Fatalf("a command ended before the last one began: %v", err)
		}
	}
	ended()
	for range n {
		if err := <-errs; err != nil {
			h.t.Error(err)
		}
	}
}

// TestManyExecs runs commands one after the other, and many at once, and looks for what they leave behind.
func TestManyExecs(t *testing.T) {
	h := newHome(t)
	h.started("a", "--memory", "256M")
	c := client.New(filepath.Join(h.dir, "run", "daemon.sock"))
	defer c.Close()
	run := func(ctx context.Context, i int) error {
		var out bytes.Buffer
		word := strconv.Itoa(i)
		exit, err := c.Exec(ctx, "a", client.ExecStart{Argv: []string{"sh", "-c", "echo $0; exit $1", word, strconv.Itoa(i % 256)}}, client.ExecIO{Stdout: &out})
		if err == nil && (exit.Code != i%256 || out.String() != word+"\n") {
			err = fmt.Errorf("command %d: %+v, output %q", i, exit, out.String())
		}
		return err
	}
	atOnce := func(n int) {
		t.Helper()
		var all sync.WaitGroup
		errs := make(chan error, n)
		for i := range n {
			all.Go(func() { errs <- run(t.Context(), i) })
		}
		all.Wait()
		for range n {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
	}
	// What is kept for use again is to be there: as much as there can be, so the commands wait for each other.
	h.together(c, "a", *manyAtOnce)
	for range 3 {
		atOnce(*manyAtOnce)
	}
	before := h.counts("a")
	for i := range *manyExecs {
		if err := run(t.Context(), i); err != nil {
			t.Fatal(err)
		}
	}
	atOnce(*manyAtOnce)
	c.Close()
	after := h.counts("a")
	t.Logf("before %+v, after %+v", before, after)
	if after.agentFDs > before.agentFDs+2 || after.processes > before.processes+2 || // the kernel's own come and go
		after.groups > before.groups+1 ||
		after.agentKiB > before.agentKiB+manyLeakMiB<<10 || after.daemonFDs > before.daemonFDs+2 {
		t.Errorf("something is left behind: before %+v, after %+v", before, after)
	}
	if zombies := h.sh("a", "grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null; true"); zombies != "" {
		t.Errorf("zombies: %s", zombies)
	}
}
