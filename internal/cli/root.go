// Package cli is the command line: one file a command. Every command that deals with sandboxes is a client of the daemon's
// API; building kernels and images happens in the command's own process.
//
// Output: what was asked for goes to stdout, everything else to stderr. An error is one line "agentkernel: …", followed by
// "hint: …" when there is something to do about it. Exit codes: 0; the guest command's own; 128+n when a signal ended it;
// 125 for an error of agentkernel; 126 and 127 when the guest's command cannot be run or found; 130 for Ctrl-C.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/internal/app"
	"github.com/agentkernel/agentkernel/internal/paths"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/pkg/client"
)

// exitOurs is the exit code for an error that is not the guest command's.
const exitOurs = 125

// env is what commands share.
type env struct {
	in     io.Reader
	out    io.Writer
	errOut io.Writer
	json   bool
}

// exitError ends the program with a code and without a message: it has been said already, or the guest said it.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// Main runs the command line and returns the exit code.
func Main(args []string) int {
	if app.IsConfinement(args) { // not the command line: a VMM on its way into its confinement
		return app.Confine(args, os.Stdout, os.Stderr)
	}
	e := &env{in: os.Stdin, out: os.Stdout, errOut: os.Stderr}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newRoot(e, args)
	root.SetArgs(args)
	return e.exit(ctx, root.ExecuteContext(ctx))
}

// newRoot makes the command line for args. When they begin with a command's name, the others are left out.
func newRoot(e *env, args []string) *cobra.Command {
	root := &cobra.Command{
		Use:           "agentkernel",
		Short:         "A microVM of its own for each coding agent",
		Long:          "Agentkernel gives a coding agent a computer of its own: a microVM with its own kernel that starts in milliseconds\nand can be thrown away.",
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       app.Version,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetIn(e.in)
	root.SetOut(e.out)
	root.SetErr(e.errOut)
	root.SetVersionTemplate("{{.Version}}\n")
	root.PersistentFlags().BoolVar(&e.json, "json", false, "print JSON")
	root.AddGroup(
		&cobra.Group{ID: "sandbox", Title: "Sandboxes:"},
		&cobra.Group{ID: "build", Title: "Kernels, images and volumes:"},
		&cobra.Group{ID: "system", Title: "System:"},
	)
	wanted := subcommands()
	if i := slices.IndexFunc(wanted, func(c subcommand) bool { return len(args) > 0 && c.name == args[0] }); i >= 0 {
		wanted = wanted[i : i+1]
		root.CompletionOptions.DisableDefaultCmd = true // one more command, which is not the one either
	}
	for _, c := range wanted {
		cmd := c.make(e)
		cmd.GroupID = c.group
		root.AddCommand(cmd)
	}
	root.SetHelpCommandGroupID("system")
	root.SetCompletionCommandGroupID("system")
	return root
}

// subcommand is a command of the first level. To make all of them, with their flags, takes longer than most of them run: so one
// is made when it is needed.
type subcommand struct {
	group, name string
	make        func(*env) *cobra.Command
}

// subcommands are all commands, in the order of the help.
func subcommands() []subcommand {
	return []subcommand{
		{"sandbox", "init", initCommand},
		{"sandbox", "create", createCommand},
		{"sandbox", "start", startCommand},
		{"sandbox", "stop", stopCommand},
		{"sandbox", "restart", restartCommand},
		{"sandbox", "pause", pauseCommand},
		{"sandbox", "unpause", unpauseCommand},
		{"sandbox", "suspend", suspendCommand},
		{"sandbox", "resume", resumeCommand},
		{"sandbox", "fork", forkCommand},
		{"sandbox", "snapshot", snapshotCommand},
		{"sandbox", "rm", rmCommand},
		{"sandbox", "list", listCommand},
		{"sandbox", "inspect", inspectCommand},
		{"sandbox", "events", eventsCommand},
		{"sandbox", "stats", statsCommand},
		{"sandbox", "exec", execCommand},
		{"sandbox", "shell", shellCommand},
		{"sandbox", "run", runCommand},
		{"sandbox", "cp", cpCommand},
		{"sandbox", "port-forward", portForwardCommand},
		{"sandbox", "port", portCommand},
		{"sandbox", "logs", logsCommand},
		{"sandbox", "replay", replayCommand},
		{"sandbox", "ps", psCommand},
		{"sandbox", "kill", killCommand},
		{"sandbox", "wait", waitCommand},
		{"sandbox", "attach", attachCommand},
		{"build", "kernel", kernelCommand},
		{"build", "image", imageCommand},
		{"build", "volume", volumeCommand},
		{"build", "template", templateCommand},
		{"build", "pool", poolCommand},
		{"system", "setup", setupCommand},
		{"system", "doctor", doctorCommand},
		{"system", "daemon", daemonCommand},
		{"system", "bench", benchCommand},
		{"system", "stress", stressCommand},
		{"system", "version", versionCommand},
	}
}

// connect returns a client of the daemon, started when none runs.
func (e *env) connect(ctx context.Context) (*client.Client, error) {
	dirs, err := paths.Find(os.Getenv)
	if err != nil {
		return nil, err
	}
	return app.Connect(ctx, dirs, func(line string) { fmt.Fprintln(e.errOut, "agentkernel: warning:", line) })
}

// connectLate returns a client for running a command, which makes sure of the daemon only when that fails.
func (e *env) connectLate() (*client.Client, error) {
	dirs, err := paths.Find(os.Getenv)
	if err != nil {
		return nil, err
	}
	return app.ConnectLate(dirs, func(line string) { fmt.Fprintln(e.errOut, "agentkernel: warning:", line) }), nil
}

// printJSON prints v as indented JSON.
func (e *env) printJSON(v any) error {
	enc := json.NewEncoder(e.out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// exit says what went wrong and returns the exit code for it.
func (e *env) exit(ctx context.Context, err error) int {
	if err == nil {
		return 0
	}
	var code exitError
	if errors.As(err, &code) {
		return int(code)
	}
	status := exitOurs
	var notRun *client.ExecError
	if errors.As(err, &notRun) {
		status = notRun.Status
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		fmt.Fprintln(e.errOut, "agentkernel: interrupted")
		return 130
	}
	code2, message, hint := describe(err)
	if e.json {
		_ = json.NewEncoder(e.errOut).Encode(map[string]string{"code": code2, "message": message, "hint": hint})
		return status
	}
	fmt.Fprintf(e.errOut, "agentkernel: %s\n", message)
	if hint != "" {
		fmt.Fprintf(e.errOut, "hint: %s\n", hint)
	}
	return status
}

func describe(err error) (code, message, hint string) {
	message = strings.TrimSpace(err.Error())
	var remote *client.Error
	var local *sandbox.Error
	switch {
	case errors.As(err, &remote):
		return string(remote.Code), message, remote.Hint
	case errors.As(err, &local):
		return string(local.Kind), message, local.Hint
	case errors.Is(err, context.Canceled):
		return string(sandbox.Conflict), "interrupted", ""
	}
	return string(sandbox.Internal), message, ""
}
