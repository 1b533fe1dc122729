package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/terminal"
	"github.com/agentkernel/agentkernel/pkg/client"
)

// statsPatience is how long one sandbox may take to say what it uses; its row is left open then.
const statsPatience = 2 * time.Second

func statsCommand(e *env) *cobra.Command {
	var all, watch, once bool
	var interval time.Duration
	cmd := &cobra.Command{
		Use: "stats [NAME…]", Short: "Show what running sandboxes use",
		Long: "Show what sandboxes use: those that are named, else all that run. On a terminal the table is kept up to date until\n" +
			"Ctrl-C; elsewhere it is printed once, and --watch goes on. With --json, once is an array, and --watch a line a sandbox.\n\n" +
			"CPU % is of the guest's CPUs, 100 for each that is busy, over one interval; MEM is what the guest's processes and kernel\n" +
			"have taken, beside the memory of the microVM; VMM MEM is what its process takes on this host, DISK what is written to the\n" +
			"sandbox's own disk, beside its size, PORTS I/O what its published and forwarded ports have carried to the guest and from it\n" +
			"since the daemon began, and PIDS the number of processes in the guest.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if watch && once {
				return sandbox.Errorf(sandbox.Invalid, "leave one out", "--watch and --no-stream exclude each other")
			}
			if interval < 100*time.Millisecond || interval > time.Hour {
				return sandbox.Errorf(sandbox.Invalid, "use 100ms to 1h", "--interval %v is out of range", interval)
			}
			c, err := e.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			t := &statsTable{client: c, names: args, all: all, before: map[string]client.Stats{}}
			switch screen := terminal.File(e.out); {
			case once || !watch && (screen == nil || e.json):
				return e.statsOnce(cmd.Context(), t, interval)
			case screen == nil || e.json:
				return e.statsLines(cmd.Context(), t, interval)
			default:
				return e.statsLive(cmd.Context(), t, interval)
			}
		},
	}
	fs := cmd.Flags()
	fs.BoolVarP(&all, "all", "a", false, "sandboxes that do not run, too")
	fs.BoolVar(&watch, "watch", false, "go on, also where the output is no terminal")
	fs.BoolVar(&once, "no-stream", false, "print it once, also on a terminal")
	fs.DurationVar(&interval, "interval", time.Second, "from one measurement to the next")
	return cmd
}

// statsTable measures sandboxes again and again.
type statsTable struct {
	client *client.Client
	names  []string
	all    bool
	before map[string]client.Stats // the last measurement, by id
}

// statsRow is one sandbox. CPU is nil before there are two measurements of one run.
type statsRow struct {
	client.Stats
	CPU *float64 `json:"cpu_percent,omitempty"`
}

// measure asks all sandboxes at once. A sandbox that is named and not there is an error.
func (t *statsTable) measure(ctx context.Context) ([]statsRow, error) {
	names := t.names
	if len(names) == 0 {
		list, err := t.client.List(ctx)
		if err != nil {
			return nil, err
		}
		for _, sb := range list.Sandboxes {
			if t.all || string(sb.State) == string(sandbox.Running) {
				names = append(names, sb.Name)
			}
		}
	}
	rows, errs := make([]statsRow, len(names)), make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, statsPatience)
			defer cancel()
			rows[i].Stats, errs[i] = t.client.Stats(ctx, name)
		})
	}
	wg.Wait()
	var found []statsRow
	for i, row := range rows {
		var remote *client.Error
		switch err := errs[i]; {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case errors.Is(err, context.DeadlineExceeded):
			row.Name, row.State = names[i], "no answer"
		case len(t.names) == 0 && errors.As(err, &remote) && string(remote.Code) == string(sandbox.NotFound):
			continue // removed meanwhile
		case err != nil:
			return nil, err
		}
		found = append(found, row)
	}
	now := make(map[string]client.Stats, len(found))
	for i, row := range found {
		found[i].CPU = cpuPercent(t.before[row.Id], row.Stats)
		now[row.Id] = row.Stats
	}
	t.before = now
	return found, nil
}

// cpuPercent is how busy the guest's CPUs were between two measurements.
func cpuPercent(before, now client.Stats) *float64 {
	if before.Guest == nil || now.Guest == nil {
		return nil
	}
	took, busy := now.Guest.UptimeMs-before.Guest.UptimeMs, now.Guest.CpuBusyMs-before.Guest.CpuBusyMs
	if took <= 0 || busy < 0 { // it was started anew
		return nil
	}
	percent := min(100*float64(busy)/float64(took), 100*float64(now.Guest.Cpus))
	return &percent
}

