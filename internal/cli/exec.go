package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/terminal"
	"github.com/agentkernel/agentkernel/pkg/client"
)

// execFlags are the flags of exec and run.
type execFlags struct {
	env         []string
	cwd, user   string
	interactive bool
	tty         bool
	timeout     time.Duration
	record      recordFlags

	detach bool
	memory string
	pids   int
}

// register adds the flags of a command that takes another one.
func (f *execFlags) register(cmd *cobra.Command) {
	f.registerCommon(cmd)
	fs := cmd.Flags()
	fs.SetInterspersed(false) // what follows the first argument belongs to the guest's command
	fs.BoolVarP(&f.interactive, "interactive", "i", false, "connect stdin")
	fs.BoolVarP(&f.tty, "tty", "t", false, "give the command a terminal; with -i, this one")
}

// registerCommon adds the flags that shell has as well.
func (f *execFlags) registerCommon(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringArrayVarP(&f.env, "env", "e", nil, "environment variable, KEY=VALUE, or KEY to pass on this one's")
	fs.StringVarP(&f.cwd, "workdir", "w", "", "directory in the guest (default /workspace with a project, else the image's working directory, else the user's home)")
	fs.StringVarP(&f.user, "user", "u", "", "user in the guest: name or uid, with :group or :gid (default the image's, else root)")
	fs.DurationVar(&f.timeout, "timeout", 0, "kill the command after this time (default none)")
	f.record.register(cmd)
}

func (f *execFlags) start(argv []string) (client.ExecStart, error) {
	start := client.ExecStart{Argv: argv}
	if f.timeout < 0 || f.timeout.Milliseconds() > 1<<32-1 {
		return start, sandbox.Errorf(sandbox.Invalid, "use a time of up to 49 days", "--timeout %v is out of range", f.timeout)
	}
	if f.timeout > 0 {
		ms := int(max(1, f.timeout.Milliseconds()))
		start.TimeoutMs = &ms
	}
	if err := f.limits(&start); err != nil {
		return start, err
	}
	if f.cwd != "" {
		start.Cwd = &f.cwd
	}
	if f.user != "" {
		start.User = &f.user
	}
	var vars []string
	for _, v := range f.env {
		key, _, has := strings.Cut(v, "=")
		if key == "" {
			return start, sandbox.Errorf(sandbox.Invalid, "write it as KEY=VALUE", "--env %q has no name", v)
		}
		if !has {
			value, set := os.LookupEnv(key)
			if !set {
				continue
			}
			v = key + "=" + value
		}
		vars = append(vars, v)
	}
	if vars != nil {
		start.Env = &vars
	}
	return start, nil
}

// registerLimits adds the flags for limits of a command.
func (f *execFlags) registerLimits(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.memory, "memory", "", "limit on the memory of the command's processes, such as 256m (default none)")
	fs.IntVar(&f.pids, "pids-limit", 0, "limit on the command's processes and threads (default half of what the guest's kernel can have)")
}

// limits sets the limits of a command.
func (f *execFlags) limits(start *client.ExecStart) error {
	if f.memory != "" {
		bytes, err := units.RAMInBytes(f.memory)
		if err != nil || bytes < 1<<20 {
			return sandbox.Errorf(sandbox.Invalid, "write it as 256m or 2g; 1m at least", "--memory %q is not an amount of memory", f.memory)
		}
		mib := int(bytes >> 20)
		start.MemoryMib = &mib
	}
	if f.pids < 0 {
		return sandbox.Errorf(sandbox.Invalid, "use 1 or more", "--pids-limit %d is out of range", f.pids)
	}
	if f.pids > 0 {
		start.PidsLimit = &f.pids
	}
	return nil
}

func execCommand(e *env) *cobra.Command {
	var f execFlags
	cmd := &cobra.Command{
		Use: "exec [flags] NAME COMMAND [ARG…]", Short: "Run a command in a running sandbox",
		Long: "Run a command in a running sandbox. Its exit code becomes this one's; 128+n when a signal ended it, 127 when there is\n" +
			"no such command, 126 when it cannot be run, 125 for an error of agentkernel. SIGINT and SIGTERM are passed on to the\n" +
			"command; the second one kills it. With --json, each event is a line of JSON.\n\n" +
			"With -it the command has this terminal: keys, Ctrl-C and Ctrl-Z among them, go to it, and so do changes of the size.\n" +
			"Told to end meanwhile (SIGTERM, SIGHUP), agentkernel hangs up on the command. --record writes what is shown to a file.\n\n" +
			"With -d the command runs in the background, and its id is printed: see ps, logs --exec, attach, wait and kill.",
		Example: "  agentkernel exec my-project echo \"hello from microVM\"\n  agentkernel exec -it my-project vi notes.txt\n  agentkernel exec -d my-project python3 -m http.server",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			argv := args[1:]
			if argv[0] == "--" {
				argv = argv[1:]
			}
			start, err := f.start(argv)
			if err != nil {
				return err
			}
			c, err := e.connectLate()
			if err != nil {
				return err
			}
			defer c.Close()
			if f.detach {
				return e.execDetached(cmd.Context(), c, args[0], start, &f)
			}
			return e.exec(c, args[0], start, &f)
		},
	}
	f.register(cmd)
	f.registerLimits(cmd)
	cmd.Flags().BoolVarP(&f.detach, "detach", "d", false, "run the command in the background and print its id")
	return cmd
}

