package bench

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/agentkernel/agentkernel/pkg/client"
)

// ExecResult is the outcome of Exec.
type ExecResult struct {
	Rows []Summary `json:"rows"`
	// Ratio is the median of the command line's exec over the median of docker exec; 0 when they were not compared.
	Ratio float64 `json:"ratio_to_docker,omitempty"`
	// Parallel is how many commands ran at once in the last row, and ParallelRatio its 99th percentile over the median of one
	// command alone, through the API as well; 0 when that was not measured.
	Parallel      int     `json:"parallel,omitempty"`
	ParallelRatio float64 `json:"parallel_ratio,omitempty"`
}

// Exec runs true in one running sandbox n times, through the API and through the command line (self is its program). With
// docker it runs it in a container as well, in turns, so that both meet the same noise. With parallel above 0 it then runs so
// many at once, until there have been n.
func Exec(ctx context.Context, c *client.Client, self string, n int, docker bool, parallel int, req client.CreateRequest) (r ExecResult, err error) {
	if _, err := c.Create(ctx, req); err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, c.Remove(context.WithoutCancel(ctx), req.Name, true)) }()
	if _, err := c.Start(ctx, req.Name, client.StartOptions{}); err != nil {
		return r, err
	}
	container := ""
	if docker {
		var cleanup func() error
		if container, cleanup, err = startContainer(ctx); err != nil {
			return r, err
		}
		defer func() { err = errors.Join(err, cleanup()) }()
	}
	var t Table
	const api, cli, dockerExec = "exec through the API", "agentkernel exec", "docker exec"
	for i := -1; i < n; i++ { // the first round is not counted: emulation translates code when it first runs
		began := time.Now()
		if err := execTrue(ctx, c, req.Name); err != nil {
			return r, err
		}
		viaAPI := time.Since(began)
		viaCLI, err := timeCommand(ctx, self, "exec", req.Name, "true")
		if err != nil {
			return r, err
		}
		viaDocker := time.Duration(0)
		if docker {
			if viaDocker, err = timeCommand(ctx, "docker", "exec", container, "/bin/true"); err != nil {
				return r, err
			}
		}
		if i < 0 {
			continue
		}
		t.Add(api, viaAPI)
		t.Add(cli, viaCLI)
		if docker {
			t.Add(dockerExec, viaDocker)
		}
	}
	if docker {
		r.Ratio = float64(t.Series[1].Quantile(0.5)) / float64(t.Series[2].Quantile(0.5))
	}
	if parallel > 0 {
		if err := execAtOnce(ctx, c, req.Name, n, parallel, &t); err != nil {
			return r, err
		}
		r.Parallel = parallel
		r.ParallelRatio = float64(t.Series[len(t.Series)-1].Quantile(0.99)) / float64(t.Series[0].Quantile(0.5))
	}
	r.Rows = t.Summaries()
	return r, nil
}

// execAtOnce runs true n times, in rounds of so many at once.
func execAtOnce(ctx context.Context, c *client.Client, name string, n, parallel int, t *Table) error {
	row := fmt.Sprintf("%d execs at once, each", parallel)
	type outcome struct {
		took time.Duration
		err  error
	}
	for done := 0; done < n; done += parallel {
		outcomes := make(chan outcome, parallel)
		for range parallel {
			go func() {
				began := time.Now()
				err := execTrue(ctx, c, name)
				outcomes <- outcome{time.Since(began), err}
			}()
		}
		var failed error
		for range parallel {
			o := <-outcomes
			failed = errors.Join(failed, o.err)
			t.Add(row, o.took)
		}
		if failed != nil {
			return failed
		}
	}
	return nil
}

func timeCommand(ctx context.Context, name string, args ...string) (time.Duration, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	began := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return time.Since(began), nil
}

// startContainer runs a docker container of the static busybox of this host, since no registry may be in reach.
func startContainer(ctx context.Context) (id string, cleanup func() error, err error) {
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return "", nil, fmt.Errorf("make a container image (apt-get install busybox-static): %w", err)
	}
	var image bytes.Buffer
	w := tar.NewWriter(&image)
	for _, name := range []string{"bin/true", "bin/sleep"} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(busybox))}); err != nil {
			return "", nil, err
		}
		if _, err := w.Write(busybox); err != nil {
			return "", nil, err
		}
	}
	if err := w.Close(); err != nil {
		return "", nil, err
	}
	const tag = "agentkernel-bench"
	if _, err := docker(ctx, &image, "import", "-", tag); err != nil {
		return "", nil, err
	}
	id, err = docker(ctx, &bytes.Buffer{}, "run", "-d", "--network", "none", tag, "/bin/sleep", "86400")
	if err != nil {
		return "", nil, err
	}
	return id, func() error {
		ctx := context.WithoutCancel(ctx)
		_, rmErr := docker(ctx, &bytes.Buffer{}, "rm", "-f", id)
		_, rmiErr := docker(ctx, &bytes.Buffer{}, "rmi", tag)
		return errors.Join(rmErr, rmiErr)
	}, nil
}

// docker runs a docker command and returns what it printed.
func docker(ctx context.Context, stdin *bytes.Buffer, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Stdin = stdin
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("docker %s (is dockerd running?): %w: %s", args[0], err, bytes.TrimSpace(out))
	}
	return strings.TrimSpace(string(out)), nil
}