// twice measures twice, an interval apart, as CPU times are differences.
func (t *statsTable) twice(ctx context.Context, interval time.Duration) ([]statsRow, error) {
	rows, err := t.measure(ctx)
	if err != nil || len(rows) == 0 {
		return rows, err
	}
	timer := time.NewTimer(interval)
	defer timer.Stop()
	select {
	case <-timer.C:
		return t.measure(ctx)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (e *env) statsOnce(ctx context.Context, t *statsTable, interval time.Duration) error {
	rows, err := t.twice(ctx, interval)
	if err != nil {
		return err
	}
	if e.json {
		if rows == nil {
			rows = []statsRow{}
		}
		return e.printJSON(rows)
	}
	_, err = e.out.Write(table(rows))
	return err
}

// statsLines prints a table, or lines of JSON, with each interval.
func (e *env) statsLines(ctx context.Context, t *statsTable, interval time.Duration) error {
	err := atIntervals(ctx, interval, func() error {
		rows, err := t.measure(ctx)
		if err != nil {
			return err
		}
		if !e.json {
			_, err := e.out.Write(table(rows))
			return err
		}
		enc := json.NewEncoder(e.out)
		for _, row := range rows {
			if err := enc.Encode(row); err != nil {
				return err
			}
		}
		return nil
	})
	if ctx.Err() != nil {
		err = nil // Ctrl-C is how it ends
	}
	return err
}

// Control sequences: the alternate screen, and no cursor. The session switches off what is on when this ends.
const enterScreen = "\x1b[?1049h\x1b[?25l"

// statsLive keeps a table on the terminal up to date until Ctrl-C.
func (e *env) statsLive(ctx context.Context, t *statsTable, interval time.Duration) error {
	screen := terminal.File(e.out)
	interrupted := ctx
	s, ctx, err := terminal.Playback(ctx, screen, e.out)
	if err != nil {
		return err
	}
	defer s.Close()
	out := s.Writer(e.out)
	if _, err = io.WriteString(out, enterScreen); err == nil {
		err = atIntervals(ctx, interval, func() error {
			rows, err := t.measure(ctx)
			if err != nil {
				return err
			}
			size, err := terminal.SizeOf(screen)
			if err != nil {
				return err
			}
			return terminal.Redraw(out, fit(table(rows), size))
		})
	}
	var sig *terminal.SignalError
	switch {
	case interrupted.Err() != nil || errors.As(context.Cause(ctx), &sig) && sig.Signal == syscall.SIGINT:
		err = nil // Ctrl-C is how it ends
	case errors.As(context.Cause(ctx), &sig):
		err = exitError(128 + int(sig.Signal))
	}
	return errors.Join(err, s.Reset(), s.Close())
}

// atIntervals calls f at once and then with each interval, until ctx ends or f fails.
func atIntervals(ctx context.Context, interval time.Duration, f func() error) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		if err := f(); err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func table(rows []statsRow) []byte {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "NAME\tCPU %\tMEM USED / LIMIT\tVMM MEM\tDISK USED / LIMIT\tPORTS I/O\tPIDS")
	for _, r := range rows {
		cpu, mem, vmm, disk, pids := "--", "--", "--", "--", "--"
		if r.CPU != nil {
			cpu = fmt.Sprintf("%.1f%%", *r.CPU)
		}
		if r.Vmm != nil {
			vmm = size(r.Vmm.RssBytes)
		}
		if g := r.Guest; g != nil {
			mem = size(g.MemoryUsedBytes) + " / " + size(r.MemoryLimitBytes)
			disk = size(g.DiskUsedBytes) + " / " + size(r.DiskLimitBytes)
			pids = fmt.Sprint(g.Processes)
		} else if r.DiskLimitBytes > 0 {
			disk = "-- / " + size(r.DiskLimitBytes)
		}
		ports := size(r.Forwarded.ToGuestBytes) + " / " + size(r.Forwarded.FromGuestBytes)
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Name, cpu, mem, vmm, disk, ports, pids)
	}
	_ = w.Flush() // into memory
	return b.Bytes()
}

func size(n int64) string { return units.BytesSize(float64(n)) }

// fit cuts a frame to the size of a terminal.
func fit(frame []byte, size terminal.Size) []byte {
	if size.Rows == 0 || size.Cols == 0 {
		return frame
	}
	var b bytes.Buffer
	left := size.Rows - 1 // the cursor stands behind the last line
	for line := range bytes.Lines(frame) {
		if left--; left < 0 {
			break
		}
		line = bytes.TrimSuffix(line, []byte("\n"))
		for utf8.RuneCount(line) > size.Cols {
			_, n := utf8.DecodeLastRune(line)
			line = line[:len(line)-n]
		}
		b.Write(line)
		b.WriteByte('\n')
	}
	return b.Bytes()
}