// execDetached starts a command in the background.
func (e *env) execDetached(ctx context.Context, c *client.Client, name string, start client.ExecStart, f *execFlags) error {
	if f.record.file != "" {
		return sandbox.Errorf(sandbox.Invalid, "record when you attach, or run it in the foreground", "--record needs the command's output, and -d leaves it in the guest")
	}
	start.Detach, start.Stdin = &f.detach, &f.interactive
	if f.tty {
		setTerminal(&start, e.screenSize())
	}
	exit, err := c.Exec(ctx, name, start, client.ExecIO{})
	if err != nil {
		return err
	}
	if e.json {
		return e.printJSON(map[string]string{"id": exit.ID})
	}
	_, err = fmt.Fprintln(e.out, exit.ID)
	return err
}

// exec runs a command with this process's streams and signals, or on its terminal, and returns nil, an exitError with its
// exit code, or why it did not run.
func (e *env) exec(c *client.Client, name string, start client.ExecStart, f *execFlags) (err error) {
	if err := e.checkTerminal(f); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	streams := client.ExecIO{Stdout: e.out, Stderr: e.errOut}
	if f.interactive {
		streams.Stdin = e.in
	}
	if e.json {
		enc := json.NewEncoder(e.out)
		streams.Stdout, streams.Stderr = jsonWriter{enc, "stdout"}, jsonWriter{enc, "stderr"}
	}
	size := e.screenSize()
	if f.tty {
		setTerminal(&start, size)
	}
	rec, err := f.record.create(start.Argv, size, hostTerm())
	if err != nil {
		return err
	}
	if rec != nil {
		defer func() { err = e.endRecording(rec, err) }()
	}
	var exit client.Exit
	if f.tty && f.interactive {
		exit, err = e.onTerminal(ctx, streams, terminalUse{rec: rec, input: f.record.input}, func(ctx context.Context, streams client.ExecIO) (client.Exit, error) {
			return c.Exec(ctx, name, start, streams)
		})
	} else {
		streams = recorded(streams, rec, f.record.input, !f.tty)
		streams.Signals = forwardSignals(ctx, cancel)
		if screen := terminal.File(e.out); screen != nil && f.tty {
			streams.Sizes = passSizes(ctx, terminal.WatchSize(ctx, screen), rec)
		}
		exit, err = c.Exec(ctx, name, start, streams)
	}
	return e.execResult(exit, err, f.timeout)
}

// execResult is what exec returns for the end of a command.
func (e *env) execResult(exit client.Exit, err error, timeout time.Duration) error {
	var out *client.OutputError
	switch {
	case errors.As(err, &out) && errors.Is(err, syscall.EPIPE):
		return exitError(128 + int(syscall.SIGPIPE)) // as a command that writes to a closed pipe itself
	case err != nil:
		return err
	}
	if e.json {
		err := json.NewEncoder(e.out).Encode(map[string]any{"type": "exit", "code": exit.Code, "signal": exit.Signal, "timed_out": exit.TimedOut, "oom_killed": exit.OOMKilled, "status": exit.Status()})
		if err != nil {
			return err
		}
	}
	if exit.TimedOut {
		fmt.Fprintf(e.errOut, "agentkernel: the command was killed after %v\n", timeout)
	}
	if exit.OOMKilled {
		fmt.Fprintln(e.errOut, "agentkernel: the command had more memory than its limit, and the guest's kernel killed a process of it")
	}
	if exit.Status() != 0 {
		return exitError(exit.Status())
	}
	return nil
}

// forwardSignals returns a channel of the signals that this process gets and the guest's command shall get. A second SIGINT
// or SIGTERM calls cancel.
func forwardSignals(ctx context.Context, cancel context.CancelFunc) <-chan int {
	got := make(chan os.Signal, 4)
	signal.Notify(got, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	out := make(chan int)
	go func() {
		defer signal.Stop(got)
		for n := 0; ; n++ {
			select {
			case s := <-got:
				if n > 0 {
					cancel()
					return
				}
				select {
				case out <- int(s.(syscall.Signal)):
				case <-got:
					cancel()
					return
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// jsonWriter writes each piece of output as a line of JSON: in data when it is UTF-8, else in base64.
type jsonWriter struct {
	enc  *json.Encoder
	kind string
}

func (w jsonWriter) Write(p []byte) (int, error) {
	event := map[string]any{"type": w.kind}
	if utf8.Valid(p) {
		event["data"] = string(p)
	} else {
		event["base64"] = p // encoding/json writes a []byte so
	}
	return len(p), w.enc.Encode(event)
}

var _ io.Writer = jsonWriter{}
