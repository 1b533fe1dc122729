package kernel

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

// runner runs the programs of one build, with everything they print going to
// the build's log.
type runner struct {
	dir string
	env []string
	log io.Writer
}

// buildEnv is the whole environment of a build. Nothing else of the caller's
// gets in: ARCH, CFLAGS, or the job server of a make that started us, would
// change or break the build.
func buildEnv() []string {
	env := []string{
		"LC_ALL=C", "TZ=UTC",
		// Same inputs, same bytes: no time, user or host of this build.
		"KBUILD_BUILD_TIMESTAMP=Thu Jan  1 00:00:00 UTC 1970",
		"KBUILD_BUILD_USER=agentkernel", "KBUILD_BUILD_HOST=agentkernel", "KBUILD_BUILD_VERSION=1",
		// Set, though empty: no "+" for a source tree inside a git work tree.
		"LOCALVERSION=",
	}
	for _, name := range []string{"PATH", "HOME", "TMPDIR"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// run runs a program in the build's directory, in a process group of its own
// that dies with ctx. onLine, if given, sees each line of its output.
func (r *runner) run(ctx context.Context, stdin io.Reader, onLine func(string), name string, args ...string) error {
	fmt.Fprintf(r.log, "+ %s %s\n", name, strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env, cmd.Stdin = r.dir, r.env, stdin
	out := &lineWriter{onLine: onLine}
	// One writer for both, so that the log has lines in the order they came.
	w := io.MultiWriter(r.log, out)
	cmd.Stdout, cmd.Stderr = w, w
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		return fmt.Errorf("run %s: %w", name, context.Cause(ctx))
	}
	if err != nil {
		return fmt.Errorf("run %s: %w", name, err)
	}
	return nil
}

// lineWriter hands what is written to it on in whole lines.
type lineWriter struct {
	onLine func(string)
	rest   []byte
}

func (w *lineWriter) Write(p []byte) (int, error) {
	if w.onLine == nil {
		return len(p), nil
	}
	w.rest = append(w.rest, p...)
	for {
		i := bytes.IndexByte(w.rest, '\n')
		if i < 0 {
			return len(p), nil
		}
		w.onLine(string(w.rest[:i]))
		w.rest = w.rest[i+1:]
	}
}

// compiledObject matches the line that the kernel's make prints for each
// object it compiles or assembles for the target: "  CC      mm/slub.o".
var compiledObject = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^  (?:CC|AS) +(\S+)$`) })

// objectCounter turns make's output into progress.
type objectCounter struct {
	done, total int64
	report      func(Event)
}

func (c *objectCounter) line(s string) {
	m := compiledObject().FindStringSubmatch(s)
	if m == nil {
		return
	}
	c.done++
	c.report(Event{Phase: PhaseCompile, Done: c.done, Total: max(c.total, c.done), Detail: m[1]})
}

// logTail gives the last lines of a log file, for an error message.
func logTail(path string, lines int) string {
	const most = 8 << 10
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > most {
		if _, err := f.Seek(-most, io.SeekEnd); err != nil {
			return ""
		}
	}
	text, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return ""
	}
	all := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return strings.Join(all, "\n")
}
