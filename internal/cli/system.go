package cli

import (
	"fmt"
	"log/slog"
	"os"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/internal/app"
	"github.com/agentkernel/agentkernel/internal/paths"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

func versionCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if e.json {
				return e.printJSON(map[string]string{"version": app.Version, "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH})
			}
			_, err := fmt.Fprintln(e.out, "agentkernel", app.Version)
			return err
		},
	}
}

func daemonCommand(e *env) *cobra.Command {
	var readyFD int
	var debug bool
	cmd := &cobra.Command{
		Use: "daemon", Short: "Run the daemon in the foreground",
		Long: "Run the daemon in the foreground. Other commands start one by themselves when they need it. Sandboxes go on running\n" +
			"when it ends, and the next one finds them again.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o := app.DaemonOptions{}
			if cmd.Flags().Changed("ready-fd") {
				o.Ready = os.NewFile(uintptr(readyFD), "ready")
			}
			level := slog.LevelInfo
			if debug {
				level = slog.LevelDebug
			}
			o.Log = slog.New(slog.NewTextHandler(e.errOut, &slog.HandlerOptions{Level: level}))
			var err error
			if o.Dirs, err = paths.Find(os.Getenv); err != nil {
				return err
			}
			return app.RunDaemon(cmd.Context(), o)
		},
	}
	cmd.Flags().IntVar(&readyFD, "ready-fd", 0, "file descriptor that is told when the daemon listens")
	_ = cmd.Flags().MarkHidden("ready-fd")
	cmd.Flags().BoolVar(&debug, "debug", false, "log more")
	cmd.AddCommand(daemonStopCommand(e), daemonStatusCommand(e))
	return cmd
}

func daemonStopCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "stop", Short: "End the daemon; running sandboxes go on", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dirs, err := paths.Find(os.Getenv)
			if err != nil {
				return err
			}
			pid, err := app.StopDaemon(cmd.Context(), dirs)
			if err != nil {
				return err
			}
			if e.json {
				return e.printJSON(map[string]int{"stopped": pid})
			}
			return nil
		},
	}
}

func daemonStatusCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Say whether a daemon runs", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dirs, err := paths.Find(os.Getenv)
			if err != nil {
				return err
			}
			c, v, err := app.Running(cmd.Context(), dirs)
			if err != nil {
				return sandbox.Errorf(sandbox.NotFound, "any command that deals with sandboxes starts one", "no daemon runs")
			}
			defer c.Close()
			if e.json {
				return e.printJSON(v)
			}
			_, err = fmt.Fprintf(e.out, "daemon %s, pid %d, socket %s\n", v.Version, v.Pid, dirs.Socket())
			return err
		},
	}
}
